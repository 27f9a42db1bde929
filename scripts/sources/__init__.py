"""Where rides come from: the generator, JSON and TLC files; bad rides and aggregated records; Lambda events."""
