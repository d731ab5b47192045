"""How many elements are computed at a time. The loss and the memory plan read the same figures."""

from __future__ import annotations

LOGIT_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 23}
"""Logits that losses take at a time: 4 MiB, so that a dozen passes stay in a processor's cache; on
a GPU 32 MiB, enough to fill it, so that what the losses hold besides is small there as well."""
RELATION_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 25}
"""Entries of a relation that exist at a time, three copies of them: 1 MiB in float32 where they
should stay in a processor's cache, 128 MiB on a GPU, which is to be kept busy."""
SPARSE_ROWS = 1024
"""Rows of a teacher's logits from which its top tokens or samples are taken at a time."""
ROWS_PER_FORWARD = 32
"""Rows that a teacher reads at once for a cache."""
