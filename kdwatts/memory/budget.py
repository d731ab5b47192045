"""The memory plan of a run: GiB at the fullest moment of a step, and operations, by arithmetic.

Nothing is loaded, so no GPU is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdwatts.config.pair import block_weights_of
from kdwatts.memory.activations import block_bytes, checkpoint_bytes, norm_bytes
from kdwatts.memory.model_shape import (
    adapter_parameters_of,
    forward_flops_per_token,
    linear_weights_of,
    parameters_of,
    weights_bytes_of,
)
from kdwatts.memory.term_sizes import (
    compared_bytes_of,
    compared_work_bytes_of,
    live_teacher_bytes_of,
    logits_bytes_of,
    num_pairs_of,
    projector_params_of,
    target_bytes_of,
)
from kdwatts.memory.workload import Workload
from kdwatts.runtime.ranks import Launch, own_launch

GIB = 1 << 30
WEIGHT_AND_MOMENTS_BYTES = 12
"""Per trained parameter: the float32 weight and both moments of AdamW. Its gradient adds 4."""


@dataclass(frozen=True)
class Budget:
    """What a run will need on each GPU, estimated. The names state the units."""

    student_params: int
    trained_params: int
    """All of the student's parameters, or its adapters' alone. Projectors are left out."""
    teacher_params: int | None
    student_state_gib: float
    """Weights, gradients and optimizer state in float32, this rank's part.

    With adapters, the weights are as they are read.
    """
    copies_gib: float
    """The bfloat16 weights of the linear layers, which autocast makes.

    They are whole on every rank. Shards are gathered in bfloat16 and have none.
    """
    projectors_gib: float
    """The projectors of feature pairs with their optimizer state. They are whole on every rank."""
    teacher_whole_gib: float
    """Weights of the pair's teacher on one GPU, whether or not training uses it. 0 without one."""
    teacher_weights_gib: float
    """Weights of a teacher that the paradigm uses, wherever it runs. 0 without one."""
    teacher_gib: float
    """Weights of a teacher that is on the GPU during training. 0 when its signals are cached."""
    activations_gib: float
    """What blocks keep for the backward pass."""
    compared_gib: float
    """The teacher's states at the compared positions, and what terms on states keep."""
    chunk_gib: float
    """The logits of one chunk, and what is made from a block of them."""
    moments_gib: dict[str, float]
    """GiB on the GPU at each moment of a step that may be its fullest."""
    train_pflop: float
    """Operations of training, in 10^15."""
    teacher_pflop: float
    student_served_gib: float
    """Weights of the student when it is served. Each token of a decoding step reads all of them."""
    gradients_gib: float
    """The part of the student's state that comes and goes with each step."""
    keeps_gradients: bool
    """Whether gradients stay while the next forward pass runs, as under accumulation."""

    @property
    def fullest(self) -> str:
        """The moment at which the GPU holds most."""
        return max(self.moments_gib, key=lambda moment: self.moments_gib[moment])

    @property
    def total_gib(self) -> float:
        """The most GiB at once."""
        return self.moments_gib[self.fullest]


def num_shards(parallel: str, launch: Launch) -> int:
    """Into how many shards the ranks of a launch cut a model that they share so."""
    return {"ddp": 1, "fsdp": launch.ranks, "hsdp": launch.ranks_per_node}[parallel]


def estimate(workload: Workload, launch: Launch | None = None) -> Budget:
    """The memory on each GPU, in GiB, and the operations of distilling with these settings.

    The ranks of a launch share the work, one per GPU. None is the launch of this process. What is
    kept in shards is divided by the ranks that share it.
    """
    training, paradigm = workload.training, workload.paradigm
    student, teacher = workload.pair.student.architecture, workload.pair.teacher
    value_bytes = workload.value_bytes
    launch = launch or own_launch()
    student_shards = num_shards(training.parallel, launch)
    teacher_shards = num_shards(training.teacher_parallel, launch)
    student_params = trained_params = parameters_of(student)
    frozen_bytes, copied, passes = 0, linear_weights_of(student), 3.0
    if training.lora:
        trained_params = copied = adapter_parameters_of(student, training.lora)
        # A backward pass makes gradients of activations and, but for frozen weights, of weights.
        frozen_bytes, passes = student_params * value_bytes, 2.0
    is_online = paradigm.needs_signals and paradigm.teacher == "online"
    teacher_bytes = weights_bytes_of(teacher, value_bytes) if teacher else 0.0
    projector_params = projector_params_of(workload)
    if student_shards > 1:
        copied = 0
    parts = _Parts(
        held=(trained_params * WEIGHT_AND_MOMENTS_BYTES + frozen_bytes) / student_shards
        + projector_params * WEIGHT_AND_MOMENTS_BYTES
        + (teacher_bytes / teacher_shards if is_online else 0.0),
        gradients=4 * (trained_params / student_shards + projector_params),
        # All ranks share the forward passes of a step.
        keeps_gradients=training.accumulation > launch.ranks,
        copies=2 * (copied + projector_params) if value_bytes == 2 else 0,
        activations=_activation_bytes(workload),
        targets=target_bytes_of(workload),
        compared=compared_bytes_of(workload),
        gathered_bytes=value_bytes if student_shards > 1 else 0,
        whole_bytes=4 if student_shards > 1 else 0,
    )
    student_forward = forward_flops_per_token(student, training.sequence_length)
    trained_flops = passes * student_forward
    if training.gradient_checkpointing:
        # Blocks run forward twice, the head does not.
        trained_flops += student_forward - 2 * student.vocab_size * student.hidden_size
    teacher_forward = 0.0
    if teacher and paradigm.needs_signals:
        teacher_forward = forward_flops_per_token(teacher.architecture, training.sequence_length)
    return Budget(
        student_params=student_params,
        trained_params=trained_params,
        teacher_params=parameters_of(teacher.architecture) if teacher else None,
        student_state_gib=(
            (trained_params * (WEIGHT_AND_MOMENTS_BYTES + 4) + frozen_bytes) / GIB / student_shards
        ),
        copies_gib=parts.copies / GIB,
        projectors_gib=projector_params * (WEIGHT_AND_MOMENTS_BYTES + 4) / GIB,
        teacher_whole_gib=teacher_bytes / GIB,
        teacher_weights_gib=teacher_bytes / GIB if paradigm.needs_teacher else 0.0,
        teacher_gib=teacher_bytes / teacher_shards / GIB if is_online else 0.0,
        activations_gib=parts.activations / GIB,
        compared_gib=(parts.targets + parts.compared) / GIB,
        chunk_gib=sum(logits_bytes_of(workload)) / GIB,
        moments_gib={name: size / GIB for name, size in _moments(workload, parts).items()},
        train_pflop=trained_flops * training.target_tokens / 1e15,
        teacher_pflop=teacher_forward * training.target_tokens / 1e15,
        student_served_gib=weights_bytes_of(workload.pair.student, value_bytes) / GIB,
        gradients_gib=trained_params * 4 / GIB / student_shards,
        keeps_gradients=parts.keeps_gradients,
    )


@dataclass(frozen=True)
class _Parts:
    """Bytes on one GPU of what the moments of a step are made of."""

    held: float
    """All through training: weights and moments of what is trained, frozen weights, the teacher."""
    gradients: float
    keeps_gradients: bool
    copies: float
    activations: float
    targets: float
    """The teacher's states."""
    compared: float
    gathered_bytes: int
    """Of a weight that ranks put together for a moment; 0 where each has all."""
    whole_bytes: int
    """Of its whole gradient before it is cut, and of a head; 0 where each has all."""


def _moments(workload: Workload, parts: _Parts) -> dict[str, float]:
    """Bytes on one GPU at each moment of a step that may be its fullest.

    - teacher: a live teacher reads the text, before the student does.
    - loss: the head's gradient is formed, in float32, beside the head cast for its products.
    - terms: states are compared, after it.
    - backward: the last block's work, when all activations are there.
    - gradients: they are all there, and the table's, which where it is tied comes in two parts that
      are added up. The optimizer, which is fused, takes nothing beside them.
    """
    training, student = workload.training, workload.pair.student.architecture
    tokens, value_bytes = workload.tokens, workload.value_bytes
    width, lora = student.hidden_size, training.lora
    table = student.vocab_size * width
    buffers, block_of_logits = logits_bytes_of(workload)
    # Final states, the rows that count among them, and their gradient.
    state_bytes = (value_bytes if lora else 4) * width * tokens
    head_gradient, product, cast = 0, 0, 0
    if not lora:
        head_gradient = 4 * table
        if value_bytes == 2:
            cast = 2 * table + 2 * width * tokens
            # A GPU adds products to float32 directly.
            product = 0 if workload.processor == "cuda" else 2 * table
    waiting = parts.gradients if parts.keeps_gradients else 0.0
    copies = parts.copies
    held = parts.held + parts.targets + waiting + product + buffers
    forward = held + copies + parts.activations + head_gradient
    # What backward passes between blocks, and what it finds of a block's largest weights.
    between = 8 * width * tokens
    block_work = between + 2 * value_bytes * student.intermediate_size * tokens
    if not lora:
        block_work += (6 if value_bytes == 2 else 4) * width * student.intermediate_size
    # The last norm has given back what it kept, and so have the final states.
    backward = held + parts.activations - tokens * norm_bytes(student, lora=lora) + head_gradient
    if training.gradient_checkpointing:
        # The cast weights are gone, those of the block that is made again aside.
        remade = block_bytes(
            student, value_bytes=value_bytes, lora=lora, masked_length=_mask(workload)
        )
        backward += tokens * remade + copies / student.num_layers
    else:
        backward += copies
    pair_gradients = 4 * width * tokens * num_pairs_of(workload) + 4 * projector_params_of(workload)
    gathered_head = parts.whole_bytes * table
    # Its gradient, which is added up in float32, and the next block's weights.
    gathered_each = 2 * parts.gathered_bytes + parts.whole_bytes
    gathered_block = gathered_each * block_weights_of(student)
    table_gradient = 0
    if not lora:
        table_gradient = 4 * table * (2 * student.tied_head + parts.keeps_gradients)
        table_gradient = max(table_gradient, (parts.gathered_bytes + parts.whole_bytes) * table)
    return {
        "teacher": held + live_teacher_bytes_of(workload),
        "loss": forward + 3 * state_bytes + cast + block_of_logits + gathered_head,
        "terms": forward + 2 * state_bytes + parts.compared + compared_work_bytes_of(workload),
        "backward": backward + pair_gradients + block_work + gathered_block,
        "gradients": held - waiting + parts.gradients + table_gradient + between,
    }


def _activation_bytes(workload: Workload) -> float:
    """What the blocks and the last norm keep of one forward pass on one GPU."""
    training, student = workload.training, workload.pair.student.architecture
    value_bytes, lora = workload.value_bytes, training.lora
    if training.gradient_checkpointing:
        each = checkpoint_bytes(student, value_bytes=value_bytes, lora=lora)
    else:
        each = block_bytes(
            student, value_bytes=value_bytes, lora=lora, masked_length=_mask(workload)
        )
    # A mask as it is given is a byte a position and token.
    once = norm_bytes(student, lora=lora) + _mask(workload)
    return workload.tokens * (student.num_layers * each + once)


def _mask(workload: Workload) -> int:
    """Positions that a mask of attention has for each token; 0 without one.

    A GPU keeps documents apart by blocks of 128 positions, which take next to nothing.
    """
    is_masked = workload.training.respect_documents and workload.processor == "cpu"
    return workload.training.sequence_length if is_masked else 0
