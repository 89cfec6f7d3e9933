"""Measurements; how to run them is in README.md."""
