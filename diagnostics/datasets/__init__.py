"""Samples, their targets, and how targets lie on a grid."""
