"""Measurements: README.md says how to run them, RESULTS.md what they gave."""
