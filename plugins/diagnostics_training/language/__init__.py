"""Teaching an encoder by a causal decoder that answers questions from its tokens."""
