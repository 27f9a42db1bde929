"""Talking to AWS, real or local: shards, predictions, kept records, stacks."""
