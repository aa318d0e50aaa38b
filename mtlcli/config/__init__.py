"""Read, merge and validate recipes."""
