"""A finished run as data: records, profiles, redraws and recommendations; knows no page."""
