"""Every refusal of the schema: what was asked, what was found, what to do, in one sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from kdwatts.cli.preflight import compose
from kdwatts.config.checks import check, to_config
from kdwatts.config.data import Data, Decontaminate, MixPart, TextSource
from kdwatts.config.evaluation import Eval, EvalTask, InferenceGrid
from kdwatts.config.experiment import Config, to_dict
from kdwatts.config.generation import Generate, OnPolicy
from kdwatts.config.machine import Gpu, Site, Telemetry
from kdwatts.config.pair import Architecture, ModelSource, TeacherBlocks
from kdwatts.config.paradigm import CrossEntropy, Feature, Paradigm, Relational, Response
from kdwatts.config.training import Lora, Training

SHAPE: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 2,
    "vocab_size": 32,
    "tied_head": True,
    "max_positions": 64,
}
TRAINING: dict[str, Any] = {
    "target_tokens": 1,
    "sequence_length": 2,
    "micro_batch": 1,
    "learning_rate": 1e-3,
}
SITE: dict[str, Any] = {
    "name": "here",
    "grid_gco2e_per_kwh": 0,
    "grid_source": "",
    "pue": 1,
    "pue_source": "",
    "price_usd_per_kwh": 0,
    "price_source": "",
}


def _training(**changes: Any) -> Training:
    return Training(**{**TRAINING, **changes})


def _shape(**changes: Any) -> Architecture:
    return Architecture(**{**SHAPE, **changes})


def _site(**changes: Any) -> Site:
    return Site(**{**SITE, **changes})


def _task(**changes: Any) -> EvalTask:
    return EvalTask(name="arc", primary_metric="acc", **changes)


CE = CrossEntropy()

REFUSALS: list[tuple[Callable[[], Any], str]] = [
    (lambda: CrossEntropy(weight=0), "paradigm.ce.weight=0 is out of range; give a number"),
    (lambda: CrossEntropy(weight=float("nan")), "paradigm.ce.weight=nan"),
    (lambda: CrossEntropy(weight=float("inf")), "paradigm.ce.weight=inf"),
    (lambda: Response(weight=-1), "paradigm.response.weight=-1"),
    (
        lambda: Response(divergence="kl"),
        "paradigm.response.divergence=kl is unknown; choose one of forward_kl, reverse_kl, jsd",
    ),
    (lambda: Response(support="all"), "paradigm.response.support=all is unknown"),
    (lambda: Response(temperature=0), "paradigm.response.temperature=0"),
    (
        lambda: Response(teacher_temperatures=[1, 0]),
        "paradigm.response.teacher_temperatures=0",
    ),
    (lambda: Response(k=0), "paradigm.response.k=0 is out of range; give at least 1"),
    (lambda: Response(beta=1), "paradigm.response.beta=1 is not between 0 and 1; try 0.5"),
    (
        lambda: Response(divergence="reverse_kl"),
        "paradigm.response.divergence=reverse_kl with support=top_k is unstable",
    ),
    (
        lambda: Response(divergence="total_variation", support="sampled"),
        "paradigm.response.divergence=total_variation with support=sampled is unstable",
    ),
    (lambda: Response(skew=0), "paradigm.response.skew=0 is not between 0 and 1; try 0.1"),
    (lambda: Response(num_samples=0), "paradigm.response.num_samples=0 is out of range"),
    (lambda: Feature(weight=0), "paradigm.feature.weight=0"),
    (lambda: Feature(layers="all"), "paradigm.feature.layers=all is unknown"),
    (lambda: Feature(projector="deep"), "paradigm.feature.projector=deep is unknown"),
    (lambda: Feature(positions=-1), "paradigm.feature.positions=-1 is out of range"),
    (lambda: Feature(num_pairs=2), "paradigm.feature.num_pairs=2 does not go with layers=uni"),
    (
        lambda: Feature(projector="none", share_projector=True),
        "paradigm.feature.share_projector=true with projector=none leaves nothing to share; choose",
    ),
    (
        lambda: Feature(positions=8, skip_first_position=False),
        "paradigm.feature.positions=8 with skip_first_position=false: sampling never draws the",
    ),
    (lambda: Feature(distance="l1"), "paradigm.feature.distance=l1 is unknown"),
    (lambda: Feature(layers="explicit"), "pairs=[] does not go with layers=explicit; give pairs"),
    (lambda: Feature(pairs=[[0, 1]]), "pairs=[[0, 1]] does not go with layers=uniform; give pairs"),
    (
        lambda: Feature(layers="explicit", pairs=[[0, 1, 2]]),
        "paradigm.feature.pairs has [0, 1, 2]; give [student block, teacher block] from 0",
    ),
    (lambda: Feature(layers="explicit", pairs=[[-1, 1]]), "pairs has [-1, 1]; give"),
    (lambda: Relational(weight=0), "paradigm.relational.weight=0"),
    (lambda: Relational(distance_weight=-1), "paradigm.relational.distance_weight=-1"),
    (lambda: Relational(angle_weight=-1), "paradigm.relational.angle_weight=-1"),
    (
        lambda: Relational(distance_weight=0, angle_weight=0),
        "paradigm.relational.distance_weight + angle_weight=0",
    ),
    (lambda: Relational(level="head"), "paradigm.relational.level=head is unknown"),
    (lambda: Relational(tokens=2), "paradigm.relational.tokens=2 is out of range; give at"),
    (lambda: Relational(relation_heads=0), "paradigm.relational.relation_heads=0 is out"),
    (lambda: Relational(teacher_block=-2), "paradigm.relational.teacher_block=-2 is out"),
    (lambda: Relational(group_size=2), "paradigm.relational.group_size=2 is out of range"),
    (lambda: Paradigm("p", text="web"), "paradigm.text=web is unknown"),
    (lambda: Paradigm("p", teacher="live"), "paradigm.teacher=live is unknown"),
    (lambda: Paradigm("p"), "paradigm=p has no term; set at least one of ce, response"),
    (lambda: Generate(prompt_tokens=0), "paradigm.generate.prompt_tokens=0 is out of range"),
    (lambda: Generate(new_tokens=0), "paradigm.generate.new_tokens=0 is out of range"),
    (lambda: Generate(num_prompts=0), "paradigm.generate.num_prompts=0 is out of range"),
    (lambda: Generate(batch_size=0), "paradigm.generate.batch_size=0 is out of range"),
    (lambda: Generate(temperature=-1), "paradigm.generate.temperature=-1 is out of range"),
    (lambda: Generate(top_p=0), "paradigm.generate.top_p=0 is out of range; give a number"),
    (lambda: Generate(top_p=1.1), "paradigm.generate.top_p=1.1 is out of range; give 0 to"),
    (lambda: Generate(seed=-1), "paradigm.generate.seed=-1 is out of range"),
    (lambda: OnPolicy(fraction=0), "paradigm.on_policy.fraction=0 is out of range; give a"),
    (lambda: OnPolicy(fraction=2), "paradigm.on_policy.fraction=2 is out of range; give 0"),
    (
        lambda: OnPolicy(rollout_every=0),
        "paradigm.on_policy.rollout_every=0 is out of range",
    ),
    (
        lambda: Paradigm("p", ce=CE, generate=Generate()),
        "paradigm.generate is set and paradigm.text=corpus would not read it; set",
    ),
    (
        lambda: Paradigm("p", "teacher", ce=CE, on_policy=OnPolicy()),
        "paradigm.on_policy is set and paradigm.text=teacher would not read it; set",
    ),
    (
        lambda: Paradigm("p", "student", "cached", response=Response()),
        "written, and this paradigm has teacher=cached and a term that asks the teacher; set",
    ),
    (
        lambda: Paradigm("p", "student", "online", ce=CE),
        "written, and this paradigm has teacher=online and no term that asks the teacher; set",
    ),
    (
        lambda: Paradigm("p", "student", "online", ce=CE, response=Response()),
        "paradigm.ce with text=student would teach the student its own words; set paradigm.ce=null",
    ),
    (
        lambda: Paradigm(
            "p",
            "student",
            "online",
            Generate(num_prompts=4),
            response=Response(),
        ),
        "paradigm.generate.num_prompts=4 with text=student: the prompts are those of the rows",
    ),
    (lambda: _shape(family="gpt2"), "model architecture family=gpt2 is unknown"),
    (lambda: _shape(num_kv_heads=0), "model: num_kv_heads=0 is out of range; give at least 1"),
    (lambda: _shape(num_layers=0), "model: num_layers=0 is out of range"),
    (lambda: _shape(norm_epsilon=0), "model: norm_epsilon=0; give what the published"),
    (lambda: _shape(num_kv_heads=3), "model: num_heads=4 is no multiple of num_kv_heads=3"),
    (lambda: _shape(hidden_size=9), "model: hidden_size=9 is no multiple of num_heads=4, as in ev"),
    (lambda: _shape(head_dim=3), "model: head_dim=3 is odd, and positions turn its numbers by pai"),
    (lambda: _shape(rope_theta=0), "model: rope_theta=0 is out of range; give a number above 0"),
    (lambda: _shape(norm_epsilon=float("nan")), "model: norm_epsilon=nan; give what the published"),
    (lambda: _shape(rope_scaling={"factor": 2}), "model: rope_scaling has rope_type=None; choose"),
    (lambda: _shape(rope_scaling={"type": "linear"}), "model: rope_scaling has rope_type=None; ch"),
    (
        lambda: _shape(rope_scaling={"rope_type": "llama3", "factor": 8}),
        "model: rope_scaling has rope_type=llama3 without low_freq_factor; give all of factor,",
    ),
    (
        lambda: _shape(rope_scaling={"rope_type": "dynamic", "factor": 2}),
        "model: rope_scaling has rope_type=dynamic with head_dim=2, whose one pair it cannot",
    ),
    (
        lambda: _shape(rope_scaling={"rope_type": "linear", "factor": "x"}),
        "model: rope_scaling has factor=x; give a number of at least 1",
    ),
    (lambda: TextSource("a", prompt_field="p"), "prompt_field=p with response_field=None"),
    (
        lambda: TextSource("a", messages_field="m"),
        "data.source reads text and m; set exactly one of text_field, messages_field",
    ),
    (lambda: TextSource("a", text_field=None), "data.source reads no field; set exactly"),
    (
        lambda: Data("d", TextSource("a"), "none", num_documents=0),
        "data.num_documents=0 is out of range",
    ),
    (
        lambda: Data("d", TextSource("a"), "none", fraction=0),
        "data.fraction=0 is out of range; give a number above 0",
    ),
    (
        lambda: Data("d", TextSource("a"), "none", fraction=1.5),
        "data.fraction=1.5 is out of range; give 0 to 1",
    ),
    (
        lambda: Decontaminate("remove"),
        "data.decontaminate.mode=remove is unknown; choose one of off, report, drop",
    ),
    (
        lambda: Decontaminate("drop", ngram=5),
        "data.decontaminate.ngram=5 is out of range; give at least 8",
    ),
    (
        lambda: TextSource("a", num_rows=0),
        "data.source.num_rows=0 is out of range; give at least 1",
    ),
    (
        lambda: Data("d", TextSource("a"), "none", shard_tokens=1),
        "data.shard_tokens=1 is out of range; give at least 1024",
    ),
    (lambda: Gpu("g", device="tpu"), "gpu.device=tpu is unknown; choose one of auto, cuda"),
    (lambda: _training(target_tokens=0), "training.target_tokens=0 is out of range"),
    (lambda: _training(micro_batch=0), "training.micro_batch=0"),
    (lambda: _training(accumulation=0), "training.accumulation=0"),
    (lambda: _training(chunk_rows=0), "training.chunk_rows=0"),
    (lambda: _training(log_every=0), "training.log_every=0"),
    (lambda: _training(seed=-1), "training.seed=-1 is out of range; give at least 0"),
    (lambda: _training(sequence_length=1), "training.sequence_length=1 is out of range"),
    (lambda: _training(learning_rate=0), "training.learning_rate=0"),
    (lambda: _training(learning_rate=float("inf")), "training.learning_rate=inf"),
    (lambda: _training(clip_norm=0), "training.clip_norm=0"),
    (lambda: _training(checkpoint_every_s=0), "training.checkpoint_every_s=0"),
    (lambda: _training(warmup_ratio=2), "training.warmup_ratio=2 is out of range; give 0 to 1"),
    (lambda: _training(min_learning_rate_ratio=-1), "training.min_learning_rate_ratio=-1"),
    (lambda: _training(weight_decay=-1), "training.weight_decay=-1"),
    (lambda: _training(precision="fp16"), "training.precision=fp16 is unknown"),
    (lambda: _training(heldout_every=-1), "training.heldout_every=-1 is out of range; give at"),
    (lambda: _training(heldout_tokens=0), "training.heldout_tokens=0 is out of range; give at"),
    (lambda: _training(budget_kj=0), "training.budget_kj=0 is out of range; give a number above 0"),
    (lambda: Lora(rank=0), "training.lora.rank=0 is out of range; give at least 1"),
    (lambda: Lora(alpha=0), "training.lora.alpha=0 is out of range; give a number above 0"),
    (lambda: Lora(dropout=1), "training.lora.dropout=1 is out of range; give 0 to below 1"),
    (
        lambda: Lora(targets=["lm_head"]),
        "training.lora.targets=lm_head is unknown; choose one of q_proj, k_proj",
    ),
    (lambda: Lora(targets=[]), "training.lora.targets=[] is empty or names one twice; choose"),
    (
        lambda: Lora(targets=["q_proj", "q_proj"]),
        "training.lora.targets=['q_proj', 'q_proj'] is empty or names one twice",
    ),
    (
        lambda: TextSource("a", context_field="c"),
        "data.source.context_field=c without a prompt_field; set prompt_field and response_field",
    ),
    (
        lambda: MixPart(TextSource("a"), 1.0, "none", max_epochs=0),
        "data.sources.max_epochs=0 is out of range; give at least 1",
    ),
    (
        lambda: MixPart(TextSource("a"), 1.0, "none", num_documents=0),
        "data.sources.num_documents=0 is out of range",
    ),
    (lambda: _training(betas=[0.9]), "training.betas=[0.9] is out of range; give two numbers"),
    (lambda: _training(betas=[0.9, 1.0]), "training.betas=[0.9, 1.0] is out of range"),
    (lambda: InferenceGrid(batch_sizes=[0]), "eval.inference.batch_sizes=0"),
    (lambda: InferenceGrid(prompt_lengths=[8, 0]), "eval.inference.prompt_lengths=0"),
    (lambda: InferenceGrid(new_lengths=[]), "eval.inference.new_lengths=[] is empty"),
    (lambda: InferenceGrid(batch_sizes=[1, 1]), "batch_sizes=[1, 1] is empty or repeats"),
    (lambda: InferenceGrid(min_window_s=1), "eval.inference.min_window_s=1 is out of range"),
    (lambda: InferenceGrid(max_repeats=2), "eval.inference.max_repeats=2 is out of range"),
    (lambda: InferenceGrid(measurements=0), "eval.inference.measurements=0 is out of range"),
    *(
        (
            lambda point=point: InferenceGrid([8, 1], [64], [32], loop_point=point),
            f"eval.inference.loop_point={point} is no point of the grid batch_sizes=[8, 1], "
            "prompt_lengths=[64], new_lengths=[32]; give one batch size, one prompt length",
        )
        for point in ([], [8, 64], [64, 64, 32], [8, 32, 64], [8, 64, 32, 1])
    ),
    (lambda: _task(num_fewshot=-1), "eval.tasks.num_fewshot=-1"),
    (lambda: _task(limit=0), "eval.tasks.limit=0 is out of range; give at least 1"),
    (lambda: _task(chance=25), "eval.tasks.chance=25 is out of range; give 0 to 1"),
    (lambda: Eval("e", batch_size=0), "eval.batch_size=0"),
    (lambda: Telemetry(interval_s=0), "telemetry.interval_s=0 is out of range; give 0.01"),
    (
        lambda: Telemetry(slow_interval_s=0.05),
        "telemetry.slow_interval_s=0.05 is below interval_s=0.1; give at least the sampling",
    ),
    (lambda: Telemetry(slow_interval_s=float("nan")), "telemetry.slow_interval_s=nan"),
    (lambda: Telemetry(cpu_estimate="on"), "telemetry.cpu_estimate=on is unknown"),
    (lambda: Telemetry(cpu_tdp_w=0), "telemetry.cpu_tdp_w=0"),
    (lambda: Telemetry(cpu_tdp_threads=0), "telemetry.cpu_tdp_threads=0"),
    (lambda: Telemetry(idle_s=-1), "telemetry.idle_s=-1"),
    (lambda: _site(grid_gco2e_per_kwh=-1), "site.grid_gco2e_per_kwh=-1"),
    (lambda: _site(pue=0.9), "site.pue=0.9 is out of range; give at least 1"),
    (lambda: _site(price_usd_per_kwh=-1), "site.price_usd_per_kwh=-1"),
    (
        lambda: _site(grid_boundary="direct"),
        "site.grid_boundary=direct is unknown; choose one of combustion, lifecycle, unstated",
    ),
    (
        lambda: _site(grid_basis="sales"),
        "site.grid_basis=sales is unknown; choose one of generation, consumption, unstated",
    ),
    (
        lambda: _site(grid_kind="hourly"),
        "site.grid_kind=hourly is unknown; choose one of average, marginal, unstated",
    ),
    (
        lambda: _site(grid_gases="ch4"),
        "site.grid_gases=ch4 is unknown; choose one of co2, co2e, unstated",
    ),
    (lambda: _site(grid_year=24), "site.grid_year=24 is out of range; give 1990 to 2100"),
    (lambda: Config(until="done"), "until=done is unknown; choose one of prefetch, plan, shards"),
]


@pytest.mark.parametrize(
    ("grid", "point"),
    [
        (InferenceGrid([8, 1, 64], [2048, 512], [128]), (64, 2048, 128)),
        (InferenceGrid([1], [512, 8192, 2048], [32, 256, 128, 64]), (1, 2048, 128)),
        (InferenceGrid([8, 64], [512, 64], [32], loop_point=[8, 64, 32]), (8, 64, 32)),
    ],
)
def test_the_point_that_answers_is_the_largest_batch_and_the_middle_lengths_unless_named(
    grid: InferenceGrid, point: tuple[int, int, int]
):
    assert grid.point == point


def test_a_point_outside_of_the_grid_is_refused_at_composition(configure: Callable[..., Any]):
    asked = ("gpu=cpu", "eval=tiny", "eval.inference.batch_sizes=[1,8]")
    assert configure(*asked, "eval.inference.loop_point=[1,64,32]").eval.inference.point[0] == 1
    with pytest.raises(Exception, match=r"eval\.inference\.loop_point=\[2, 64, 32\] is no point"):
        configure(*asked, "eval.inference.loop_point=[2,64,32]")


def _refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


def _assert_one_sentence_with_a_remedy(text: str) -> None:
    assert "\n" not in text
    assert text.partition("; ")[2], f"no remedy: {text}"


@pytest.mark.parametrize(("make", "said"), REFUSALS, ids=[said for _, said in REFUSALS])
def test_a_value_that_cannot_work_is_refused_in_one_sentence(make: Callable[[], Any], said: str):
    text = _refusal(make)
    assert said in text
    _assert_one_sentence_with_a_remedy(text)


def test_every_shape_that_the_schema_lets_pass_is_one_that_a_model_can_be_made_of():
    # The other way round than REFUSALS: what is let pass must not end in a library's traceback.
    import torch

    from kdwatts.models.load import load_model

    shapes = [
        {"family": "qwen2", "hidden_size": 9},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"head_dim": 4, "rope_scaling": {"rope_type": "dynamic", "factor": 2}},
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ]
    for changes in shapes:
        source = ModelSource(architecture=_shape(**changes))
        model: Any = load_model(source, dtype=torch.float32)
        assert model.config.hidden_size == changes.get("hidden_size", 8)


def test_a_setting_that_is_no_number_is_refused_by_its_name(configure: Callable[..., Any]):
    with pytest.raises(ValueError, match=r"^gpu\.tdp_w=nan is not a number; give a num"):
        configure("gpu=h100", "gpu.tdp_w=nan")


def test_the_edges_of_every_range_are_allowed():
    _training(warmup_ratio=0, min_learning_rate_ratio=1, weight_decay=0, betas=[0, 0.999])
    _shape(num_kv_heads=4)
    _site()
    _task(limit=1, chance=0)
    InferenceGrid([1], [1], [1], None, 2.0, 3)
    Telemetry(interval_s=0.01, slow_interval_s=0.01)
    TextSource("a", text_field=None, prompt_field="p", response_field="r")


@pytest.fixture(scope="module")
def combined(configure: Callable[..., Any]) -> Config:
    return configure("paradigm=combined", "gpu=cpu")


def _change(config: Config, path: str, value: Any) -> None:
    *parents, name = path.split(".")
    group: Any = config
    for parent in parents:
        group = getattr(group, parent)
    assert hasattr(group, name)
    setattr(group, name, value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.teacher": None}, "paradigm=combined needs a teacher, model=tiny has none; choose"),
        (
            {"model.one_vocabulary": False},
            "two vocabularies, and paradigm=combined with "
            "response.divergence=forward_kl needs one; set paradigm.response.divergence="
            "universal and paradigm.response.support=dense, or",
        ),
        (
            {"model.one_vocabulary": False, "paradigm.response": None},
            "paradigm=combined with a feature term needs one; set paradigm.feature=null",
        ),
        (
            {
                "model.one_vocabulary": False,
                "paradigm.response": None,
                "paradigm.feature": None,
                "paradigm.relational.level": "token",
            },
            "with relational.level=token needs one; set paradigm.relational.level=sequence",
        ),
        (
            {
                "model.one_vocabulary": False,
                "paradigm.response.divergence": "universal",
                "paradigm.feature": None,
                "paradigm.teacher": "cached",
            },
            "with teacher=cached needs one; set paradigm.teacher=online",
        ),
        (
            {"training.sequence_length": 129},
            "training.sequence_length=129 is longer than the student's context of 128 tokens in "
            "model=tiny; shorten it",
        ),
        (
            {"model.teacher.architecture.max_positions": 127},
            "training.sequence_length=128 is longer than the teacher's context of 127 tokens",
        ),
        (
            {"eval.inference.new_lengths": [65]},
            "eval.inference: 64 prompt + 65 new tokens exceed the student's context of 128; sho",
        ),
        (
            {"training.micro_batch": 12},
            "training.micro_batch=12 is no multiple of paradigm.relational.group_size=8; a group",
        ),
        (
            {"training.compile": True, "training.precision": "bf16"},
            "training.compile=true with bf16 on gpu=cpu is not supported; use precision=fp32",
        ),
        (
            {"paradigm.feature.pairs": [[1, 3], [2, 3]]},
            "paradigm.feature.pairs has [2, 3], and the student has 2 blocks and the teacher 4;",
        ),
        (
            {"paradigm.feature.projector": "none"},
            "paradigm.feature.projector=none needs equal widths, and the student has 48 and the "
            "teacher 128; choose projector=linear",
        ),
        (
            {"paradigm.feature.layers": "cka", "paradigm.teacher": "cached"},
            "paradigm.feature.layers=cka does not work with paradigm.teacher=cached, because the "
            "blocks to cache are known only after they are measured; choose "
            "paradigm.teacher=online",
        ),
        (
            {"paradigm.feature.layers": "cka", "paradigm.feature.num_pairs": 3},
            "is too many: the student has 2 blocks and the teacher 4; give at most 2, or 0",
        ),
        (
            {"paradigm.feature.positions": 128},
            "paradigm.feature.positions=128 cannot be drawn from rows of training.sequence_length="
            "128 without their first position; give at most 127",
        ),
        (
            {"paradigm.relational.level": "token", "paradigm.relational.tokens": 128},
            "paradigm.relational.tokens=128 cannot be drawn from rows of training.sequence_length",
        ),
        (
            {"paradigm.relational.level": "attention", "paradigm.teacher": "cached"},
            "paradigm.relational.level=attention does not work with paradigm.teacher=cached,",
        ),
        (
            {"paradigm.relational.level": "attention", "paradigm.relational.teacher_block": 4},
            "teacher_block=4 is no block of the teacher, which has 4; count from 0, or give -1",
        ),
        (
            {"paradigm.relational.level": "attention", "paradigm.relational.relation_heads": 16},
            "paradigm.relational.relation_heads=16 does not divide the width 24 of the student's "
            "keys; give a divisor of 8",
        ),
        (
            {"training.lora": Lora()},
            "training.lora needs a trained student, and the student of model=tiny begins from "
            "random weights; set training.lora=null, model.student.path to a trained",
        ),
        (
            {"training.heldout_every": 10, "training.heldout_tokens": 300_000},
            "training.heldout_tokens=300000 is not below training.target_tokens=300000; hold",
        ),
        (
            {"paradigm.response.k": 1024},
            "paradigm.response.k=1024 is not below the shared vocabulary of 1024; lower it or",
        ),
    ],
)
def test_choices_that_exclude_each_other_are_refused_in_one_sentence(
    changes: dict[str, Any], said: str, combined: Config
):
    config = copy.deepcopy(combined)
    for path, value in changes.items():
        _change(config, path, value)
    text = _refusal(lambda: check(config))
    assert said in text
    _assert_one_sentence_with_a_remedy(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"training.sequence_length": 128},
        {"eval.inference.new_lengths": [64]},
        {"eval.inference": None},
        {"paradigm.response.k": 1023},
        {"paradigm.response.k": 1024, "paradigm.response.support": "dense"},
        {"paradigm.feature.layers": "explicit", "paradigm.feature.pairs": [[1, 3]]},
        {"paradigm.feature.layers": "cka", "paradigm.feature.num_pairs": 2},
        {"paradigm.feature.positions": 127},
        {"paradigm.relational.level": "token", "paradigm.relational.tokens": 127},
        # Groups of sequences bind the micro-batch; groups within one do not.
        {"paradigm.relational.level": "token", "training.micro_batch": 3},
        {"paradigm.relational.level": "attention", "paradigm.relational.teacher_block": 3},
        {"training.lora": Lora(), "model.student.path": "tiny:teacher"},
        {
            "training.lora": Lora(),
            "model.student.init_from_teacher": TeacherBlocks(),
        },
        {"training.heldout_every": 0, "training.heldout_tokens": 300_000},
        {"training.heldout_every": 10, "training.heldout_tokens": 299_999},
    ],
)
def test_choices_at_the_edge_of_each_other_s_range_are_allowed(
    changes: dict[str, Any], combined: Config
):
    config = copy.deepcopy(combined)
    for path, value in changes.items():
        _change(config, path, value)
    check(config)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+trainig.seed=1", "trainig is unknown; choose one of paradigm, model, data"),
        ("+training.sed=1", "training.sed is unknown; choose one of seed, target_tokens"),
        ("+eval.tasks.0.lim=1", "eval.tasks.lim is unknown; choose one of name, primary_metric"),
    ],
)
def test_a_key_added_beside_the_schema_is_refused_since_nothing_would_read_it(
    override: str, said: str
):
    text = _refusal(lambda: to_config(compose([override])))
    assert said in text
    _assert_one_sentence_with_a_remedy(text)


def test_a_configuration_is_plain_json_types_all_the_way_down(combined: Config):
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            assert all(type(key) is str for key in value)
            value = list(value.values())
        if isinstance(value, list):
            for part in value:
                walk(part)
        else:
            assert value is None or type(value) in (str, int, float, bool), value

    walk(to_dict(combined))


def test_a_warning_as_long_as_the_time_limit_is_refused(configure: Callable[..., Any]):
    assert configure("cluster.timeout_min=2", "cluster.signal_delay_s=119")
    with pytest.raises(ValueError, match=r"^cluster.signal_delay_s=120 is no shorter than cluster"):
        configure("cluster.timeout_min=2", "cluster.signal_delay_s=120")
    with pytest.raises(ValueError, match=r"^cluster.concurrent=0 is out of range"):
        configure("cluster.concurrent=0")
