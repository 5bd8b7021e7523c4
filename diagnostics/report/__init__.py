"""Presentation of results: HTML, terminal text at any width, figures, progress bars."""
