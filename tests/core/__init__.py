"""Tests of what every entry point shares: the ride contract, the model and the settings."""
