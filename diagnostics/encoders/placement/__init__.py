"""Whether tokens stand for the places that a grid declares."""
