"""Bundled datasets: dynamical systems with known latent state, handwritten digits, one scene with real disparity."""
