"""Where rides come from: the generator, JSON lines and TLC files; bad rides and aggregated records; Lambda events."""
