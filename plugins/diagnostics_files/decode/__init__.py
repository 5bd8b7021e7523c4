"""Bytes of one file as a sample: images, videos, sound, tables and archives."""
