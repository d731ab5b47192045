"""Quantised teachers as far as a machine without a GPU can tell: settings, keys, sizes, refusals.

Loading one, and what it then says, needs bitsandbytes and a CUDA device.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from kdwatts.artifacts.manifest import write_manifest
from kdwatts.artifacts.store import Store
from kdwatts.cli import prefetch
from kdwatts.config.pair import ModelSource
from kdwatts.memory.budget import estimate
from kdwatts.memory.generation_budget import estimate_writing
from kdwatts.memory.model_shape import linear_weights_of, parameters_of, weights_bytes_of
from kdwatts.models import quantization
from kdwatts.models.initial import student_fingerprint
from kdwatts.models.load import check_readable, load_model, source_fingerprint
from kdwatts.models.quantization import bits_and_bytes, loading_settings, on_device
from kdwatts.planning.demands import workload_of
from kdwatts.planning.describe import describe
from kdwatts.records.files import read_json
from kdwatts.stages import distill, evaluate, generate, inference, teacher
from kdwatts.telemetry.node_facts import facts_of_this_node

BITS = ("int8", "int4")
GPU = ("gpu=h100", "training=smoke")


def quantised(bits: str | None) -> str:
    return f"model.teacher.quantization={bits or 'null'}"


def test_bits_are_told_to_transformers_and_four_are_normal_floats_computed_in_bfloat16():
    assert loading_settings("org/model", None) == {}
    eight, four = bits_and_bytes("int8"), bits_and_bytes("int4")
    assert (eight.load_in_8bit, eight.load_in_4bit) == (True, False)
    assert (four.load_in_8bit, four.load_in_4bit) == (False, True)
    assert (four.bnb_4bit_quant_type, four.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)


def test_a_quantised_model_is_left_where_it_was_loaded():
    model = torch.nn.Linear(2, 2)
    assert on_device(model, torch.device("meta")).weight.device.type == "meta"
    model = torch.nn.Linear(2, 2)
    model.is_quantized = True  # pyright: ignore[reportAttributeAccessIssue]
    assert on_device(model, torch.device("meta")).weight.device.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("bits", BITS)
def test_without_library_or_gpu_it_is_refused_before_anything_is_read(
    bits: str, configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    source = configure(*GPU, quantised(bits)).model.teacher
    asked = f"model tiny:teacher with quantization={bits} needs"
    remedy = "set model.teacher.quantization=null"
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    for read in (check_readable, lambda source: load_model(source, dtype=torch.bfloat16)):
        with pytest.raises(RuntimeError) as caught:
            read(source)
        assert str(caught.value) == (
            f"{asked} bitsandbytes, which is not installed; install it with `pip install "
            f"kdwatts[quantized]`, or {remedy}"
        )
    monkeypatch.setattr(quantization, "find_spec", lambda name: name)
    with pytest.raises(RuntimeError) as caught:
        check_readable(source)
    assert str(caught.value) == (
        f"{asked} a CUDA device, but there is none; run it on a GPU, or {remedy}"
    )


def test_the_library_is_not_imported_for_models_as_they_are():
    script = (
        "import sys, torch; from kdwatts.models.load import load_model; "
        "from kdwatts.config.pair import Architecture, ModelSource; "
        "load_model(ModelSource(None, None, Architecture('llama', 1, 8, 8, 2, 2, 4, 8, True, 8)), "
        "dtype=torch.float32); print('bitsandbytes' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["gpu=cpu", quantised("int8")],
            "model.teacher.quantization=int8 with gpu=cpu is not supported; set "
            "model.teacher.quantization=null or change the other",
        ),
        (
            ["gpu=h100", quantised("int4"), "training.teacher_parallel=fsdp"],
            "model.teacher.quantization=int4 with training.teacher_parallel=fsdp is not",
        ),
        (
            ["gpu=h100", quantised("int4"), "eval=lighteval", "eval.inference=null"],
            "model.teacher.quantization=int4 with eval tasks of lighteval is not supported;",
        ),
        (
            ["gpu=h100", "model.student.path=tiny:teacher", "model.student.quantization=int8"],
            "model.student.quantization=int8: weights that are trained are not quantised; set",
        ),
        (
            ["gpu=h100", "model.student.quantization=int8"],
            "model: quantization=int8 without a path: random weights are not quantised; set it to",
        ),
        (["gpu=h100", quantised("int3")], "model.teacher.quantization=int3 is unknown; choose"),
    ],
)
def test_what_cannot_be_quantised_is_refused_in_one_sentence(
    overrides: list[str], said: str, configure: Callable[..., Any]
):
    with pytest.raises(Exception) as caught:
        configure("training=smoke", *overrides)
    assert str(caught.value).startswith(said)


def test_the_bits_are_in_every_key_that_the_teacher_s_weights_are_in(
    configure: Callable[..., Any],
):
    def settings(paradigm: str, bits: str | None) -> list[Any]:
        config = configure(*GPU, f"paradigm={paradigm}", quantised(bits))
        if paradigm == "sequence":
            return [generate.settings(config)]
        return [
            teacher.settings(config),
            distill.settings(config),
            evaluate.settings(config, "teacher"),
            inference.settings(config, "teacher"),
        ]

    for paradigm in ("response", "sequence"):
        by_bits = zip(*(settings(paradigm, bits) for bits in (None, *BITS)), strict=True)
        for none, eight, four in by_bits:
            assert none != eight and eight != four and none != four
    whole, eight = (configure(*GPU, "paradigm=sft", quantised(bits)) for bits in (None, "int8"))
    assert distill.settings(whole) == distill.settings(eight)  # No teacher took part.
    assert evaluate.settings(whole, "student") == evaluate.settings(eight, "student")


def test_a_student_begins_as_part_of_the_teacher_s_weights_as_published(
    configure: Callable[..., Any],
):
    pairs = [configure(*GPU, "model=tiny_half", quantised(bits)).model for bits in (None, "int8")]
    assert student_fingerprint(pairs[0]) == student_fingerprint(pairs[1])
    assert source_fingerprint(pairs[0].teacher) != source_fingerprint(pairs[1].teacher)
    trained = [distill.trained_models(configure(*GPU, quantised(bits))) for bits in (None, "int8")]
    assert trained[0].keys() == trained[1].keys()  # What training it cost is inherited once.


def test_linear_layers_count_one_byte_or_half_and_the_rest_as_it_is(
    configure: Callable[..., Any],
):
    source: ModelSource = configure(*GPU).model.teacher
    # 4 blocks of 128 x (2 x 128 + 2 x 64 + 3 x 344); 132,224 more in table and norms.
    assert linear_weights_of(source.architecture) == 724_992
    assert parameters_of(source.architecture) - 724_992 == 132_224
    sizes = [weights_bytes_of(replace(source, quantization=bits), 2) for bits in (None, *BITS)]
    assert sizes == [1_714_432, 989_440, 626_944]


def test_the_plan_counts_a_quantised_teacher_s_bytes_and_names_its_bits(
    configure: Callable[..., Any], tmp_path: Path
):
    pair = ["gpu=h100", "model=llama31_70b_to_8b", "paradigm=feature", "eval=none"]
    whole, four = (configure(*pair, quantised(bits)) for bits in (None, "int4"))
    # 80 blocks of 8,192 x (2 x 8,192 + 2 x 1,024 + 3 x 28,672) weights, 1.5 bytes less each.
    spared_gib = 1.5 * 80 * 8192 * (2 * 8192 + 2 * 1024 + 3 * 28672) / 2**30
    for name in ("teacher_weights_gib", "teacher_gib"):
        one, other = (getattr(estimate(workload_of(config)), name) for config in (whole, four))
        assert one - other == pytest.approx(spared_gib)
    text = describe(four, [], Store(tmp_path), [])
    assert "; teacher: 70.6 B in int4\n" in text
    assert "int4" not in describe(whole, [], Store(tmp_path), [])
    written = [
        estimate_writing(
            workload_of(configure("gpu=h100", "model=tiny", "paradigm=sequence", quantised(bits)))
        )
        for bits in (None, "int8")
    ]
    assert written[0] and written[1] and written[0].weights_gib > written[1].weights_gib


@pytest.mark.parametrize("bits", [None, "int4"])
def test_the_manifest_says_in_how_many_bits_the_teacher_was(
    bits: str | None, configure: Callable[..., Any], tmp_path: Path
):
    config = configure(*GPU, quantised(bits))
    write_manifest(tmp_path, config, [facts_of_this_node([])], attempt=1, overrides=[])
    assert read_json(tmp_path / "manifest.json")["teacher_quantization"] == bits


def test_who_fetches_a_model_to_be_quantised_needs_no_gpu(
    configure: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[ModelSource] = []
    monkeypatch.setattr(prefetch, "check_readable", asked.append)
    monkeypatch.setattr(prefetch, "load_tokenizer", lambda *where, **options: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *where, **options: tmp_path)
    monkeypatch.setattr(prefetch.hub, "is_offline", lambda: False)
    pair = ["model=qwen25_7b_to_0b5", "data=tiny", "eval=none", quantised("int4")]
    lines = list(prefetch.prefetch([configure("gpu=h100", *pair)]))
    assert f"model Qwen/Qwen2.5-7B-Instruct: 0.0 MB in {tmp_path}" in lines
    assert [source.quantization for source in asked] == [None, None]
