"""Memory and operations of a run by arithmetic; no torch and no model is loaded for it."""
