"""The groups of conf/ as dataclasses, the ranges of their values, and the checks across groups."""
