"""Batch scoring for people: months in turns or side by side, tables, and a report."""
