"""What a person runs: the local stack, training, and the tools around the streams."""
