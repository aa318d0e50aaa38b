"""Several methods and seeds under equal steps."""
