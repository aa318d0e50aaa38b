"""Run folders: opened, written, read."""
