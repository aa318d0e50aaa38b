"""Train a configuration into a run folder."""
