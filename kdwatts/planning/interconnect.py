"""What ranks send to each other in a step of training, and the least time that it takes.

Bytes are those of rings, by which NCCL gathers and adds up: of a tensor that N ranks put together
or add up in shards each rank sends (N - 1) / N, of one that all add up and keep twice that (NCCL
tests, doc/PERFORMANCE.md). In a ring over nodes one link of each node's ranks leads to another
node. Algorithms that send less, such as sums inside switches, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdwatts.config.experiment import Config
from kdwatts.config.machine import Gpu
from kdwatts.config.pair import Architecture
from kdwatts.memory.model_shape import adapter_parameters_of, parameters_of
from kdwatts.memory.term_sizes import projector_params_of
from kdwatts.planning.demands import workload_of
from kdwatts.runtime.ranks import Launch

GRADIENT_BYTES = 4
"""Gradients are added up in float32, in bfloat16 arithmetic too (models.sharding)."""


@dataclass(frozen=True)
class Sent:
    """Bytes that a rank sends in a step of the optimizer, on average over those of its node."""

    within: float = 0.0
    """To ranks of its node."""
    between: float = 0.0
    """To ranks of other nodes."""

    def __add__(self, other: Sent) -> Sent:
        return Sent(self.within + other.within, self.between + other.between)

    def least_s(self, gpu: Gpu) -> float | None:
        """Seconds at the full rates of the links, which work at the same time.

        None where a rate that it takes is not known.
        """
        parts = ((self.within, gpu.link_gb_s), (self.between, gpu.network_gb_s))
        needed = [(size, rate) for size, rate in parts if size]
        if any(rate is None for _, rate in needed):
            return None
        return max((size / (rate * 1e9) for size, rate in needed if rate), default=0.0)


def ring(size: float, launch: Launch) -> Sent:
    """What each rank sends of so many bytes that all gather, or add up in shards."""
    sent = size * (launch.ranks - 1) / launch.ranks
    leaving = launch.nodes / launch.ranks if launch.nodes > 1 else 0.0
    return Sent(sent * (1 - leaving), sent * leaving)


def _twice(sent: Sent) -> Sent:
    """Of a sum that all keep: it is added up in shards, and these are gathered."""
    return sent + sent


def sent_in_a_step(config: Config, launch: Launch) -> Sent:
    """What each rank sends in a step of the optimizer.

    FSDP2 gathers the weights of a block before its forward pass and once more before its backward
    pass, and adds up its gradients in shards after that (Zhao et al. 2023, arXiv 2304.11277,
    section 3). A head is gathered once. With hsdp this stays within a node, and the nodes then add
    up the gradients of their shards. All of it comes with each micro-batch. What is whole on every
    rank, a student under ddp and projectors, is added up once a step.
    """
    if launch.ranks == 1:
        return Sent()
    training, workload = config.training, workload_of(config)
    passes = training.accumulation / launch.ranks
    shape = config.model.student.architecture
    trained = parameters_of(shape)
    if training.lora:
        trained = adapter_parameters_of(shape, training.lora)
    whole = float(projector_params_of(workload))
    if training.parallel == "ddp":
        whole += trained
    sent = _twice(ring(GRADIENT_BYTES * whole, launch))
    if training.parallel != "ddp":
        gathered = workload.value_bytes * passes * _gathered_of_student(config, shape)
        # The table of a tied head gets gradients as embedding and as head.
        twice_added = _table(shape) if shape.tied_head and not training.lora else 0
        added = GRADIENT_BYTES * passes * (trained + twice_added)
        sent += ring(gathered + added, _sharers(training.parallel, launch))
        if training.parallel == "hsdp":
            nodes = Launch(launch.nodes, launch.nodes)
            sent += _twice(ring(added / launch.ranks_per_node, nodes))
    teacher, paradigm = config.model.teacher, config.paradigm
    is_live = paradigm.needs_signals and paradigm.teacher == "online"
    if teacher and is_live and training.teacher_parallel != "ddp":
        body = _gathered_of_teacher(config, teacher.architecture)
        sharers = _sharers(training.teacher_parallel, launch)
        sent += ring(workload.value_bytes * passes * body, sharers)
    return sent


def _sharers(parallel: str, launch: Launch) -> Launch:
    """The ranks that hold one whole together."""
    return launch if parallel == "fsdp" else Launch(1, launch.ranks_per_node)


def _table(shape: Architecture) -> int:
    """Weights of an embedding or a head."""
    return shape.vocab_size * shape.hidden_size


def _gathered_of_student(config: Config, shape: Architecture) -> int:
    """Weights that are gathered for one micro-batch. What is gathered twice counts twice."""
    lora, paradigm = config.training.lora, config.paradigm
    table = _table(shape)
    body = parameters_of(shape) - (0 if shape.tied_head else table)
    adapters = adapter_parameters_of(shape, lora) if lora else 0
    # A frozen embedding has no backward pass.
    backward = body + adapters - (table if lora else 0)
    head = table if paradigm.ce or paradigm.response else 0
    return body + adapters + backward + head


def _gathered_of_teacher(config: Config, shape: Architecture) -> int:
    """Weights that are gathered for one micro-batch: the body, and the head for named tokens.

    Dense logits are made of a copy of the head that each rank keeps.
    """
    response = config.paradigm.response
    body = parameters_of(shape) - (0 if shape.tied_head else _table(shape))
    return body + (_table(shape) if response and response.support != "dense" else 0)


def sending_lines(config: Config, launch: Launch, *, step_s: float | None) -> list[str]:
    """What a step sends and how long that takes at least, in words. Empty for one rank.

    `step_s` is the least time of the step's products and memory, None where it is not known.
    """
    if launch.ranks == 1:
        return []
    sent, gpu = sent_in_a_step(config, launch), config.gpu
    parts = [(sent.within, "within its node"), (sent.between, "to other nodes")]
    said = ", ".join(f"{_size(size)} {where}" for size, where in parts if size)
    lines = [f"each rank sends in a step: {said or 'nothing'} (estimated)"]
    if gpu.device == "cpu":
        return lines
    sent_s = sent.least_s(gpu)
    if sent_s is None:
        missing = [
            f"gpu.{name}"
            for name, size in (("link_gb_s", sent.within), ("network_gb_s", sent.between))
            if size and getattr(gpu, name) is None
        ]
        lines.append(f"  how long that takes is not known: gpu={gpu.name} has no {missing[0]}")
        return lines
    rates = [
        f"{rate:,.5g} GB/s {where}"
        for size, rate, where in (
            (sent.within, gpu.link_gb_s, "within a node"),
            (sent.between, gpu.network_gb_s, "between nodes"),
        )
        if size
    ]
    beside = f"; products and memory of a step take at least {step_s:,.3g} s" if step_s else ""
    lines.append(f"  that takes at least {sent_s:,.3g} s at {' and '.join(rates)}{beside}")
    return lines


def _size(num_bytes: float) -> str:
    """Bytes in GB, of small sizes in MB."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.2f} MB"
