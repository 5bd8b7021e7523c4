"""Processes beside a run's own, which pass batches and measure."""
