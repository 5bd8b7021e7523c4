"""Datasets from folders and files of the user's own."""
