"""Memory and operations of a run by arithmetic. Neither torch nor a model is loaded."""
