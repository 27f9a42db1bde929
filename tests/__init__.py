"""Behaviour, by subject."""
