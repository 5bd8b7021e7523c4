"""Controls: baselines that a trained encoder has to beat."""
