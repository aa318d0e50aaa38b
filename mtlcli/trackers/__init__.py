"""Trackers: what shows a run's curves elsewhere while it trains, such as TensorBoard. metrics.jsonl stays the record of the run."""
