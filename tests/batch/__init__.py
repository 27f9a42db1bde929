"""Tests of the batch job: its input, its output, and the plan."""
