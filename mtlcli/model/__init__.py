"""Encoder, architecture and heads in one module, and predictions from it."""
