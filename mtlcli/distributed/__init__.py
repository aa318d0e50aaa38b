"""Several processes that train or predict together: what started them, and what they exchange."""
