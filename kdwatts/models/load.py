"""Models and tokenizers of a pair, from a hub, a folder, the package, or from nothing."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdwatts.config.pair import Architecture, ModelSource, Pair
from kdwatts.models.access import check_tokenizer, check_weights, hub_errors_in_one_sentence
from kdwatts.models.quantization import check_quantization, loading_settings
from kdwatts.models.sharding import gathered, gathered_for_products
from kdwatts.records.files import read_json
from kdwatts.runtime.fingerprint import fingerprint, fingerprint_dir
from kdwatts.runtime.paths import resolve_dir

log = logging.getLogger(__name__)

FIXED = {
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    "qwen2": {"hidden_act": "silu", "use_sliding_window": False},
}
"""Values that are the same in all published models of a family that we build and count.

Qwen2's attention always has biases.
"""

ADAPTERS_NAME = "adapter_config.json"
"""Beside weights, this file makes transformers load the model that it names instead."""

ENERGY_NAME = "energy.json"
"""Lies beside a model that we trained and states its joules. It stays with the folder."""


def local_dir(path: str) -> Path | None:
    """The model folder that `path` names. None for a hub id.

    Raises ValueError when `path` cannot be a hub id and no such folder exists.
    """
    directory = resolve_dir(path)
    if directory.is_dir():
        return directory
    if path.startswith(("tiny:", "/", ".", "~", "$")) or path.count("/") != 1:
        raise ValueError(
            f"model: the folder {directory} does not exist; check the path, or give a hub id"
        )
    return None


def location(path: str) -> str:
    """The argument of `from_pretrained`: a folder, or the hub id itself."""
    directory = local_dir(path)
    return str(directory) if directory else path


def source_fingerprint(source: ModelSource) -> str:
    """A key for the model as it is used: its weights, and the bits they are kept in."""
    weights = weights_fingerprint(source)
    if source.quantization is None:
        return weights
    return fingerprint({"weights": weights, "quantization": source.quantization})


def weights_fingerprint(source: ModelSource) -> str:
    """A key for the weights: a folder's bytes, a hub's id and revision, or else the shape.

    Raises ValueError for a folder of adapters.
    """
    if source.path is None:
        return fingerprint({"random": asdict(source.architecture)})
    directory = local_dir(source.path)
    if directory:
        if (directory / ADAPTERS_NAME).is_file():
            raise ValueError(
                f"model {source.path} holds adapters ({ADAPTERS_NAME}) for a model in another "
                "place, whose weights would not be part of the key; merge them into a model of "
                "their own"
            )
        return fingerprint_dir(directory, "*.[js]*")
    return fingerprint({"hub": source.path, "revision": source.revision})


def tokenizer_fingerprint(pair: Pair, path: str | None = None) -> str:
    """A key for the pair's tokenizer, or for the tokenizer of its model at `path`.

    It is made from the bytes of its files, chat template included, or from hub id and revision.
    """
    path = path or pair.tokenizer
    directory = local_dir(path)
    if directory:
        return fingerprint_dir(directory, "*token*", "chat_template*", "vocab*", "merges*")
    return fingerprint({"hub": path, "revision": pair.revision_of_tokenizer(path)})


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
        "rms_norm_eps": architecture.norm_epsilon,
    }


def stated_configuration(architecture: Architecture) -> Any:
    """The transformers configuration of a model of this shape that has no weights yet."""
    from transformers import AutoConfig

    # No pad token: its embedding would get no gradient, and the end token is also an input.
    return AutoConfig.for_model(
        architecture.family,
        **architecture_settings(architecture),
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def load_tokenizer(path: str, *, revision: str | None = None) -> Any:
    """The fast tokenizer at `path`.

    Where it cannot be read, this raises what `hub_errors_in_one_sentence` raises.
    """
    from transformers import AutoTokenizer

    if local_dir(path) is None:
        _warn_unpinned("tokenizer", path, revision)
        check_tokenizer(path, revision=revision)
    with hub_errors_in_one_sentence(f"tokenizer {path}", page=path, revision=revision):
        return AutoTokenizer.from_pretrained(
            location(path), revision=revision or "main", trust_remote_code=False
        )


def pair_tokenizer(pair: Pair, path: str | None = None) -> Any:
    """The tokenizer of the pair, or of its model at `path`, at its revision."""
    path = path or pair.tokenizer
    return load_tokenizer(path, revision=pair.revision_of_tokenizer(path))


def tokenizer_location(pair: Pair, path: str) -> str:
    """The folder of a tokenizer at its revision, for libraries that accept no revision.

    A tokenizer of a hub must have been loaded before. Without a revision this is the hub id.
    """
    from huggingface_hub import try_to_load_from_cache

    revision = pair.revision_of_tokenizer(path)
    if local_dir(path) is None and revision is not None:
        found = try_to_load_from_cache(path, "tokenizer_config.json", revision=revision)
        if isinstance(found, str):
            return str(Path(found).parent)
    return location(path)


def check_readable(source: ModelSource, *, licence: str | None = None) -> None:
    """Raise one sentence unless `load_model` can read `source`. The weights are not read."""
    if source.path is None:
        return
    if source.quantization:
        check_quantization(source.path, source.quantization)
    read_architecture(source, licence=licence)
    check_weights(
        source.path,
        directory=local_dir(source.path),
        revision=source.revision,
        licence=licence,
    )


def load_model(source: ModelSource, *, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """The causal language model of `source` on the CPU, in evaluation mode.

    A quantised model is on the current CUDA device. Move any other with `quantization.on_device`. A
    source without a path has random weights, drawn from `seed`.

    Raises ValueError when the real configuration is not the architecture that the pair's file
    states.
    """
    from transformers import AutoModelForCausalLM

    if source.path is None:
        config = stated_configuration(source.architecture)
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    quantised = loading_settings(source.path, source.quantization)
    config = read_architecture(source)
    with hub_errors_in_one_sentence(
        f"model {source.path}", page=source.path, revision=source.revision
    ):
        return AutoModelForCausalLM.from_pretrained(
            location(source.path),
            config=config,
            revision=source.revision or "main",
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            **quantised,
        ).eval()


def without_weights(source: ModelSource, *, dtype: torch.dtype | None = None) -> Any:
    """The model of `source` on the device `meta`: all but its weights, for what asks it no token.

    Without `dtype` it is the one that the configuration names. Raises what `read_architecture`
    raises.
    """
    from transformers import AutoModelForCausalLM

    has_path = source.path is not None
    config = read_architecture(source) if has_path else stated_configuration(source.architecture)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype or config.dtype).eval()


def read_architecture(source: ModelSource, *, licence: str | None = None) -> Any:
    """The configuration beside the weights of `source`. The weights are not read.

    Raises ValueError when it is not the architecture that the pair's file states. Where it cannot
    be read, this raises what `access.hub_errors_in_one_sentence` raises.
    """
    from transformers import AutoConfig

    path, revision = source.path, source.revision
    assert path is not None
    if local_dir(path) is None:
        _warn_unpinned("model", path, revision)
    with hub_errors_in_one_sentence(f"model {path}", page=path, revision=revision, licence=licence):
        config = AutoConfig.from_pretrained(
            location(path), revision=revision or "main", trust_remote_code=False
        )
    _check_architecture(source, config)
    return config


@cache
def _warn_unpinned(kind: str, path: str, revision: str | None) -> None:
    """Say once that what is read of a hub may be another tomorrow."""
    if revision is None:
        log.warning(
            "%s %s has no revision, so the hub may serve other bytes tomorrow under the same key; "
            "give the commit in the pair's file",
            kind,
            path,
        )


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
                f"model {source.path} has {name}={found} in its configuration, but the pair's file "
                f"says {stated}; correct the file in conf/model"
            )
    for name, usual in FIXED[source.architecture.family].items():
        found = getattr(config, name)
        if found != usual:
            raise ValueError(
                f"model {source.path} has {name}={found} in its configuration, but models of the "
                f"family {source.architecture.family} are built and counted with {usual}; choose "
                "another model"
            )


def recompute_blocks(model: nn.Module) -> None:
    """Make a transformers model keep only the inputs of its blocks while it trains.

    The rest is computed again in the backward pass: less memory for more time.
    """
    # Transformers 5.17 only has the older name, and 5.23 warns about it.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    getattr(model, next(name for name in names if hasattr(model, name)))()


def head_weight(model: nn.Module) -> Tensor:
    """The weight [V, D] of the output head, tied or not.

    Of a sharded model it is the whole weight. Under autocast it has the values that products read.
    """
    return gathered_for_products(model.get_output_embeddings().weight)  # pyright: ignore[reportCallIssue]


def head_bias(model: nn.Module) -> Tensor | None:
    """The bias [V] of the output head. None where it has none."""
    bias_V = getattr(model.get_output_embeddings(), "bias", None)  # pyright: ignore[reportCallIssue]
    return None if bias_V is None else gathered(bias_V)


def num_parameters(model: nn.Module) -> int:
    """Number of parameters of a model. A tied head counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def read_training_energy(source: ModelSource) -> dict[str, Any] | None:
    """The energy record beside a model that we trained. None where there is none."""
    directory = local_dir(source.path) if source.path else None
    path = directory / ENERGY_NAME if directory else None
    return read_json(path) if path and path.is_file() else None
