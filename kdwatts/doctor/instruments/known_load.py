"""A load whose times are known: products of matrices, counted, whole, in part or in turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

SIZE = {"cuda": 8192, "cpu": 1024}
"""Rows of the matrices. A product takes about 1.5 ms of an H100, and tens of ms of a CPU's core."""

_GROUP = {"cuda": 4, "cpu": 1}
"""Products between two looks at whether to go on. The load ends this sharply."""


class Load(Protocol):
    """Something that draws power while it is asked to."""

    place: str
    """What draws it: gpu or cpu."""

    @property
    def num_done(self) -> int:
        """Products until now."""
        ...

    def begin(self, share: float = 1.0) -> float:
        """Draw this share of the most; the monotonic time in s from which on it does."""
        ...

    def end(self) -> float:
        """Draw nothing more; the monotonic time in s from which on it does not."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


MakeLoad = Callable[[], Load]
"""Makes a load when it is needed: a GPU is idle before it."""


class Pulse(NamedTuple):
    """A time in which a load drew all it can."""

    on_s: float
    """Monotonic seconds of its begin."""
    off_s: float
    """Monotonic seconds of its end."""


class Products:
    """Products of square matrices on a GPU or on threads of the CPU.

    On a CPU a share of the load is a share of the threads. On a GPU, and on a single thread, it is
    a share of the time: pauses are as long as some products, which is less than a sensor sees.
    """

    def __init__(
        self, device: torch.device, *, num_threads: int = 1, size: int | None = None
    ) -> None:
        self.place = "gpu" if device.type == "cuda" else "cpu"
        self._device = device
        self._num_threads = num_threads
        self._group = _GROUP[device.type]
        size = size or SIZE[device.type]
        # What a run computes in on a GPU; many CPUs are slow in it.
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        made = torch.Generator(device).manual_seed(0)
        shape = (size, size)
        self._factors: list[Tensor] = [
            torch.randn(shape, generator=made, device=device, dtype=torch.float32).to(dtype)
            for _ in range(2)
        ]
        self._torch_threads = torch.get_num_threads()
        self._counts = [0] * num_threads
        self._stop = threading.Event()
        self._workers: list[threading.Thread] = []
        self._errors: list[Exception] = []
        # Libraries load at the first product, which may take a second.
        torch.matmul(*self._factors)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    @property
    def num_done(self) -> int:
        """Products until now, of all threads."""
        return sum(self._counts)

    def begin(self, share: float = 1.0) -> float:
        """Compute with this share of the threads or of the time; when that began, in s."""
        assert not self._workers, "a load begins once before it ends"
        self._stop = threading.Event()
        num_busy, share_of_time = self._num_threads, share
        if self._num_threads > 1:
            num_busy, share_of_time = max(1, round(share * self._num_threads)), 1.0
        self._workers = [
            threading.Thread(target=self._work, args=(index, share_of_time), daemon=True)
            for index in range(num_busy)
        ]
        began_s = time.monotonic()
        for worker in self._workers:
            worker.start()
        return began_s

    def end(self) -> float:
        """Stop; when the last product was done, in s. Raises what a product raised."""
        self._stop.set()
        for worker in self._workers:
            worker.join()
        self._workers = []
        if self._errors:
            raise self._errors.pop()
        return time.monotonic()

    def close(self) -> None:
        """Stop, and give the memory back."""
        self.end()
        self._factors = []
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            torch.set_num_threads(
                self._torch_threads
            )  # Each worker set it to 1 for threads to come.

    def _work(self, index: int, share: float) -> None:
        try:
            self._multiply(index, share)
        except Exception as error:
            self._errors.append(error)

    def _multiply(self, index: int, share: float) -> None:
        if self._device.type == "cpu":
            torch.set_num_threads(1)  # Of this thread: there is one for each core.
        left, right = self._factors
        out, stop = torch.empty_like(left), self._stop
        while not stop.is_set():
            began_s = time.monotonic()
            for _ in range(self._group):
                torch.matmul(left, right, out=out)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._counts[index] += self._group
            if share < 1.0:
                stop.wait((time.monotonic() - began_s) * (1 - share) / share)


def pulses(load: Load, halves_s: Sequence[float]) -> list[Pulse]:
    """Draw all and nothing in turns, each for so many seconds; when it drew.

    The turns are at absolute times, so that they do not drift.
    """
    drawn = []
    until_s = time.monotonic()
    for on_s, off_s in zip(halves_s[::2], halves_s[1::2], strict=True):
        until_s += on_s
        began_s = load.begin()
        _sleep_until(until_s)
        drawn.append(Pulse(began_s, load.end()))
        until_s += off_s
        _sleep_until(until_s)
    return drawn


def wave_s(period_s: float, seconds: float) -> list[float]:
    """The halves of a square wave, in s: whole periods, at least one."""
    return [period_s / 2] * (2 * max(1, round(seconds / period_s)))


_TURNS_S = (0.17, 0.53, 0.23, 0.81, 0.31, 0.13, 0.67, 0.29, 1.09, 0.41)


def uneven_s(seconds: float) -> list[float]:
    """Turns of unequal length, in s, about so many seconds in all.

    An even wave of a sensor's own window has one mean everywhere and says nothing. The turns are
    primes of 10 ms, so that their edges fall on all phases of a sensor renewed each 20 or 100 ms.
    """
    turns: list[float] = []
    while sum(turns) < seconds or len(turns) % 2:
        turns.append(_TURNS_S[len(turns) % len(_TURNS_S)])
    return turns


def _sleep_until(time_s: float) -> None:
    time.sleep(max(0.0, time_s - time.monotonic()))
