"""The modules that only the batch job uses."""
