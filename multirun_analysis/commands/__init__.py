"""The commands of `python -m multirun_analysis`: report, choose, status, import."""
