"""Figures, each drawn from the table that a reader downloads."""
