"""Trackers of mtlcli that send runs to trackio, MLflow and Weights & Biases, each through its own library."""
