"""Formulas over measured numbers: no torch, no files, no settings.

A figure that cannot be formed from what was measured is None. OM_perf, EPT, Eff_overall and
break-even follow arXiv 2605.13981; each docstring names its source.
"""
