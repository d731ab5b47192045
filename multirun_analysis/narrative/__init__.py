"""Sentences: the answer, the findings, the caveats, the choice of a student."""
