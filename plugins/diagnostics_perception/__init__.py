"""Perception Encoders (arXiv 2504.13181): `pe:core-b16-224` and its kin, on images and on the frames of videos."""
