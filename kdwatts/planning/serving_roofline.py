"""What a server can do under load, by the roofline of its device: an estimate with a range.

A step of an engine that batches continuously reads all weights once, and for each sequence its keys
and values. It multiplies for each sequence. The roofline (Williams, Waterman and Patterson 2009,
doi 10.1145/1498765.1498785) says that a step takes at least the longer of the two. Of a request
that writes n tokens, one step reads the prompt and gives the first token, and n - 1 steps give one
each.

The range has two ends. At the fast end reading and multiplying overlap whole, prompts are read
beside decoding, and a device reaches the higher shares of its peaks. At the slow end nothing
overlaps, and it reaches the lower ones. Each time is then the longest of one or two straight lines
in the number of sequences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kdwatts.config.pair import Architecture
from kdwatts.memory.model_shape import (
    cache_bytes_per_token,
    forward_flops_per_token,
    served_bytes_of,
    step_bytes_of,
)

BANDWIDTH_REACHED = (0.9, 0.5)
"""Shares of the peak bandwidth that decoding reaches. gpt-fast's README has 0.69 on an A100 of
2,039 GB/s, for Llama 3.1 8B in bfloat16, one sequence. The ends are our judgement."""

QUANTIZED_BANDWIDTH_REACHED = (0.9, 0.4)
"""The same for quantised weights, which are unpacked first: there 0.42 to 0.65."""

PRODUCTS_REACHED = (0.8, 1 / 3)
"""Shares of the peak rate of products. Training reaches about a third (see REACHED); large products
alone reach more. The higher end is our judgement."""

EIGHT_BITS = ("int8", "fp8")
"""Quantisations in which an engine may also multiply in 8 bits. Peak rates double with each halving
of the bytes: 989 and 1,979 TFLOP/s in 16 and 8 bits on an H100 (its data sheet). The fast end has
that rate. The slow end has not: some GPUs and engines unpack the weights and multiply in 16."""

KERNELS_PER_BLOCK = 10
"""Kernels of one block: two norms, four products, rotation, cache write, attention, activation."""

KERNELS_BESIDE = 5
"""Kernels of a step beside the blocks: embedding, norm, head, choice of a token, its copy."""

LAUNCH_S = (1e-6, 5e-6)
"""Seconds from one kernel to the next: within a CUDA graph, and where each is launched alone. Our
judgement. A small operation of torch takes about 1 microsecond on a CPU too."""

MEMORY_DRAW = (0.2, 0.43)
"""Shares of its rated power that a GPU draws while it waits for memory: 137 to 300 W of 700 W when
an H200 decodes (arXiv 2605.11999)."""

PRODUCTS_DRAW = (0.6, 1.0)
"""Shares of its rated power that a GPU draws in products. Our judgement."""

PARKED_DRAW = (0.1, 0.2)
"""Shares of its rated power that a GPU draws with a model loaded and no request. Our judgement; the
memory that is held adds 26 to 66 W (arXiv 2605.23918)."""


@dataclass(frozen=True)
class Device:
    """What computes, at its peak, or at the rates that were measured."""

    bytes_per_s: float
    """Rate at which memory is read."""
    flop_per_s: float
    """Rate of products in the precision of values that are not quantised."""
    tdp_w: float | None = None
    """Rated power; None where joules are not estimated."""
    is_memory_measured: bool = False
    """Whether `bytes_per_s` was measured on such a device, and is no peak of a data sheet."""
    are_products_measured: bool = False
    """The same for `flop_per_s`."""

    def bandwidth_reached(self, quantization: str | None) -> tuple[float, float]:
        """Shares of `bytes_per_s` that decoding reaches, at the fast and at the slow end."""
        peak = QUANTIZED_BANDWIDTH_REACHED if quantization else BANDWIDTH_REACHED
        return _of_measured(peak) if self.is_memory_measured else peak

    @property
    def products_reached(self) -> tuple[float, float]:
        """Shares of `flop_per_s`, at the fast and at the slow end."""
        return _of_measured(PRODUCTS_REACHED) if self.are_products_measured else PRODUCTS_REACHED


def _of_measured(shares_of_peak: tuple[float, float]) -> tuple[float, float]:
    """The same shares where the rate is what the device reached, and not its peak.

    At the fast end it reaches that again. The slow end keeps its distance from the fast one.
    """
    fast, slow = shares_of_peak
    return 1.0, slow / fast


@dataclass(frozen=True)
class Served:
    """A model as it is served."""

    subject: str
    architecture: Architecture
    value_bytes: int
    """Bytes of a weight that is not quantised, and of a key or value."""
    quantization: str | None = None
    """int8, fp8 or int4; None where weights are not quantised."""

    @property
    def weights_bytes(self) -> float:
        """Bytes of all weights in memory."""
        return served_bytes_of(self.architecture, self.quantization, self.value_bytes)

    @property
    def products_faster(self) -> float:
        """Times the peak rate of its values' precision at which it may multiply."""
        return self.value_bytes if self.quantization in EIGHT_BITS else 1.0


@dataclass(frozen=True)
class Tokens:
    """What a request reads and writes: means, where lengths differ."""

    prompt: float
    output: float

    @property
    def context(self) -> float:
        """Mean number of tokens that a decoding step finds in the cache."""
        return self.prompt + self.output / 2


@dataclass(frozen=True)
class Range:
    """Two ends between which a figure is expected."""

    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """Seconds or joules that grow with the number of sequences."""

    fixed: float
    each: float

    def at(self, at_once: float) -> float:
        """The quantity with so many sequences."""
        return self.fixed + self.each * at_once

    def most_within(self, limit: float) -> float:
        """The most sequences that take no more than a limit."""
        if not self.each:
            return math.inf if self.fixed <= limit else 0.0
        return (limit - self.fixed) / self.each


@dataclass(frozen=True)
class Pace:
    """One end of the range: each time is the longest of its lines, in seconds."""

    decode: tuple[Line, ...]
    """A step in which every sequence gets a token and no prompt is read."""
    answer: tuple[Line, ...]
    """All steps of a request, beside as many others as there are."""
    prompt_each_s: float
    """What another request's prompt adds to each of one's own tokens."""
    answer_j: Line | None
    """Joules of all these steps; None where the rated power is not known."""
    parked_w: float | None
    """Power without a request; None where the rated power is not known."""

    def tpot_s(self, at_once: float) -> float:
        """Seconds from one token of a request to the next."""
        return _longest(self.decode, at_once) + self.prompt_each_s * (at_once - 1)

    def answer_s(self, at_once: float) -> float:
        """Seconds from a request's first step to its last token."""
        return _longest(self.answer, at_once)

    def requests_per_s(self, at_once: float) -> float:
        """Requests that end a second, by Little's law (1961)."""
        return at_once / self.answer_s(at_once)

    def at_once(self, rate_per_s: float) -> float:
        """Mean number of requests under way where they come at a rate; infinite where they pile up.

        By Little's law it is rate x answer_s, which in turn depends on it. On a line a + b x the
        two agree at rate a / (1 - rate b), and on the longest of several lines at the largest of
        these. A request that is alone takes as long as one at once.
        """
        crowded = max(
            rate_per_s * line.fixed / (1 - rate_per_s * line.each)
            if rate_per_s * line.each < 1
            else math.inf
            for line in self.answer
        )
        return crowded if crowded >= 1 else rate_per_s * self.answer_s(1)

    def most_within(self, tpot_s: float | None, answer_s: float | None) -> float:
        """The most sequences at which a token and an answer take no longer than these limits.

        None is no limit. Below 1 where not even one request keeps them.
        """
        more_s = self.prompt_each_s
        decode = [Line(line.fixed - more_s, line.each + more_s) for line in self.decode]
        limits = ((decode, tpot_s), (self.answer, answer_s))
        return min(
            (
                line.most_within(limit_s)
                for lines, limit_s in limits
                if limit_s is not None
                for line in lines
            ),
            default=math.inf,
        )

    def request_j(self, at_once: float, *, seldom_per_s: float | None) -> float | None:
        """Joules of one request, with so many under way on average.

        Where requests come at random, `seldom_per_s` a second, none is there for exp(-at_once) of
        the time, as with servers without end (M/G/infinity), and the power of that time is theirs
        too. None where the rated power is not known.
        """
        if self.answer_j is None or self.parked_w is None:
            return None
        crowd = max(at_once, 1.0)
        parked_j = math.exp(-at_once) * self.parked_w / seldom_per_s if seldom_per_s else 0.0
        return self.answer_j.at(crowd) / crowd + parked_j


def _longest(lines: tuple[Line, ...], at_once: float) -> float:
    return max(line.at(at_once) for line in lines)


def paces(model: Served, tokens: Tokens, device: Device) -> tuple[Pace, Pace]:
    """The fast and the slow end of what a device does with a model and such requests."""
    bandwidths = device.bandwidth_reached(model.quantization)
    rates = (model.products_faster * device.flop_per_s, device.flop_per_s)
    fast, slow = (
        _seconds(model, tokens, device.bytes_per_s * memory, flop_per_s * products)
        for memory, products, flop_per_s in zip(
            bandwidths, device.products_reached, rates, strict=True
        )
    )
    kernels = KERNELS_PER_BLOCK * model.architecture.num_layers + KERNELS_BESIDE
    graph_s, alone_s = (kernels * launch_s for launch_s in LAUNCH_S)
    steps = tokens.output
    fast_memory, fast_products = _answer(fast, steps, graph_s)
    slow_memory, slow_products = _answer(slow, steps, alone_s)
    return (
        Pace(
            decode=(Line(fast.weights + graph_s, fast.cache), Line(graph_s, fast.decode)),
            answer=(fast_memory, Line(steps * graph_s, fast_products)),
            prompt_each_s=0.0,
            **_power(device, fast_memory, fast_products, end=0),
        ),
        Pace(
            decode=(Line(slow.weights + alone_s, slow.cache + slow.decode),),
            answer=(Line(slow_memory.fixed, slow_memory.each + slow_products),),
            prompt_each_s=slow.prompt / steps,
            **_power(device, slow_memory, slow_products, end=1),
        ),
    )


@dataclass(frozen=True)
class _Seconds:
    """What a step is made of, at one pair of rates."""

    weights: float
    """Reading all weights once."""
    cache: float
    """Reading the keys and values of one sequence."""
    decode: float
    """The products of one token of one sequence."""
    prompt: float
    """The products of one prompt. Only its last token goes through the head."""


def _seconds(model: Served, tokens: Tokens, bytes_per_s: float, flop_per_s: float) -> _Seconds:
    shape = model.architecture
    weights = step_bytes_of(shape, model.quantization, model.value_bytes)
    cache = cache_bytes_per_token(shape, model.value_bytes) * tokens.context
    return _Seconds(
        weights / bytes_per_s,
        cache / bytes_per_s,
        decode_flops(shape, tokens) / flop_per_s,
        prompt_flops(shape, tokens) / flop_per_s,
    )


def _answer(part: _Seconds, steps: float, launches_s: float) -> tuple[Line, float]:
    """Seconds of all steps of a request: of memory and launches, and of one sequence's products."""
    later = steps - 1
    memory = Line(steps * (part.weights + launches_s), later * part.cache)
    return memory, later * part.decode + part.prompt


def _power(device: Device, memory: Line, products_s: float, *, end: int) -> dict[str, Any]:
    """Joules of memory's seconds and of those of products: each draws what it draws alone."""
    watts = device.tdp_w
    if watts is None:
        return {"answer_j": None, "parked_w": None}
    memory_w, products_w = MEMORY_DRAW[end] * watts, PRODUCTS_DRAW[end] * watts
    each_j = memory.each * memory_w + products_s * products_w
    return {
        "answer_j": Line(memory.fixed * memory_w, each_j),
        "parked_w": PARKED_DRAW[end] * watts,
    }


def decode_flops(shape: Architecture, tokens: Tokens) -> float:
    """Operations for one more token of a sequence.

    It attends to the whole context. `forward_flops_per_token` counts half of a text, so it is given
    twice the context.
    """
    return forward_flops_per_token(shape, round(2 * tokens.context))


def prompt_flops(shape: Architecture, tokens: Tokens) -> float:
    """Operations for a prompt, which goes through the blocks whole and through the head once."""
    head = 2 * shape.vocab_size * shape.hidden_size
    return tokens.prompt * (forward_flops_per_token(shape, round(tokens.prompt)) - head) + head


def turning_point(model: Served, tokens: Tokens, device: Device) -> float | None:
    """Sequences from which the products of a decoding step take longer than its memory, at peak.

    It is weights / (products - cache), each in seconds. None where the cache takes longer than the
    products do: then more sequences never bound a step by its products.
    """
    flop_per_s = model.products_faster * device.flop_per_s
    peak = _seconds(model, tokens, device.bytes_per_s, flop_per_s)
    return peak.weights / (peak.decode - peak.cache) if peak.decode > peak.cache else None


def room_for(model: Served, tokens: Tokens, memory_bytes: float) -> int:
    """Sequences whose keys and values fit beside the weights, each at its full length."""
    each = cache_bytes_per_token(model.architecture, model.value_bytes)
    free = memory_bytes - model.weights_bytes
    return max(0, math.floor(free / (each * (tokens.prompt + tokens.output))))
