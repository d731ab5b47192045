"""Scores of a model, and what serving it costs."""
