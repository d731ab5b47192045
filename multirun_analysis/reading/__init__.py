"""Run folders as tables: records and lines of one run, and what is kept of it between two readings.

Nothing here loads pandas, so that a reading process starts at once: tables are pyarrow's.
"""
