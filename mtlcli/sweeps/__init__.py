"""Searches over the settings of a recipe: Optuna proposes, each trial is an ordinary run, several workers share one storage."""
