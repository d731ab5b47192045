"""What it takes to start a server, and which of its flags are ours."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from kdwatts.records.serving_record import EngineRecord
from kdwatts.runtime.child_environment import child_environment


@dataclass(frozen=True)
class Plan:
    """How one server is started."""

    record: EngineRecord
    command: list[str]
    environment: Mapping[str, str]
    model: str
    """The model's name in requests."""
    dialect: str


def check_flags(key: str, flags: Sequence[str], ours: Mapping[str, str]) -> None:
    """Raise ValueError for a flag that we give. `ours` says what to do instead of each."""
    for flag in flags:
        name = flag_name(flag)
        # argparse and click take the beginning of a flag for the whole of it.
        meant = [own for own in ours if name and own.startswith(name)]
        if name in ours or len(meant) == 1:
            own = name if name in ours else meant[0]
            raise ValueError(f"{key} has {flag}, but kdwatts sets {own} itself; {ours[own]}")


def has_flag(flags: Sequence[str], names: Collection[str]) -> bool:
    """Whether one of the flags is among the flags given, as --flag, --flag=value or --no-flag."""
    given = {flag_name(flag).replace("--no-", "--", 1) for flag in flags}
    return not given.isdisjoint(names)


def value_of(flags: Sequence[str], name: str) -> str | None:
    """The value of a flag, written --flag=value or as two words. None where it is not given."""
    found = None
    for flag, following in pairwise([*flags, ""]):
        if flag_name(flag) == name:
            found = flag.partition("=")[2] or following
    return found


def server_environment(
    device_indices: Sequence[int] | None, *, same_python: bool
) -> dict[str, str]:
    """The environment of a server on some of the visible GPUs, or on the CPU for None."""
    on_cpu = device_indices is None
    environment = child_environment(device_indices, cpu=on_cpu, same_python=same_python)
    environment["PYTHONUNBUFFERED"] = "1"
    if on_cpu:
        environment.setdefault("OMP_WAIT_POLICY", "passive")
    else:
        # As NVML counts. Else the meter's first GPUs might be others than the server's.
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return environment


def local_or_hub(model: str) -> str:
    """The full path of a model's folder, or the hub id as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def weights_of(model: str, dtype: str) -> tuple[str | None, str | None]:
    """The precision and the quantisation that a model's config.json states.

    dtype stands for the precision unless it is auto. None where nothing states it.
    """
    config = _config(model)
    stated = config.get("dtype") or config.get("torch_dtype")
    quantization = config.get("quantization_config")
    method = None
    if isinstance(quantization, dict):
        method = quantization.get("quant_method") or quantization.get("quant_algo")
        bits = quantization.get("bits")
        method = f"{method}, {bits} bits" if method and bits else method
    return (stated if dtype == "auto" else dtype), method


def head_width_of(model: str) -> int | None:
    """Width of a head as a model's config.json states it. None where nothing states it."""
    config = _config(model)
    if config.get("head_dim"):
        return config["head_dim"]
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return width // heads if width and heads else None


def _config(model: str) -> dict[str, Any]:
    path = Path(model) / "config.json"
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(model, "config.json")
        except HFValidationError:  # Neither a folder nor a hub id: the engine says so.
            cached = None
        if not isinstance(cached, str):
            return {}
        path = Path(cached)
    return json.loads(path.read_text("utf-8"))


def flag_name(flag: str) -> str:
    """--flag of --flag=value, as engines read it: _ is -. Empty for a value that stands alone."""
    name = flag.partition("=")[0]
    return name.replace("_", "-") if name.startswith("-") else ""
