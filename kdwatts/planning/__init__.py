"""`until=plan`: what a run would do and need, without doing any of it."""
