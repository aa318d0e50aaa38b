"""Bootstrap intervals, paired tests, spread over seeds."""
