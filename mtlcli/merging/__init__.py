"""Merging of runs: several encoders with the same start become one, by arithmetic on their weights."""
