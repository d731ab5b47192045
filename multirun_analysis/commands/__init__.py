"""The commands beside the report: choose, status, import."""
