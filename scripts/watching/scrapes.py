"""The rides that a web service has counted: one text of its /metrics, or the difference of two."""

TIMEOUT_SECONDS = 10
MAX_BYTES = 10_000_000
