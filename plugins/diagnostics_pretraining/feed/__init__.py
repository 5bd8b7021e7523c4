"""What a Perception Encoder is trained on: batches of pictures and tokens that are a function of the step."""
