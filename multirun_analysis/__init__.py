"""From folders of runs to decisions: tables, a Pareto front, figures and one offline page."""
