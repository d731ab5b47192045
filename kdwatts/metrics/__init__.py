"""Formulas over measured numbers: no torch, no files, no settings.

A figure is None when it cannot be computed from what was measured. OM_perf, EPT, Eff_overall and
break-even follow arXiv 2605.13981. Each docstring names its source.
"""
