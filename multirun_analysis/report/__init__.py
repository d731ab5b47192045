"""Pages: the offline report and its profiles, the Markdown page, figures as files."""
