"""Metrics on labeled rows, comparison of runs, tables."""
