"""Pages: Python makes their values, templates/ hold markup and prose; figures as files."""
