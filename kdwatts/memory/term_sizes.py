"""Bytes that the terms of a loss hold on a GPU, beside the student's blocks."""

from __future__ import annotations

from kdwatts.config.pair import Architecture
from kdwatts.losses.chunks import LOGIT_ELEMENTS, RELATION_ELEMENTS, SPARSE_ROWS
from kdwatts.losses.fused_kinds import KINDS
from kdwatts.memory.activations import feature_bytes
from kdwatts.memory.workload import Workload
from kdwatts.models.align import shared_vocabulary

SUPPORT_BYTES = 20
"""Bytes per token and position of a sparse teacher.

Id and log-probability take 8 as they are read, and 12 as the loss uses them.
"""
NAMED_BYTES = 128
"""Bytes per token that a term names and row of a chunk, where the fused kernel runs.

Ids, logits, shares and sums, most of them in eight bytes.
"""


def num_pairs_of(workload: Workload) -> int:
    """Number of pairs of blocks whose states are compared."""
    feature, teacher = workload.paradigm.feature, workload.pair.teacher
    if feature is None or teacher is None:
        return 0
    if feature.layers == "last":
        return 1
    depths = (workload.pair.student.architecture.num_layers, teacher.architecture.num_layers)
    return len(feature.pairs) or feature.num_pairs or min(depths)


def projector_params_of(workload: Workload) -> int:
    """Number of parameters of the projectors of all pairs."""
    feature, teacher = workload.paradigm.feature, workload.pair.teacher
    if feature is None or teacher is None:
        return 0
    mine, theirs = workload.pair.student.architecture.hidden_size, teacher.architecture.hidden_size
    each = {
        "none": 0,
        "linear": mine * theirs,
        "mlp": (mine + 1) * theirs + (theirs + 1) * theirs,
    }[feature.projector]
    return each * (
        min(num_pairs_of(workload), 1) if feature.share_projector else num_pairs_of(workload)
    )


def target_bytes_of(workload: Workload) -> float:
    """Bytes of the teacher's signals for one forward pass.

    They include the teacher's head where states from a cache need it.
    """
    paradigm, teacher = workload.paradigm, workload.pair.teacher
    if teacher is None or not paradigm.needs_signals:
        return 0.0
    value_bytes, theirs = workload.value_bytes, teacher.architecture
    per_token, head = 0.0, 0
    if response := paradigm.response:
        support = {"top_k": response.k, "sampled": response.num_samples}.get(response.support)
        # A dense one's final states, and of these the rows that count.
        per_token += SUPPORT_BYTES * support if support else 2 * value_bytes * theirs.hidden_size
        if not support and paradigm.teacher == "cached":
            head = value_bytes * theirs.vocab_size * theirs.hidden_size
    if paradigm.feature:
        share = _share_compared(workload)
        per_token += num_pairs_of(workload) * value_bytes * theirs.hidden_size * share
    if paradigm.relational and paradigm.relational.level == "attention":
        per_token += value_bytes * _projected(theirs)
    return workload.tokens * per_token + head


def compared_bytes_of(workload: Workload) -> float:
    """Bytes of one forward pass that terms on states keep for the backward pass."""
    paradigm, teacher = workload.paradigm, workload.pair.teacher
    kept, mine = 0.0, workload.pair.student.architecture
    if paradigm.feature and teacher:
        each = feature_bytes(
            paradigm.feature,
            student_width=mine.hidden_size,
            teacher_width=teacher.architecture.hidden_size,
            value_bytes=workload.value_bytes,
        )
        kept += num_pairs_of(workload) * workload.tokens * _share_compared(workload) * each
    if paradigm.relational and paradigm.relational.level == "attention":
        # The loss of relations is formed with its gradient.
        kept += 4 * workload.tokens * _projected(mine)
    elif paradigm.relational:
        # Differences of pairs, half of them and both ways, directions, and two sets of cosines.
        groups, size = _groups(workload)
        kept += 4 * groups * (2.5 * size**2 * mine.hidden_size + 2 * size**3)
    return kept


def compared_work_bytes_of(workload: Workload) -> float:
    """Bytes that comparing states takes and returns: the most of the terms, which come in turn.

    - A pair of blocks: the teacher's states in their own type and in float32, and both normalised.
    - Groups: the teacher's differences and directions, and what is made of two sets of cosines.
    - Attention: the split projections of one kind, and five copies of a chunk of relations.
    """
    paradigm, teacher = workload.paradigm, workload.pair.teacher
    if teacher is None:
        return 0.0
    mine, theirs = workload.pair.student.architecture, teacher.architecture
    works = [0.0]
    if paradigm.feature:
        per_token = (workload.value_bytes + 12) * theirs.hidden_size
        works.append(workload.tokens * _share_compared(workload) * per_token)
    if paradigm.relational and paradigm.relational.level == "attention":
        queries = 3 * mine.num_heads * mine.head_dim + 2 * theirs.num_heads * theirs.head_dim
        works.append(4 * (workload.tokens * queries + 5 * RELATION_ELEMENTS[workload.processor]))
    elif paradigm.relational:
        groups, size = _groups(workload)
        works.append(4 * groups * (2 * size**2 * theirs.hidden_size + 2 * size**3))
    return max(works)


def logits_bytes_of(workload: Workload) -> tuple[float, float]:
    """Bytes of a chunk's logits, which are kept from step to step, and of what losses make of them.

    On a GPU the fused kernel makes no copy of logits, and a little for each token that is named.
    The plain form, which runs elsewhere and for divergences that the kernel does not know, makes
    float32 copies of a block of logits. A dense teacher needs more of them.
    """
    training, response, teacher = (
        workload.training,
        workload.paradigm.response,
        workload.pair.teacher,
    )
    rows = min(training.rows_at_once, workload.tokens)
    columns = others = workload.pair.student.architecture.vocab_size
    if teacher:
        others = teacher.architecture.vocab_size
        if workload.pair.one_vocabulary:
            columns = others = shared_vocabulary(columns, others)
    dense = response.divergence if response and response.support == "dense" else None
    both = columns + others if dense else columns
    logits = float(workload.value_bytes * rows * both)
    if workload.processor == "cuda" and (dense is None or dense in KINDS):
        return logits, float(NAMED_BYTES * rows * _num_named(workload))
    # The softmax and its logarithm, and a gradient that does not fit into the logits' own type.
    copies = 2 if workload.value_bytes == 4 else 3
    if dense:
        copies = 5 if dense == "forward_kl" else 9
    block = min(rows * columns, LOGIT_ELEMENTS[workload.processor])
    return logits, 4.0 * copies * block


def _num_named(workload: Workload) -> int:
    """Tokens that the terms on logits name in one row."""
    paradigm, named = workload.paradigm, 0
    if paradigm.ce:
        named += 1
    if response := paradigm.response:
        named += {"top_k": response.k, "sampled": response.num_samples}.get(response.support, 0)
    return named


def live_teacher_bytes_of(workload: Workload) -> float:
    """Bytes that a teacher beside the student takes for its forward pass or for its logits."""
    paradigm, teacher = workload.paradigm, workload.pair.teacher
    if teacher is None or not paradigm.needs_signals or paradigm.teacher == "cached":
        return 0.0
    shape, tokens, value_bytes = teacher.architecture, workload.tokens, workload.value_bytes
    forward = forward_work_bytes(shape, tokens=tokens, value_bytes=value_bytes)
    if paradigm.response is None or paradigm.response.support == "dense":
        return forward
    return max(forward, sparse_work_bytes(shape, tokens=tokens, value_bytes=value_bytes))


def forward_work_bytes(shape: Architecture, *, tokens: int, value_bytes: int) -> float:
    """Bytes of a forward pass without gradients, beside the weights.

    They are the residual stream, its norm in float32, and the inputs of the MLP's product.
    """
    stream = (2 * value_bytes + 8) * shape.hidden_size
    return float(tokens * (stream + 3 * value_bytes * shape.intermediate_size))


def sparse_work_bytes(shape: Architecture, *, tokens: int, value_bytes: int) -> float:
    """Bytes of taking the top tokens or samples.

    They are the logits, their log-softmax and, at a temperature, copies with and without the named
    tokens.
    """
    return float((value_bytes + 16) * min(SPARSE_ROWS, tokens) * shape.vocab_size)


def _groups(workload: Workload) -> tuple[float, int]:
    """Groups of one forward pass whose relations are compared, and embeddings of each."""
    relational, training = workload.paradigm.relational, workload.training
    assert relational
    if relational.level == "token":
        return training.micro_batch, relational.tokens
    return training.micro_batch / relational.group_size, relational.group_size


def _share_compared(workload: Workload) -> float:
    feature = workload.paradigm.feature
    assert feature
    return (
        min(feature.positions / workload.training.sequence_length, 1) if feature.positions else 1.0
    )


def _projected(shape: Architecture) -> int:
    """Width of queries, keys and values side by side."""
    return (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
