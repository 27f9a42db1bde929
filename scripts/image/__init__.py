"""The container image: building it, running it as Lambda does, and measuring it."""
