"""What keys a measurement of serving: a student's shape, and a teacher's weights as ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import (
    DbrxConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
)

from kdwatts.models.serving_shape import depends_on_text, serving_shape
from kdwatts.stages import inference
from kdwatts.stages.graph import PlannedStage, plan
from kdwatts.telemetry.nvml import Device

Configure = Callable[..., Any]

HARDWARE = {
    "gpu": "h100",
    "cards": [["NVIDIA H100 80GB HBM3", 700.0]],
    "cpu": "AMD EPYC 9654",
    "threads": 192,
    "cpu_estimate": None,
}
"""A machine that the keys below were made for."""

TODAY = "8b6cddbf053d2ee0"
"""The tiny teacher's key there, computed by the last commit that measured once."""

SMALL: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "vocab_size": 32,
}


@pytest.fixture
def key_of(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The key of what serves alike in a run of the tiny pair, on one machine whatever this is."""
    monkeypatch.setattr(
        "kdwatts.stages.graph.joule_settings", lambda config, gpus, launch: HARDWARE
    )

    def key_of(*overrides: str, subject: str = "student") -> str:
        return planned_of(configure, *overrides, subject=subject).key

    return key_of


def planned_of(configure: Configure, *overrides: str, subject: str = "student") -> PlannedStage:
    config = configure("gpu=cpu", "eval=tiny", *overrides)
    return next(planned for planned in plan(config, []) if planned.name == f"inference_{subject}")


@pytest.mark.parametrize(
    "overrides",
    [
        ["paradigm=response"],
        ["training.seed=7"],
        ["training.learning_rate=0.01"],
        ["training.target_tokens=65536"],
        ["data.fraction=0.5"],
        ["eval.inference.measurements=9"],
        ["eval.inference.loop_point=[8,64,32]"],
        ["eval.batch_size=3"],
        ["model.teacher=null"],
    ],
    ids=" ".join,
)
def test_what_a_student_was_taught_and_how_is_not_in_the_key_of_its_serving(
    overrides: list[str], key_of: Callable[..., str]
):
    assert key_of("paradigm=sft", *overrides) == key_of("paradigm=sft")


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.student.architecture.intermediate_size=96"],
        ["model.student.architecture.num_kv_heads=4"],
        ["model.student.architecture.vocab_size=1088"],
        ["model.student.architecture.num_layers=1"],
        ["model.student.architecture.family=qwen2"],
        ["training.precision=bf16"],
        ["eval.inference.batch_sizes=[4]"],
        ["eval.inference.new_lengths=[32,16]"],
        ["eval.inference.min_window_s=3"],
        ["eval.inference.prompts=null"],
    ],
    ids=" ".join,
)
def test_what_changes_the_work_of_serving_changes_the_key(
    overrides: list[str], key_of: Callable[..., str]
):
    assert key_of("paradigm=sft", *overrides) != key_of("paradigm=sft")


def test_a_student_trained_by_adapters_is_served_merged_and_so_has_the_key_of_a_dense_one(
    configure: Configure,
):
    taught = ("model=tiny_half", "paradigm=sft", "training.sequence_length=128")
    adapted = (*taught, "training=lora", "training.precision=fp32")
    assert configure(*adapted).training.lora
    one, other = (planned_of(configure, *asked) for asked in (taught, adapted))
    assert one.key == other.key and one.reads != other.reads


def test_prompts_that_are_cut_from_the_corpus_make_it_part_of_the_key(key_of: Callable[..., str]):
    asked = ("paradigm=sft", "eval.inference.prompts=null")
    assert key_of(*asked, "training.seed=1") == key_of(*asked)
    assert key_of(*asked, "data.fraction=0.5") != key_of(*asked)


def test_another_power_limit_is_another_key(configure: Configure):
    def gpu(limit_w: float) -> Device:
        return Device(0, "GPU-0", "NVIDIA H100 80GB HBM3", 80.0, limit_w, "580.1", True, False)

    config = configure("gpu=h100", "eval=tiny", "paradigm=sft")
    keys = [
        {planned.key for planned in plan(config, [gpu(limit_w)]) if planned.stage == "inference"}
        for limit_w in (700.0, 500.0, 700.0)
    ]
    assert keys[0] == keys[2] and not keys[0] & keys[1]


@pytest.mark.parametrize(
    ("library", "name"),
    [
        # As the stage knows them: another test may have had a library imported anew.
        (inference.torch, "__version__"),
        (inference.torch.version, "cuda"),
        (inference.transformers, "__version__"),
    ],
)
def test_another_version_of_what_brings_the_kernels_is_another_key(
    library: Any, name: str, key_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    before = key_of("paradigm=sft")
    monkeypatch.setattr(library, name, "99.0")
    assert key_of("paradigm=sft") != before


def test_a_teacher_s_first_measurement_has_the_key_that_stores_know(
    configure: Configure, key_of: Callable[..., str]
):
    assert key_of(subject="teacher") == TODAY
    first, second, third = planned_of(configure, subject="teacher").numbered()
    assert first.key == TODAY and "measurement" not in first.settings
    assert [one.settings["measurement"] for one in (second, third)] == [2, 3]
    assert len({first.key, second.key, third.key}) == 3


def test_more_measurements_are_further_keys_and_change_none(configure: Configure):
    few, many = (
        [one.key for one in planned_of(configure, f"eval.inference.measurements={n}").numbered()]
        for n in (1, 4)
    )
    assert many[:1] == few and len(set(many)) == 4


@pytest.mark.parametrize(
    ("configuration", "routes"),
    [
        (MixtralConfig(**SMALL, num_local_experts=4), True),
        (Qwen2MoeConfig(**SMALL, num_experts=4), True),
        (DbrxConfig(n_layers=2, ffn_config={"moe_num_experts": 4}), True),
        (LlamaConfig(**SMALL), False),
        (Qwen2Config(**SMALL), False),
        (MistralConfig(**SMALL), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PreTrainedConfig) else "",
)
def test_a_mixture_of_experts_is_known_by_its_configuration(
    configuration: PreTrainedConfig, routes: bool
):
    assert depends_on_text(configuration) is routes


@pytest.mark.parametrize("mixture", [MixtralConfig, Qwen2MoeConfig])
def test_two_paradigms_of_a_mixture_of_experts_share_no_measurement(
    mixture: type[PreTrainedConfig],
    key_of: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(inference, "student_configuration", lambda source: mixture(**SMALL))
    one, other = ("paradigm=sft",), ("paradigm=response",)
    assert key_of(*one) != key_of(*other)
    assert key_of(*one) == key_of(*one, "data.decontaminate.mode=off")


def test_the_shape_of_a_saved_student_is_that_of_one_not_yet_made(
    make_llama: Callable[..., Any], tmp_path: Any
):
    model = make_llama()
    planned = serving_shape(LlamaConfig(**model.config.to_diff_dict()))
    model.config.bos_token_id, model.config.eos_token_id = 3, 4
    model.save_pretrained(tmp_path / "some" / "where")
    saved = LlamaConfig.from_pretrained(tmp_path / "some" / "where")
    assert serving_shape(saved) == planned
    eager = LlamaConfig.from_pretrained(tmp_path / "some" / "where", attn_implementation="eager")
    assert serving_shape(eager) != planned
