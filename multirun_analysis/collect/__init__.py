"""Run folders as tables: records and lines of each run, and what is kept between two readings."""
