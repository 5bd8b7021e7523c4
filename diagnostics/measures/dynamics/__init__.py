"""What a representation knows of how its input moves: its future, its state, its events."""
