"""How many elements are computed at a time. The loss and the memory plan read the same figures."""

from __future__ import annotations

LOGIT_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 25}
"""Logits that the plain form of the losses takes at a time.

On a CPU they are 4 MiB, so that a dozen passes stay in the processor's cache. On a GPU they are 128
MiB, so that its dozens of launches are few beside the time that each of them takes.
"""
RELATION_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 25}
"""Entries of a relation that exist at a time. There are three copies of them.

On a CPU they are 1 MiB in float32, so that they stay in the cache. On a GPU they are 128 MiB, which
keeps it busy.
"""
SPARSE_ROWS = 1024
"""Rows of a teacher's logits that give their top tokens or samples at a time."""
ROWS_PER_FORWARD = 32
"""Rows that a teacher reads at once for a cache."""
