"""What several runs say together: means, comparisons, fronts, choices, break-even."""
