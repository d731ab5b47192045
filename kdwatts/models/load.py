"""Models and tokenizers of a pair, from a hub, a folder, the package, or from nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdwatts.fingerprint import fingerprint, fingerprint_dir
from kdwatts.models.sharding import gathered
from kdwatts.paths import resolve_dir
from kdwatts.records import read_json
from kdwatts.schema import Architecture, ModelSource

ENERGY_NAME = "energy.json"
"""Beside a model that we trained: what that cost. It travels with the folder."""


def local_dir(path: str) -> Path | None:
    """The model folder that `path` names, or None for a hub id.

    Raises ValueError when `path` cannot be a hub id and no folder is there.
    """
    directory = resolve_dir(path)
    if directory.is_dir():
        return directory
    if path.startswith(("tiny:", "/", ".", "~", "$")) or path.count("/") != 1:
        raise ValueError(f"model: there is no folder {directory}; check the path or give a hub id")
    return None


def location(path: str) -> str:
    """What `from_pretrained` takes: a folder, or the hub id itself."""
    directory = local_dir(path)
    return str(directory) if directory else path


def source_fingerprint(source: ModelSource) -> str:
    """A key for the weights: the bytes of a folder, id and revision on a hub, the shape else."""
    if source.path is None:
        return fingerprint({"random": asdict(source.architecture)})
    directory = local_dir(source.path)
    if directory:
        return fingerprint_dir(directory, "*.[js]*")
    return fingerprint({"hub": source.path, "revision": source.revision})


def tokenizer_fingerprint(path: str) -> str:
    """A key for a tokenizer: the bytes of its files, its chat template included, or its hub id."""
    directory = local_dir(path)
    if directory:
        return fingerprint_dir(directory, "*token*", "chat_template*", "vocab*", "merges*")
    return fingerprint({"hub": path})


def architecture_settings(architecture: Architecture) -> dict[str, Any]:
    """The keyword arguments of a transformers configuration of this shape."""
    rope = {"rope_type": "default", "rope_theta": architecture.rope_theta}
    return {
        "num_hidden_layers": architecture.num_layers,
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.intermediate_size,
        "num_attention_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_kv_heads,
        "head_dim": architecture.head_dim,
        "vocab_size": architecture.vocab_size,
        "tie_word_embeddings": architecture.tied_head,
        "max_position_embeddings": architecture.max_positions,
        "rope_parameters": {**rope, **(architecture.rope_scaling or {})},
    }


def load_tokenizer(path: str) -> Any:
    """The fast tokenizer at `path`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(location(path))


def load_model(source: ModelSource, *, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """The causal language model of `source` on the CPU, in evaluation mode.

    Without a path it has random weights drawn from `seed`. Raises ValueError when the real
    configuration is not the architecture that the pair's file states.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if source.path is None:
        # No pad token: its embedding would get no gradient, and the end token is also an input.
        config = AutoConfig.for_model(
            source.architecture.family,
            **architecture_settings(source.architecture),
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return AutoModelForCausalLM.from_pretrained(
        location(source.path),
        config=read_architecture(source),
        revision=source.revision,
        dtype=dtype,
        use_safetensors=True,
    ).eval()


def read_architecture(source: ModelSource) -> Any:
    """The configuration beside the weights of `source`, read without them.

    Raises ValueError when it is not the architecture that the pair's file states.
    """
    from transformers import AutoConfig

    assert source.path is not None
    config = AutoConfig.from_pretrained(location(source.path), revision=source.revision)
    _check_architecture(source, config)
    return config


def _check_architecture(source: ModelSource, config: Any) -> None:
    shape = {
        "model_type": source.architecture.family,
        **architecture_settings(source.architecture),
    }
    for name, stated in shape.items():
        found: Any = getattr(config, name, None)
        if name == "head_dim":  # Qwen2 configurations leave it out.
            found = found or config.hidden_size // config.num_attention_heads
        if name == "rope_parameters":
            found = {key: found.get(key) for key in stated}
        if found != stated:
            raise ValueError(
                f"model {source.path}: its configuration has {name}={found}, the pair's file says "
                f"{stated}; correct the file in conf/model"
            )


def head_weight(model: nn.Module) -> Tensor:
    """The weight [V, D] of the output head, tied or not; of a sharded model the whole, gathered."""
    return gathered(model.get_output_embeddings().weight)  # pyright: ignore[reportCallIssue]


def head_bias(model: nn.Module) -> Tensor | None:
    """The bias [V] of the output head, where it has one."""
    bias_V = getattr(model.get_output_embeddings(), "bias", None)  # pyright: ignore[reportCallIssue]
    return None if bias_V is None else gathered(bias_V)


def num_parameters(model: nn.Module) -> int:
    """Parameters of a model, a tied head counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def read_training_energy(source: ModelSource) -> dict[str, Any] | None:
    """The energy record beside a model that we trained, or None where there is none."""
    directory = local_dir(source.path) if source.path else None
    path = directory / ENERGY_NAME if directory else None
    return read_json(path) if path and path.is_file() else None
