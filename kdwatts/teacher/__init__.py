"""What the teacher says, and how it is kept."""
