"""From answers and joules to figures: the steady window, intervals, verdicts. Pure functions."""
