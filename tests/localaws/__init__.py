"""Tests of the parts that play AWS."""
