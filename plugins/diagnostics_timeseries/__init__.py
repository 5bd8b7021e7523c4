"""Time-series encoders for `diagnostics`."""
