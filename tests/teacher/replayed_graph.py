"""A CUDA graph on the CPU: operations are noted once, and replayed on the same memory."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Graph:
    """The operations of one capture, with the tensors that each of them read and wrote."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self.operations:
            again = func(*args, **kwargs)
            for held, new in zip(_tensors(out), _tensors(again), strict=True):
                # What is in place, or a view, stands in its memory already.
                if held.data_ptr() != new.data_ptr():
                    held.copy_(new)


def _tensors(out: Any) -> list[Tensor]:
    return [one for one in (out if isinstance(out, tuple) else (out,)) if isinstance(one, Tensor)]


class Capture(TorchDispatchMode):
    """Notes operations. Afterwards the memory is as before: a capture runs nothing."""

    def __init__(self, graph: Graph, **_: Any) -> None:
        super().__init__()
        self.graph, self.before = graph, list[tuple[Tensor, Tensor]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            self.before.append((args[0], args[0].clone()))
        out = func(*args, **kwargs)
        self.graph.operations.append((func, args, kwargs, out))
        return out

    def __exit__(self, *arguments: Any) -> None:
        super().__exit__(*arguments)
        for tensor, content in reversed(self.before):
            tensor.copy_(content)


def install(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Have torch capture in this way until the test ends. The graphs that are made."""
    graphs: list[Graph] = []

    def make() -> Graph:
        graphs.append(Graph())
        return graphs[-1]

    stream = SimpleNamespace(wait_stream=lambda other: None)
    instead: dict[str, Any] = {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda _: nullcontext(),
        "CUDAGraph": make,
        "graph": Capture,
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda mode: None,
    }
    for name, value in instead.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return graphs
