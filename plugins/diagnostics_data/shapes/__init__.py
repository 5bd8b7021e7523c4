"""Procedural scenes and clips with exact ground truth.

`world` draws them, `render` shows them, `dataset` hands them over.
"""
