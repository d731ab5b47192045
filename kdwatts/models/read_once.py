"""A model that one rank of each node reads, and that the node's other ranks get from it.

The other ranks begin with an outline, a model on the device `meta`. Its tensors are sent one by
one. Where a model is cut, a rank keeps its shard of each, so no rank but the reader has more than
one whole tensor at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from kdwatts.models.quantization import on_device
from kdwatts.models.sharding import cut, part_of
from kdwatts.models.sharing import Sharing

READ_PATIENCE = timedelta(hours=6)
"""How long ranks wait for those that read: 140 GB from a slow file system take an hour."""


def read_once(
    load: Callable[[], nn.Module],
    outline: Callable[[], nn.Module],
    device: torch.device,
    sharing: Sharing,
) -> nn.Module:
    """The model that `load` gives on the CPU, on this rank's device, as ranks share it.

    `outline` makes the same model without reading: it is called under the device `meta`. The
    first rank of each node calls `load`. Every rank must call this. A process that is alone
    loads.

    Raises what `load` raises, and on the other ranks RuntimeError, when a rank cannot read.
    """
    if not distributed.is_initialized():
        return on_device(load(), device)
    with _own_node(sharing) as (reader, group):
        is_reader = distributed.get_rank() == reader
        model = None
        if sharing.cuts or not is_reader:
            with torch.device("meta"):
                model = outline()
        source = _loaded(load if is_reader else None)
        if model is None:
            assert source is not None
            model = on_device(source, device)
        else:
            if sharing.cuts:
                cut(model, device, sharing)
            _make_room(model, device)
        _send(source, model, reader, group)
    return model


def _loaded(load: Callable[[], nn.Module] | None) -> nn.Module | None:
    """What `load` gives on a rank that reads, once all that read are done."""
    source, error = None, None
    try:
        source = load() if load else None
    except Exception as raised:
        error = raised
    # Reading may take longer than any step: this wait has a patience of its own.
    everyone: Any = distributed.new_group(backend="gloo", timeout=READ_PATIENCE)
    failed = torch.tensor([float(error is not None)])
    distributed.all_reduce(failed, group=everyone)
    distributed.destroy_process_group(everyone)
    if error:
        raise error
    if failed.item():
        raise RuntimeError("the model was not read: see the error of the rank that reads it")
    return source


@contextmanager
def _own_node(sharing: Sharing) -> Iterator[tuple[int, Any]]:
    """The reader of this rank's node and the group of the node's ranks, while they share."""
    own, group = 0, None
    for ranks in sharing.ranks_by_node:
        made: Any = distributed.new_group(list(ranks))  # Every rank takes part in making each.
        if distributed.get_rank() in ranks:
            own, group = ranks[0], made
    yield own, group
    # On a GPU a group takes memory that no plan counts.
    distributed.destroy_process_group(group)


@torch.no_grad()
def _make_room(model: nn.Module, device: torch.device) -> None:
    """Give a model on `meta` tensors without values on `device`. What is tied stays tied."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    model.to_empty(device=device)
    for first, *others in names.values():
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, model.get_parameter(first))


@torch.no_grad()
def _send(source: nn.Module | None, model: nn.Module, reader: int, group: Any) -> None:
    """Fill `model` on every rank of the group from the reader's `source`."""
    given = _tensors(source) if source else {}
    wanted = _tensors(model)
    if source:
        assert given.keys() == wanted.keys(), given.keys() ^ wanted.keys()
    _send_settings(source, model, reader, group)
    for name, tensor in wanted.items():
        if model is source:
            distributed.broadcast(tensor, reader, group)
            continue
        whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        if source:
            whole.copy_(given[name])
            given[name].data = torch.empty(0, dtype=tensor.dtype)
        distributed.broadcast(whole, reader, group)
        tensor.copy_(part_of(whole, tensor))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each once, by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _send_settings(source: nn.Module | None, model: nn.Module, reader: int, group: Any) -> None:
    """Give all ranks the settings for writing, which `load` finds beside the weights."""
    settings: Any = getattr(source or model, "generation_config", None)
    if settings is None:
        return
    text = json.dumps(settings.to_dict()).encode() if source else b""
    size = torch.tensor([len(text)])
    distributed.broadcast(size, reader, group)
    sent = torch.zeros(int(size), dtype=torch.uint8)
    if source:
        sent.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    distributed.broadcast(sent, reader, group)
    if model is not source:
        values = json.loads(bytes(sent.tolist()))
        model.generation_config = type(settings).from_dict(values)  # pyright: ignore
