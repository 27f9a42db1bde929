"""The live page of ``./scripts/run --serve``: what the consumers do, counted from what they wrote."""
