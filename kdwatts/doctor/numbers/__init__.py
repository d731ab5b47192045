"""Whether the machine computes what it should: terms, a resume, cached signals."""
