"""Recipes: layers, schema, resolution, changes."""
