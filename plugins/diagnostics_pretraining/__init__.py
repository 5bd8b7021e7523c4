"""Training of Perception Encoders (arXiv 2504.13181) from images and texts, step by step of the paper's recipe."""
