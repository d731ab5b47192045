"""A cached teacher behind an engine: the cache of our own pass, its key, what is refused."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdwatts.artifacts.artifact import record_energy
from kdwatts.config.checks import check
from kdwatts.losses.sparse import TopK
from kdwatts.records.files import read_json, read_jsonl
from kdwatts.stages import teacher
from kdwatts.stages.signals_engine import LOG_NAME
from kdwatts.teacher import cache_parts
from kdwatts.teacher.cache import SignalCache
from tests import whole_runs
from tests.whole_runs import artifact_of

STAND_IN = Path(__file__).parents[1] / "teacher" / "answering_engine"
"""What stands in for vLLM answers from the true logits of the tiny teacher."""

SMALL = (
    *("training=smoke", "gpu=cpu", "eval=none", "paradigm=response"),
    *("data.num_documents=12", "training.target_tokens=4000", "training.micro_batch=8"),
    *("training.accumulation=2", "paradigm.response.teacher_temperatures=[1]"),
)
VLLM, F16 = "paradigm.signals_engine=vllm", "paradigm.response.cache_precision=f16"

ENGINE_NATS = {"tiny": 2e-4, "smollm2_135m_to_81m": 1e-3}
"""Pair to the stated bound of the engine's arithmetic in float32: how far a log-probability of its
teacher's K likeliest tokens may lie from ours. More blocks and larger states round more: of
131,072 of SmolLM2 the furthest lay 5e-4 nats off."""
LOSS_SHARE = 2e-4
"""Stated bound of a loss from a cache in f16: 1e-4 of it for each cache's coding."""


@pytest.fixture(autouse=True)
def no_settings_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its variables are in the key, and those of the tests' own machine decide nothing."""
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides that start the stand-in."""
    path = tmp_path_factory.mktemp("engine") / "python"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{STAND_IN}" exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return VLLM, f"eval.serving.vllm.python={path}"


def signal_of(directory: Path) -> TopK:
    """All positions of a cache at temperature 1."""
    cache = SignalCache(directory, verify=True)
    sparse = cache.read(np.load(directory / cache_parts.ROWS_NAME)).sparse
    assert sparse
    return sparse.at(1.0, cache.plan.temperatures)


def assert_equal_within_the_coding(found: TopK, expected: TopK, engine_nats: float) -> None:
    """Of f16: d / 2048 nats for a depth d, in each cache, and the engine's own bound.

    Where the K-th likeliest token is as likely as the next, either may be kept.
    """
    same_N = (found.ids_NK == expected.ids_NK).all(-1)
    assert same_N.float().mean() > 0.99
    log_p_NK, true_NK = found.log_p_NK[same_N], expected.log_p_NK[same_N]
    depth_NK = true_NK.amax(-1, keepdim=True) - true_NK
    assert ((log_p_NK - true_NK).abs() <= 2 * depth_NK / 2048 + engine_nats).all()
    for ids_K, true_ids_K, log_K, true_log_K in zip(
        found.ids_NK[~same_N], expected.ids_NK[~same_N],
        found.log_p_NK[~same_N], expected.log_p_NK[~same_N], strict=True,
    ):  # fmt: skip
        other = ~torch.isin(ids_K, true_ids_K)
        slack = 0.01 + engine_nats
        assert other.any() and (log_K[other] <= true_log_K.min() + slack).all()
    tail_N, true_tail_N = found.log_tail_N.exp(), expected.log_tail_N.exp()
    # The tail has 11 bits of its logarithm, and what the K probabilities are off by.
    slack_N = true_tail_N * true_tail_N.log().abs() / 1024 + engine_nats
    assert ((tail_N - true_tail_N).abs() <= slack_N).all()


def losses_of(run_dir: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(run_dir / "train.jsonl")]


def joules_of(run_dir: Path) -> dict[str, float]:
    """Window to its joules of the CPU."""
    return {row["window"]: row["energy_j"]["cpu"] for row in read_jsonl(run_dir / "stages.jsonl")}


def both_ways(tmp_path: Path, engine: Sequence[str], *asked: str) -> dict[str, Path]:
    """Way to the folder of its cache, after a student was taught from each.

    Both caches have one signal within the coding and the engine's bound, and give one loss.
    """
    runs = {"loop": asked, "vllm": (*asked, *engine)}
    for name, overrides in runs.items():
        overrides = (*overrides, f"store_dir={tmp_path / 'store'}", "training.log_every=1")
        whole_runs.run(tmp_path / name, *overrides, "until=distill")
    made = {
        name: artifact_of(tmp_path / "store", "teacher", *overrides)
        for name, overrides in runs.items()
    }
    nats = ENGINE_NATS[whole_runs.config_of(*asked).model.name]
    assert_equal_within_the_coding(signal_of(made["vllm"]), signal_of(made["loop"]), nats)
    losses = [losses_of(tmp_path / name) for name in runs]
    assert losses[1] == pytest.approx(losses[0], rel=LOSS_SHARE) and len(losses[0]) > 1
    return made


@pytest.mark.parametrize("k", [1, 64])
def test_the_whole_road_through_an_engine_makes_the_cache_and_the_loss_of_our_own_pass(
    tmp_path: Path, engine: tuple[str, ...], k: int
):
    by_documents = f"training.respect_documents={str(k == 1).lower()}"
    made = both_ways(tmp_path, engine, *SMALL, F16, f"paradigm.response.k={k}", by_documents)
    assert torch.equal(signal_of(made["vllm"]).ids_NK, signal_of(made["loop"]).ids_NK)
    indices = [read_json(folder / cache_parts.INDEX_NAME) for folder in made.values()]
    for index in indices:
        del index["parts"], index["sha256"]
    assert indices[0] == indices[1]

    joules = {name: joules_of(tmp_path / name) for name in made}
    # A server that imports torch starts in that window; our own pass only reads small weights.
    assert joules["vllm"]["run/teacher/load"] > 2 * joules["loop"]["run/teacher/load"]
    record = read_json(made["vllm"] / "artifact.json")
    assert record_energy(record).value == pytest.approx(joules["vllm"]["run/teacher"])
    engine_settings = record["settings"]["engine"]
    assert (engine_settings["name"], engine_settings["version"]) == ("vllm", "9.9.0")
    assert {f"--max-logprobs={k}", "--max-model-len=66"} <= set(engine_settings["flags"])


SMOLLM2 = Path("runs/models/smollm2-135m-instruct")
REAL = [
    pytest.param((*SMALL, F16, "training.respect_documents=true"), id="tiny teacher by documents"),
    pytest.param(
        (
            *("model=smollm2_135m_to_81m", "gpu=cpu", "eval=none", "paradigm=response", F16),
            *("training.precision=fp32", "training.sequence_length=128", "training.micro_batch=4"),
            *("training.target_tokens=2048", "paradigm.response.teacher_temperatures=[1]"),
            "training.heldout_every=0",
        ),
        id="SmolLM2 by rows",
        marks=pytest.mark.skipif(not SMOLLM2.is_dir(), reason="`make smollm2` makes the teacher"),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("asked", REAL)
def test_vllm_itself_makes_the_cache_and_the_loss_of_our_own_pass(
    tmp_path: Path, asked: tuple[str, ...]
):
    python = os.environ.get("KDWATTS_VLLM_PYTHON")
    if not python:
        pytest.skip("set KDWATTS_VLLM_PYTHON to a Python interpreter that has vLLM")
    both_ways(tmp_path, (VLLM, f"eval.serving.vllm.python={python}"), *asked)


def test_an_engine_that_dies_is_named_and_its_finished_parts_are_not_asked_for_again(
    tmp_path: Path, engine: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cache_parts, "PART_POSITIONS", 16 * 64)
    monkeypatch.setattr(cache_parts, "ROWS_PER_FORWARD", 8)
    small = (*SMALL, "until=teacher", f"store_dir={tmp_path / 'store'}", *engine)
    dies = "eval.serving.vllm.flags=['--behaviour=dies']"
    said = r"gave no answer, as vllm ended with exit code 3, its last words: .*the GPU fell off"
    for _ in range(2):  # Sixteen of 64 rows more each time.
        with pytest.raises(RuntimeError, match=said):
            whole_runs.run(tmp_path / "run", *small, dies)
    (scratch,) = (tmp_path / "store" / "teacher").glob("*.scratch")
    assert [path.name for path in sorted((scratch / "parts").glob("part-??????"))] == [
        "part-000000",
        "part-000001",
    ]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("lacks", "vllm answered with 63 tokens at a position in place of 64; take another"),
        ("nan", r"what the teacher .* says is not finite \(NaN or infinite\)"),
    ],
)
def test_an_engine_that_says_less_leaves_no_cache(
    tmp_path: Path, engine: tuple[str, ...], behaviour: str, said: str
):
    flags = f"eval.serving.vllm.flags=['--behaviour={behaviour}']"
    with pytest.raises(RuntimeError, match=said):
        whole_runs.run(
            tmp_path / "run", *SMALL, "until=teacher", f"store_dir={tmp_path}", *engine, flags
        )
    assert not list((tmp_path / "teacher").glob("*/signals.json"))
    assert "prompt" not in (tmp_path / "run" / LOG_NAME).read_text()


def test_the_key_holds_engine_version_and_flags_and_no_path(
    configure: Callable[..., Any], engine: tuple[str, ...]
):
    small = ("until=teacher", *SMALL)
    loop, vllm = (teacher.settings(configure(*small, *more)) for more in ((), engine))
    named = vllm.pop("engine")
    assert vllm == loop and set(named) == {"name", "version", "flags"}
    assert named["version"] == "9.9.0" and "python" not in json.dumps(named)
    more = teacher.settings(configure(*small, *engine, "eval.serving.vllm.flags=['--seed=3']"))
    assert "--seed=3" in more["engine"]["flags"]


def test_the_students_key_does_not_name_the_engine_but_stands_on_its_cache(
    engine: tuple[str, ...],
):
    from kdwatts.stages import distill

    loop, vllm = (whole_runs.config_of(*SMALL, *more) for more in ((), engine))
    assert distill.settings(loop) == distill.settings(vllm)
    assert "signals_engine" not in distill.settings(loop)["paradigm"]
    keys = whole_runs.keys_of(*SMALL), whole_runs.keys_of(*SMALL, *engine)
    assert keys[0]["shards"] == keys[1]["shards"]
    assert keys[0]["teacher"] != keys[1]["teacher"] and keys[0]["distill"] != keys[1]["distill"]


REFUSED = [
    (["paradigm.teacher=online"], "this paradigm has teacher=online; set paradigm.teacher=cached"),
    (["paradigm.response.support=dense"], "this response term has support=dense; set"),
    (["paradigm.response.support=sampled"], "this response term has support=sampled; set"),
    (["paradigm.response.temperature=2"], r"needs temperatures \[1.0, 2.0\]; set paradigm.respons"),
    (["paradigm.response.teacher_temperatures=[1,4]"], r"needs temperatures \[1.0, 4.0\]; set"),
    (["paradigm=combined", "paradigm.teacher=cached"],
     "the feature term needs hidden states; set paradigm.feature=null"),
    (["paradigm=combined", "paradigm.teacher=cached", "paradigm.feature=null"],
     "the relational term needs hidden states; set paradigm.relational=null"),
    (["paradigm.response.k=257"], "paradigm.response.k=257 is above 256, where its answers get"),
    (["training.sequence_length=127"], "training.sequence_length=127 and 2 more tokens exceed the"),
    (["model.student.architecture.vocab_size=1023"], "over the 1,024 rows of the teacher's vocab"),
    (["model.teacher.quantization=int8", "gpu=h100"], "quantization=int8 would be another one"),
    (["model.teacher.architecture.head_dim=16", "model.teacher.architecture.num_heads=8"],
     "vLLM needs heads at least 32 wide, while those of the teacher are 16 wide; choose another"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_what_an_engine_cannot_give_is_refused_before_anything_is_built(
    configure: Callable[..., Any], overrides: list[str], said: str
):
    begin = r"paradigm\.signals_engine=vllm gives the likeliest tokens of a cached teacher at"
    with pytest.raises(ValueError, match=f"^{begin} temperature 1, and .*{said}.*") as caught:
        configure(*SMALL, VLLM, *overrides)
    assert str(caught.value).endswith(", or set paradigm.signals_engine=loop")


def test_several_ranks_are_refused(configure: Callable[..., Any]):
    config = configure(*SMALL, VLLM)
    with pytest.raises(ValueError, match="this launch has 2 ranks; run it in one process, or set"):
        check(config, ranks=2)


@pytest.mark.parametrize("engine", ["transformers", "url"])
def test_other_engines_are_refused_since_they_say_nothing_of_a_prompt(
    configure: Callable[..., Any], engine: str
):
    with pytest.raises(Exception, match=f"signals_engine={engine} cannot be used, as only vLLM gi"):
        configure(*SMALL, f"paradigm.signals_engine={engine}")


def test_a_baseline_that_asks_no_teacher_stands_beside_it_in_a_sweep(
    configure: Callable[..., Any],
):
    assert configure("gpu=cpu", "paradigm=sft", VLLM).paradigm.signals_engine == "vllm"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--max-logprobs=9", "but kdwatts sets --max-logprobs itself; set paradigm.response.k"),
        ("--max-model-len=9", "but kdwatts sets --max-model-len itself; set training.sequence_len"),
        ("--logprobs-mode=raw_logits", "but kdwatts sets --logprobs-mode itself; leave it out"),
        ("--quantization=fp8", "needs the teacher's own probabilities; leave it out, or set"),
        ("--kv-cache-dtype=fp8", "needs the teacher's own probabilities; leave it out, or set"),
    ],
)
def test_flags_with_which_the_probabilities_would_be_others_are_refused(
    configure: Callable[..., Any], engine: tuple[str, ...], flag: str, said: str
):
    config = configure("until=teacher", *SMALL, *engine, f"eval.serving.vllm.flags=['{flag}']")
    with pytest.raises(ValueError, match=f"^eval.serving.vllm.flags has {flag[:7]}.*{said}"):
        teacher.settings(config)
