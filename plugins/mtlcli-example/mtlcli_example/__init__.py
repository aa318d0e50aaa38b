"""A task, a balancer and a head for mtlcli: the distribution to copy."""
