"""Linear layers in 8 and 4 bits: how far a weight moves, what stays, and what a loaded model does.

Weights are unpacked here by hand, from the format's own description: int4 has eight numbers in 32
bits, the first in the lowest four, each 8 above its value.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kdwatts.config.pair import Architecture, ModelSource
from kdwatts.config.quantization_checks import group_size
from kdwatts.models import rounding_to_bits
from kdwatts.models.rounding_to_bits import (
    check_library,
    load_rounded,
    recipe,
    save_rounded,
    scheme_words,
)

LAYER = "model.layers.1.mlp.down_proj"
GROUP = 32


def _shape(**of: Any) -> Architecture:
    shape: dict[str, Any] = {
        "num_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2,
        "num_kv_heads": 2, "head_dim": 32, "vocab_size": 64, "tied_head": False,
        "max_positions": 64,
    }  # fmt: skip
    return Architecture(**(shape | of))


@pytest.fixture(scope="module")
def plain(make_llama: Callable[..., Any]) -> Any:
    """A Llama whose weights differ by orders of magnitude, as trained ones do."""
    model = make_llama(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_attention_heads=2,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=64, tie_word_embeddings=False,
        rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    torch.manual_seed(1)
    for weight in model.parameters():
        weight.data += 0.2 * torch.randn_like(weight) ** 3 * (weight.dim() > 1)
    return model.eval()


@pytest.fixture(scope="module", params=["int8", "int4", "fp8"])
def rounded(
    request: pytest.FixtureRequest, plain: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    copy = type(plain)(plain.config)
    copy.load_state_dict(plain.state_dict())
    save_rounded(
        copy, request.param, folder, inputs_per_scale=GROUP if request.param == "int4" else None
    )
    return request.param, folder


def _by_hand(folder: Path, layer: str) -> tuple[Tensor, Tensor]:
    """The rounded weights as numbers, and the scale of each, of the layer's own shape."""
    stored = load_file(folder / "model.safetensors")
    scale_OG = stored[f"{layer}.weight_scale"].float()
    packed_OP = stored.get(f"{layer}.weight_packed")
    if packed_OP is None:
        whole_OI = stored[f"{layer}.weight"].float()
    else:
        places = torch.arange(0, 32, 4, dtype=torch.int32)
        whole_OI = ((packed_OP[..., None] >> places & 15) - 8).flatten(1).float()
    scale_OI = scale_OG.repeat_interleave(whole_OI.shape[1] // scale_OG.shape[1], dim=1)
    return whole_OI * scale_OI, scale_OI


def test_no_weight_moves_by_more_than_half_of_the_distance_of_two_neighbouring_numbers(
    plain: Any, rounded: tuple[str, Path]
):
    quantization, folder = rounded
    weight_OI = plain.get_submodule(LAYER).weight.data
    found_OI, scale_OI = _by_hand(folder, LAYER)
    moved_OI = (found_OI - weight_OI).abs()
    if quantization == "fp8":
        # E4M3 has 3 bits after the point: neighbours lie 1/8 apart, relative to a power of two.
        # Below 2^-6 of a scale they lie 2^-9 of it apart.
        assert (moved_OI <= torch.maximum(weight_OI.abs() / 16, scale_OI * 2**-10) * 1.0001).all()
    else:
        assert (moved_OI <= scale_OI / 2 * 1.0001).all()
    assert moved_OI.max() > 0


def test_the_greatest_weight_of_each_channel_or_group_sets_its_scale(
    plain: Any, rounded: tuple[str, Path]
):
    quantization, folder = rounded
    weight_OI = plain.get_submodule(LAYER).weight.data
    size = GROUP if quantization == "int4" else weight_OI.shape[1]
    greatest_OG = weight_OI.unflatten(1, (-1, size)).abs().amax(-1)
    half = {"int8": 127.5, "int4": 7.5, "fp8": 448.0}[quantization]
    stored = load_file(folder / "model.safetensors")[f"{LAYER}.weight_scale"]
    torch.testing.assert_close(stored.float(), greatest_OG / half)


def test_embedding_norms_and_head_stay_as_they_are(plain: Any, rounded: tuple[str, Path]):
    stored, before = load_file(rounded[1] / "model.safetensors"), plain.state_dict()
    kept = [name for name in before if "proj" not in name]
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= set(kept)
    assert all(torch.equal(stored[name], before[name]) for name in kept)
    assert stored.keys().isdisjoint({f"{LAYER}.weight_zero_point"})


def test_a_loaded_model_multiplies_the_rounded_weights_with_what_the_scheme_rounds(
    rounded: tuple[str, Path],
):
    quantization, folder = rounded
    source = ModelSource(str(folder), None, _shape())
    model: Any = load_rounded(source, dtype=torch.float32, device=torch.device("cpu"))
    torch.manual_seed(2)
    # As a block gives it: a batch of texts, of which the library takes each token apart.
    given_BNI = torch.randn(1, 5, 96)
    input_NI = given_BNI[0]
    weight_OI, _ = _by_hand(folder, LAYER)
    if quantization == "int8":
        scale_N1 = input_NI.abs().amax(1, keepdim=True) / 127.5
        input_NI = (input_NI / scale_N1).round().clamp(-128, 127) * scale_N1
    elif quantization == "fp8":
        scale_N1 = input_NI.abs().amax(1, keepdim=True) / 448
        input_NI = (input_NI / scale_N1).to(torch.float8_e4m3fn).float() * scale_N1
    with torch.no_grad():
        found_NO = model.get_submodule(LAYER)(given_BNI)[0]
    torch.testing.assert_close(found_NO, input_NI @ weight_OI.T)


def test_weights_in_bf16_are_rounded_in_steps_of_float32(plain: Any, tmp_path: Path):
    copy = type(plain)(plain.config).to(torch.bfloat16)
    copy.load_state_dict({n: w.to(torch.bfloat16) for n, w in plain.state_dict().items()})
    weight_OI = copy.get_submodule(LAYER).weight.data.float()
    save_rounded(copy, "int8", tmp_path, inputs_per_scale=None)
    found_OI, scale_OI = _by_hand(tmp_path, LAYER)
    assert ((found_OI - weight_OI).abs() <= scale_OI / 2 * 1.0001).all()
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16


def test_a_weight_that_is_no_number_is_refused_and_names_its_layer(plain: Any, tmp_path: Path):
    copy = type(plain)(plain.config)
    copy.load_state_dict(plain.state_dict())
    copy.get_submodule(LAYER).weight.data[2, 3] = torch.nan
    with pytest.raises(RuntimeError, match=f"{LAYER} has a weight that is no finite number"):
        save_rounded(copy, "int8", tmp_path, inputs_per_scale=None)


def test_the_folder_states_the_format_that_engines_read(rounded: tuple[str, Path]):
    quantization, folder = rounded
    stated = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert stated["quant_method"] == "compressed-tensors"
    assert stated["format"] == {
        "int8": "int-quantized", "int4": "pack-quantized", "fp8": "float-quantized",
    }[quantization]  # fmt: skip
    assert stated["ignore"] == ["lm_head"]


@pytest.mark.parametrize(
    ("hidden", "inside", "size"),
    [(4096, 14336, 128), (576, 1536, 64), (96, 160, 32), (48, 128, None)],
)
def test_four_bits_share_a_scale_over_the_largest_group_that_divides_every_layer(
    hidden: int, inside: int, size: int | None
):
    shape = _shape(
        hidden_size=hidden, intermediate_size=inside, num_heads=hidden // 16, num_kv_heads=1,
        head_dim=16,
    )  # fmt: skip
    assert group_size(shape) == size


def test_the_recipe_names_all_that_decides_the_bytes():
    shape = _shape(hidden_size=128, intermediate_size=256, head_dim=64)
    four, eight = recipe("int4", shape), recipe("int8", shape)
    assert (four["group_size"], eight["group_size"]) == (128, None)
    assert four["compressed_tensors"] == rounding_to_bits.library_version()
    assert [scheme_words(one, shape) for one in ("int8", "int4")] == [
        "W8A8",
        "W4A16, groups of 128",
    ]


def test_without_the_library_it_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(rounding_to_bits, "LIBRARY", "no-such-library")
    with pytest.raises(RuntimeError, match=r"run pip install 'kdwatts\[quantized\]'"):
        check_library("int8")


def test_no_progress_bar_reaches_the_screen(
    plain: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    copy = type(plain)(plain.config)
    save_rounded(copy, "int8", tmp_path, inputs_per_scale=None)
    load_rounded(
        ModelSource(str(tmp_path), None, _shape()), dtype=torch.float32, device=torch.device("cpu")
    )
    said = capfd.readouterr()
    assert "ompress" not in said.err + said.out
