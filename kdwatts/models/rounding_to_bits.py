"""A model whose linear layers are rounded to 8 or 4 bits, in a folder that engines read.

The format is that of compressed-tensors, which rounds and packs. Only the largest weight of each
channel or group is looked for here. Embedding, norms and head stay as they are.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdwatts.config.pair import Architecture, ModelSource
from kdwatts.config.quantization_checks import group_size
from kdwatts.models.load import load_model

# O outputs of a layer, G groups of its inputs, S inputs of a group.

LIBRARY = "compressed-tensors"

SCHEMES = {"int8": "W8A8", "int4": "W4A16", "fp8": "FP8_DYNAMIC"}
"""Our name to that of the library: bits of the weights (W) and of what they multiply (A).

Weights in 8 bits have one scale for each output channel, and what they multiply is rounded to 8
bits too, with one scale for each token. Weights in 4 bits have one scale for each group of inputs,
and what they multiply keeps its 16 or 32 bits.
"""

KEPT = ("lm_head",)
"""Linear layers that are not rounded."""


def library_version() -> str | None:
    """The version of the library. None where it is not installed."""
    try:
        return version(LIBRARY)
    except PackageNotFoundError:
        return None


def check_library(quantization: str) -> None:
    """Raise RuntimeError without the library. Nothing is loaded."""
    if library_version() is None:
        raise RuntimeError(
            f"eval.serving.quantizations has {quantization}, which needs {LIBRARY}, and it is not "
            "installed; run pip install 'kdwatts[quantized]'"
        )


def recipe(quantization: str, shape: Architecture) -> dict[str, Any]:
    """What decides the bytes of a rounded model, besides its weights."""
    return {
        "quantization": quantization,
        "scheme": SCHEMES[quantization],
        "group_size": group_size(shape) if quantization == "int4" else None,
        "kept": list(KEPT),
        "compressed_tensors": library_version(),
    }


def scheme_words(quantization: str, shape: Architecture) -> str:
    """Bits of the weights and of what they multiply, such as `W4A16, groups of 128`."""
    return f"W4A16, groups of {group_size(shape)}" if quantization == "int4" else "W8A8"


def save_rounded(
    model: nn.Module, quantization: str, folder: Path, *, inputs_per_scale: int | None
) -> None:
    """Round each weight of the linear layers of `model` to the nearest, in place, and save it.

    `inputs_per_scale` is the size of a group in 4 bits. No text is read: methods that fit the
    rounding to a text keep more (GPTQ, arXiv 2210.17323; AWQ, arXiv 2306.00978).

    Raises RuntimeError for a weight that is no finite number: it would become 0.
    """
    from compressed_tensors.compressors import ModelCompressor, compress_module
    from compressed_tensors.quantization import (
        QuantizationConfig,
        apply_quantization_config,
        preset_name_to_scheme,
    )

    scheme = preset_name_to_scheme(SCHEMES[quantization], targets=["Linear"])
    assert scheme.weights
    if inputs_per_scale is not None:
        scheme.weights.group_size = inputs_per_scale
    groups: dict[str, Any] = {"linear": scheme}
    with without_bars():
        apply_quantization_config(
            model, QuantizationConfig(config_groups=groups, ignore=list(KEPT))
        )
        for name, layer in _rounded_layers(model):
            # One at a time: a whole model in float32 may not fit the memory.
            weight_OI = layer.weight.data.float()
            layer.weight_scale.data = weight_scale(weight_OI, scheme.weights)
            if not layer.weight_scale.isfinite().all():
                raise RuntimeError(
                    f"quantize: {name} has a weight that is no finite number, which {quantization} "
                    "cannot hold; train the student anew, or name another teacher"
                )
            layer.weight.data = weight_OI
            compress_module(layer)
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model, skip_compressed=True)
        saved: Any = model
        saved.save_pretrained(folder)
    compressor.update_config(str(folder))


def weight_scale(weight_OI: Tensor, scheme: Any) -> Tensor:
    """The distance of two neighbouring numbers, in float32, shape [O, G].

    The weights have shape [O, I]: O outputs, I inputs in G groups. G is 1 where a channel is one
    group. The greatest weight of the group, whatever its sign, lies at 127.5 of these distances in
    int8 and at 7.5 in int4, half a distance from what it becomes, and at 448 in fp8.
    """
    from compressed_tensors.quantization.utils import calculate_qparams

    groups_OGS = weight_OI.unflatten(1, (-1, scheme.group_size or weight_OI.shape[1]))
    least_OG, most_OG = torch.aminmax(groups_OGS, dim=-1)
    return calculate_qparams(least_OG, most_OG, scheme)[0]


def load_rounded(source: ModelSource, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The model of a folder that `save_rounded` wrote, unpacked, on its device.

    Its weights are numbers of `dtype` that take only the values of the bits. What they multiply is
    still rounded as the scheme says. So scores are those of the bits; joules and seconds are not.
    """
    with without_bars():
        model: Any = load_model(source, dtype=dtype).to(device)
        # Else its first use would do it, on the first question.
        model.hf_quantizer.compressor.decompress_model(model)
    return model


def _rounded_layers(model: nn.Module) -> list[tuple[str, Any]]:
    return [(name, one) for name, one in model.named_modules() if hasattr(one, "weight_scale")]


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep the library's progress bars from the screen: it has no option for it."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
