"""Talking to AWS, real or local: reading streams, putting and replaying records, the failures bucket, stacks."""
