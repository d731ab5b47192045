"""Tensors that say `cuda:0` and hold a CPU tensor, and what becomes of operations on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.pretend_cuda import pinned
from tests.pretend_cuda.ledger import is_counting, note, place, synchronised

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)

WAITING = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten.equal.default: "equal",
    aten.is_nonzero.default: "is_nonzero",
    aten.bincount.default: "bincount",
    aten._unique2.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.unique_dim.default: "unique",
}
"""The host waits for the device, as it needs their result or its size. What each is called here."""
INDEXING = {
    *(aten.index.Tensor, aten.index_put.default, aten.index_put_.default),
    *(aten._index_put_impl_.default, aten._unsafe_index.Tensor),
}


class Mixed(RuntimeError):
    """Operands of one operation lie on the device and on the CPU."""


class OnDevice(Tensor):
    """A tensor of the pretended device."""

    held: Tensor
    """The CPU tensor with its numbers."""

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=CUDA,
            requires_grad=False,
        )
        made.held = held
        return made

    def __init__(self, held: Tensor) -> None:
        pass

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("a tensor of the device is pickled; move it to the CPU first")

    def tolist(self) -> Any:
        synchronised("tolist")
        return self.held.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return operate(func, args, kwargs or {})


class Pretended(TorchDispatchMode):
    """Inside this context tensors can be made on, and moved to, the pretended device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        named = kwargs.get("device")
        is_named = named is not None and torch.device(named).type == "cuda"
        # Types are those of tensors alone.
        if is_named or OnDevice in types or any(isinstance(o, OnDevice) for o in tensors_of(args)):
            return operate(func, args, kwargs)
        out = func(*args, **{**kwargs, "pin_memory": False} if "pin_memory" in kwargs else kwargs)
        if kwargs.get("pin_memory"):
            pinned.mark(out)
        return out


def operate(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The operation's result, computed on the CPU. It lies where the real one's would.

    Raises Mixed for operands on both sides, but for those that CUDA reads from the host: a number,
    the source of a copy, an index.
    """
    operands = [*tensors_of(args), *tensors_of(kwargs)]
    on_device = [one for one in operands if isinstance(one, OnDevice)]
    on_host = [one for one in operands if not isinstance(one, OnDevice)]
    named = kwargs.get("device")
    target = torch.device(named).type if named is not None else None
    if is_counting():
        note("operations", str(func))
    if func is aten._to_copy.default:
        return _moved(args[0], kwargs, target or args[0].device.type)
    if func is aten.copy_.default:
        # Into memory of the host that is not page-locked the copy waits all the same.
        may_not_wait = args[0].device.type == "cuda" or pinned.is_marked(args[0])
        non_blocking = _third(args, kwargs) and may_not_wait
        _note_copy(args[1], args[0].device.type, non_blocking=non_blocking)
    elif func in INDEXING:
        _note_indices(args[1])
    elif any(host.dim() for host in on_host) and on_device:
        shapes = [tuple(host.shape) for host in on_host if host.dim()]
        raise Mixed(f"{func} of the device's tensors and of the CPU's {shapes} at {place()}")
    if func in WAITING:
        synchronised(WAITING[func])
    elif func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
        synchronised("repeat_interleave")

    plain_args, plain_kwargs = _each(_held, (args, kwargs))
    if target == "cuda":
        plain_kwargs = {**plain_kwargs, "device": torch.device("cpu")}
    plain_kwargs = {k: v for k, v in plain_kwargs.items() if k != "pin_memory"}
    out = func(*plain_args, **plain_kwargs)
    if target == "cpu":
        return out
    # What an operation in place returns is its operand itself.
    known = {id(one.held): one for one in on_device}

    def wrapped(one: Any) -> Any:
        if not isinstance(one, Tensor) or isinstance(one, OnDevice):
            return one
        if one.dtype == torch.float64 and is_counting():
            note("float64", (str(func), str(tuple(one.shape)), place()))
        return known[id(one)] if id(one) in known else OnDevice(one)

    return _each(wrapped, out)


def tensors_of(arguments: Any) -> list[Tensor]:
    """The tensors among the arguments of an operation, and in its lists of tensors."""
    if isinstance(arguments, Tensor):
        return [arguments]
    if isinstance(arguments, Mapping):
        arguments = arguments.values()
    elif not isinstance(arguments, tuple | list):
        return []
    return [one for part in arguments for one in tensors_of(part)]


def _each(change: Callable[[Any], Any], arguments: Any) -> Any:
    """The arguments with every leaf changed. Torch's own `tree_map` would take most of the time."""
    if isinstance(arguments, tuple | list):
        return type(arguments)([_each(change, one) for one in arguments])
    if isinstance(arguments, dict):
        return {name: _each(change, one) for name, one in arguments.items()}
    return change(arguments)


def _held(one: Any) -> Any:
    return one.held if isinstance(one, OnDevice) else one


def _third(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))


def _moved(source: Tensor, kwargs: Mapping[str, Any], target: str) -> Tensor:
    """The result of `.to()`."""
    _note_copy(source, target, non_blocking=bool(kwargs.get("non_blocking")))
    left = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking", "pin_memory")}
    out = aten._to_copy.default(_held(source), **left)
    if target != "cuda":
        return out
    if out.dtype == torch.float64 and is_counting():
        note("float64", ("to", str(tuple(out.shape)), place()))
    return OnDevice(out)


def _note_copy(source: Tensor, target: str, *, non_blocking: bool) -> None:
    """A copy between host and device waits, unless it reads page-locked memory and need not wait.

    From other memory the driver may first wait for the stream (CUDA Runtime API, section "API
    synchronization behavior").
    """
    origin = source.device.type
    if origin == target or not source.numel():
        return
    if non_blocking:
        # The other way, `.to()` copies into page-locked memory of its own.
        if target == "cuda" and not pinned.is_marked(source):
            synchronised("copy cpu->cuda of pageable memory")
        return
    synchronised(f"copy {origin}->{target}")


def _note_indices(indices: Sequence[Tensor | None]) -> None:
    for index in indices:
        if index is None:
            continue
        if index.dtype in (torch.bool, torch.uint8):
            synchronised("boolean index")
        elif not isinstance(index, OnDevice):
            synchronised("index on the CPU")
