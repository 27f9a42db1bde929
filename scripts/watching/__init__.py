"""Watching a live model: windows of its rides from streams, logs, metrics and batch outputs, and what they say."""
