"""What a run writes to its folder: the schema, and how the files are written."""
