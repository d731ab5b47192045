"""What a model of a given shape weighs and costs, by arithmetic: parameters, memory, operations.

Nothing is loaded for it, so it can be asked before a card is at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdwatts.config import Config
from kdwatts.launch import launched
from kdwatts.schema import Architecture, Lora, ModelSource

GIB = 1 << 30
WEIGHT_AND_ADAM_BYTES = 16
"""Per trained parameter: float32 weight, gradient and both moments of AdamW."""


def parameters_of(architecture: Architecture) -> int:
    """Parameters of a model of this shape, a tied head counted once.

    Per block: query, key, value and output projections, three MLP matrices, two norms, and for
    Qwen2 the biases of query, key and value.
    """
    shape = architecture
    beside = 2 * shape.hidden_size
    if shape.family == "qwen2":
        beside += (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    blocks = linear_weights_of(shape) + shape.num_layers * beside
    tables = shape.vocab_size * shape.hidden_size * (1 if shape.tied_head else 2)
    return blocks + tables + shape.hidden_size


def linear_weights_of(architecture: Architecture) -> int:
    """Weights of the linear layers of all blocks: what quantisation makes smaller."""
    shape = architecture
    query, key_value = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    per_block = shape.hidden_size * (2 * query + 2 * key_value + 3 * shape.intermediate_size)
    return shape.num_layers * per_block


def weights_bytes_of(source: ModelSource, value_bytes: int) -> float:
    """Bytes of a model's weights: `value_bytes` each, of quantised linear layers 1 or 1/2.

    The scales of quantised blocks, a few per cent, are left out.
    """
    linear_bytes = {None: value_bytes, "int8": 1.0, "int4": 0.5}[source.quantization]
    linear = linear_weights_of(source.architecture)
    return linear * linear_bytes + (parameters_of(source.architecture) - linear) * value_bytes


def adapter_parameters_of(architecture: Architecture, lora: Lora) -> int:
    """Parameters of the adapters: rank times inputs plus outputs of every target layer."""
    shape = architecture
    query, key_value = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    hidden, inner = shape.hidden_size, shape.intermediate_size
    ends = {
        "q_proj": hidden + query,
        "k_proj": hidden + key_value,
        "v_proj": hidden + key_value,
        "o_proj": query + hidden,
        "gate_proj": hidden + inner,
        "up_proj": hidden + inner,
        "down_proj": inner + hidden,
    }
    return shape.num_layers * lora.rank * sum(ends[name] for name in lora.targets)


def forward_flops_per_token(architecture: Architecture, sequence_length: int) -> float:
    """Floating-point operations of one forward pass, per token.

    Two per weight of blocks and head (embedding look-ups cost none), and 4 D T / 2 per block for
    causal attention at length T over a query width D (Kaplan et al. 2020, arXiv 2001.08361,
    section 2.1).
    """
    shape = architecture
    tables = shape.vocab_size * shape.hidden_size
    matrices = parameters_of(shape) - tables * (1 if shape.tied_head else 2)
    attention = 2 * shape.num_layers * shape.num_heads * shape.head_dim * sequence_length
    return 2 * (matrices + tables) + attention


@dataclass(frozen=True)
class Budget:
    """What a run will need, estimated; units in the names."""

    student_params: int
    trained_params: int
    """All of the student's, or its adapters' alone; projectors are left out."""
    teacher_params: int | None
    student_state_gib: float
    """Weights, gradients and optimizer state in float32, this rank's part; under adapters, weights
    as read."""
    projectors_gib: float
    """Of feature pairs, with their optimizer state: whole on every rank."""
    teacher_weights_gib: float
    """Weights of the teacher wherever it runs; 0 without one."""
    teacher_gib: float
    """Weights of a teacher that is on the card during training; 0 when its signals are cached."""
    activations_gib: float
    chunk_gib: float
    """Logits of one chunk, and what is made of them."""
    train_pflop: float
    teacher_pflop: float
    student_served_gib: float
    """Weights of the student when it is served: read once for every token of a decoding step."""
    gradients_gib: float
    """Part of the student's state that comes and goes with each step."""
    keeps_gradients: bool
    """Whether gradients wait while the next forward pass runs, as under accumulation."""

    @property
    def total_gib(self) -> float:
        """The most at once: at the loss, or at the optimizer, which works on a copy of its size."""
        at_loss_gib = self.student_state_gib + self.activations_gib + self.chunk_gib
        if not self.keeps_gradients:
            at_loss_gib -= self.gradients_gib
        at_optimizer_gib = self.student_state_gib + self.gradients_gib
        return self.teacher_gib + self.projectors_gib + max(at_loss_gib, at_optimizer_gib)


def _num_pairs(config: Config) -> int:
    """Pairs of blocks whose states are compared."""
    feature, teacher = config.paradigm.feature, config.model.teacher
    if feature is None or teacher is None:
        return 0
    if feature.layers == "last":
        return 1
    depths = (config.model.student.architecture.num_layers, teacher.architecture.num_layers)
    return len(feature.pairs) or feature.num_pairs or min(depths)


def _pair_bytes(config: Config, value_bytes: int) -> float:
    """Bytes per token that one pair keeps: four rows of the teacher's width, of positions compared.

    Its target, what is projected, and both normalised.
    """
    feature, teacher = config.paradigm.feature, config.model.teacher
    if feature is None or teacher is None:
        return 0.0
    share = feature.positions / config.training.sequence_length if feature.positions else 1.0
    return 4 * teacher.architecture.hidden_size * value_bytes * min(share, 1.0)


def estimate(config: Config, *, ranks: int | None = None) -> Budget:
    """The memory on each card and the operations of distilling this configuration.

    `ranks` share the work, one a card; None is those of this launch. Under several what is kept in
    shards is divided by them; a block that is put together for a moment is not counted.

    Activations: about 34 D + 5 F bytes per token and block without checkpointing, at two bytes a
    value (Korthikanti et al. 2022, arXiv 2205.05198, section 4.1, its attention term left out as
    fused attention keeps no score matrix); with it, the block inputs and one block's activations.
    tests/bench/plan_memory.py holds the sum against live tensors.
    """
    training, paradigm = config.training, config.paradigm
    feature = paradigm.feature
    student = config.model.student.architecture
    teacher = config.model.teacher.architecture if config.model.teacher else None
    value_bytes = 2 if training.precision == "bf16" else 4
    tokens = training.micro_batch * training.sequence_length
    per_block = (17 * student.hidden_size + 2.5 * student.intermediate_size) * value_bytes
    num_pairs, pair_bytes = _num_pairs(config), _pair_bytes(config, value_bytes)
    if training.gradient_checkpointing:
        activations = student.num_layers * student.hidden_size * value_bytes + per_block
        # The last pair's are gone when the last block is made again.
        activations += max(num_pairs - 1, 0) * pair_bytes
    else:
        activations = student.num_layers * per_block + num_pairs * pair_bytes
    if training.respect_documents:
        # The mask of a row is T bytes a token, and twice that where a kernel wants it added.
        activations += 3 * training.sequence_length
    num_ranks = launched().world if ranks is None else ranks
    student_shards = num_ranks if training.parallel == "fsdp" else 1
    teacher_shards = num_ranks if training.teacher_parallel == "fsdp" else 1
    student_params = trained_params = parameters_of(student)
    frozen_bytes, passes = 0, 3.0
    if training.lora:
        trained_params = adapter_parameters_of(student, training.lora)
        # A backward pass makes gradients of activations and, but for frozen weights, of weights.
        frozen_bytes, passes = student_params * value_bytes, 2.0
    num_projectors = min(num_pairs, 1) if feature and feature.share_projector else num_pairs
    projector_params = (
        num_projectors * student.hidden_size * (teacher.hidden_size if teacher else 0)
    )
    scorer = teacher if paradigm.needs_signals else None
    is_online = paradigm.needs_signals and paradigm.teacher == "online"
    source = config.model.teacher
    teacher_gib = weights_bytes_of(source, value_bytes) / GIB if source else 0.0
    student_forward = forward_flops_per_token(student, training.sequence_length)
    teacher_forward = forward_flops_per_token(scorer, training.sequence_length) if scorer else 0.0
    return Budget(
        student_params=student_params,
        trained_params=trained_params,
        teacher_params=parameters_of(teacher) if teacher else None,
        student_state_gib=(
            (trained_params * WEIGHT_AND_ADAM_BYTES + frozen_bytes) / GIB / student_shards
        ),
        projectors_gib=projector_params * WEIGHT_AND_ADAM_BYTES / GIB,
        teacher_weights_gib=teacher_gib if paradigm.needs_teacher else 0.0,
        teacher_gib=teacher_gib / teacher_shards if is_online else 0.0,
        activations_gib=tokens * activations / GIB,
        # Logits, their gradient and a working copy; beside them the teacher's.
        chunk_gib=(4 if paradigm.response else 3)
        * training.chunk_rows
        * student.vocab_size
        * 4
        / GIB,
        train_pflop=passes * student_forward * training.target_tokens / 1e15,
        teacher_pflop=teacher_forward * training.target_tokens / 1e15,
        student_served_gib=parameters_of(student) * value_bytes / GIB,
        gradients_gib=trained_params * 4 / GIB / student_shards,
        # All ranks share the forward passes of a step.
        keeps_gradients=training.accumulation > num_ranks,
    )
