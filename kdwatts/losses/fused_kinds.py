"""The divergences that the fused kernel knows, and the bytes of logits that each of them moves."""

from __future__ import annotations

NONE, FORWARD_KL, REVERSE_KL, JSD, SKEW_KL, SKEW_REVERSE_KL, TOTAL_VARIATION, TOP_K = range(8)
KINDS = {
    "forward_kl": FORWARD_KL,
    "reverse_kl": REVERSE_KL,
    "jsd": JSD,
    "skew_kl": SKEW_KL,
    "skew_reverse_kl": SKEW_REVERSE_KL,
    "total_variation": TOTAL_VARIATION,
}
"""Dense divergences by name. The others are terms that name tokens."""
BLOCK = 4096
"""Logits that one program reads at a time: 8 for each of its threads."""
NUM_WARPS = BLOCK // 8 // 32
"""Warps of a program, 32 threads each."""
STAGES = 3
"""Blocks of a row on their way at a time, one of them in use."""


def passes_of(kind: int) -> int:
    """How often the kernel goes over a row: the sums, one more sum where needed, the gradient."""
    return 3 if kind in (JSD, SKEW_KL, SKEW_REVERSE_KL, TOTAL_VARIATION) else 2


def bytes_per_logit(kind: int, *, vocabulary: int, value_bytes: int = 2) -> float:
    """Bytes read and written in GPU memory per token of the vocabulary and row, with the gradient.

    Each pass reads the student's logits, and the teacher's where the divergence is dense. The last
    pass writes. A pass does not read the block at which the one before it ended. What the GPU's
    cache still holds besides is counted as if it came from memory.
    """
    sides = 1 if kind in (NONE, TOP_K) else 2
    passes = passes_of(kind)
    kept = min(1.0, BLOCK / vocabulary)
    return value_bytes * (sides * (passes - (passes - 1) * kept) + 1)


def product_flop_per_logit(*, student_width: int, teacher_width: int = 0) -> float:
    """Operations of the head's products per token and row, in FLOP.

    They are the student's logits, the gradients of its states and of its head, and the teacher's
    logits.
    """
    return 6.0 * student_width + 2.0 * teacher_width
