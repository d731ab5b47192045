"""A word that no run of a command reads is refused; one that some run reads is not."""

from __future__ import annotations

import re
import typing

import pytest

from kdwatts.cli.effects import READ_BY
from kdwatts.cli.preflight import preflight
from kdwatts.config.experiment import Config

ENGINE = "eval.serving.engine=transformers"

READ = {
    "until=evaluate": "eval=tiny",
    "paradigm.teacher=online": "paradigm=response",
    "paradigm.generate.seed=1": "paradigm=sequence",
    "paradigm.response.k=8": "paradigm=response",
    "paradigm.response.cache_precision=f16": "paradigm=response",
    "paradigm.response.teacher_temperatures=[1]": "paradigm=response",
    "paradigm.signals_engine=loop": "paradigm=response",
    "paradigm.response.num_samples=8": "paradigm.response.support=sampled",
    "paradigm.response.beta=0.3": "paradigm.response.divergence=jsd",
    "paradigm.response.skew=0.3": "paradigm.response.divergence=skew_kl",
    "paradigm.relational.group_size=4": "paradigm=relational",
    "paradigm.relational.tokens=8": "paradigm=relational_token",
    "paradigm.relational.relation_heads=4": "paradigm=attention",
    "paradigm.relational.teacher_block=1": "paradigm=attention",
    "paradigm.relational.distance_weight=2": "paradigm=relational",
    "paradigm.relational.angle_weight=1": "paradigm=relational",
    "training.heldout_tokens=64": "training.heldout_every=2",
    "data.sample_seed=1": "data.fraction=0.5",
    "data.decontaminate.ngram=9": "data.decontaminate.mode=report",
    "eval.batch_size=4": "eval=tiny",
    "eval.apply_chat_template=true": "eval=tiny",
    "eval.data_dir=/a": "eval=tiny",
    "eval.tasks_dir=/a": "eval=tiny",
    "eval.engine=transformers": "eval=tiny",
    "eval.lighteval.tasks_file=/a": "eval=lighteval",
    "eval.serving.concurrency=[2]": ENGINE,
    "eval.serving.rates_per_s=[2]": ENGINE,
    "eval.serving.arrivals=constant": f"{ENGINE} eval.serving.rates_per_s=[2]",
    "eval.serving.burstiness=0.5": f"{ENGINE} eval.serving.arrivals=gamma "
    "eval.serving.rates_per_s=[2]",
    "eval.serving.workload.output_tokens=8": ENGINE,
    "eval.serving.replay.log=/a": ENGINE,
    "eval.serving.replay.format=azure": f"{ENGINE} eval.serving.replay.log=/a",
    "eval.serving.replay.speeds=[2]": f"{ENGINE} eval.serving.replay.log=/a",
    "eval.serving.replay.from_s=2": f"{ENGINE} eval.serving.replay.log=/a",
    "eval.serving.replay.for_s=2": f"{ENGINE} eval.serving.replay.log=/a",
    "eval.serving.replay.sessions=apart": f"{ENGINE} eval.serving.replay.log=/a",
    "eval.serving.slo.e2e_p99_s=1": ENGINE,
    "eval.serving.point=4": ENGINE,
    "eval.serving.min_window_s=5": ENGINE,
    "eval.serving.max_window_s=90": ENGINE,
    "eval.serving.parking_settle_s=1": ENGINE,
    "eval.serving.parking_s=0": ENGINE,
    "eval.serving.request_timeout_s=9": ENGINE,
    "eval.serving.start_timeout_s=9": ENGINE,
    "eval.serving.measurements=1": ENGINE,
    "eval.serving.transformers.flags=[--x]": ENGINE,
    "eval.serving.vllm.flags=[--x]": "eval.serving.engine=vllm model=qwen25_7b_to_0b5",
    "eval.serving.vllm.python=/a": "paradigm=sequence paradigm.generate.engine=vllm",
    "eval.serving.transformers.flags=[--y]": "eval=tiny eval.engine=transformers",
    "eval.serving.start_timeout_s=8": "eval=tiny eval.engine=transformers",
    "eval.serving.url.student=http://a": "eval.serving.engine=url eval.serving.url.teacher=http://b",
    "telemetry.cpu_tdp_w=65": "telemetry.cpu_estimate=tdp",
    "telemetry.cpu_tdp_threads=8": "telemetry.cpu_estimate=tdp",
    "telemetry.cpu_tdp_source=x": "telemetry.cpu_estimate=tdp",
    "model.tokenizer_revision=main": "model=qwen25_7b_to_0b5",
    "model.student.revision=main": "model=qwen25_7b_to_0b5",
    "model.teacher.revision=main": "model=qwen25_7b_to_0b5",
}
"""A word that is not always read to what has it read."""

UNREAD = {
    "until": ["eval=none"],
    "paradigm.teacher": ["paradigm=sft"],
    "paradigm.signals_engine": ["paradigm.teacher=online"],
    "paradigm.generate.seed": ["paradigm=on_policy"],
    "paradigm.response.k": ["paradigm.response.support=dense"],
    "paradigm.response.cache_precision": ["paradigm.response.support=dense"],
    "paradigm.response.teacher_temperatures": ["paradigm.response.support=dense"],
    "paradigm.relational.group_size": ["paradigm=relational_token"],
    "paradigm.relational.tokens": ["paradigm=relational"],
    "paradigm.relational.relation_heads": ["paradigm=relational"],
    "paradigm.relational.teacher_block": ["paradigm=relational"],
    "paradigm.relational.distance_weight": ["paradigm=attention"],
    "paradigm.relational.angle_weight": ["paradigm=attention"],
    "training.heldout_tokens": ["training.heldout_every=0"],
    "data.decontaminate.ngram": ["data.decontaminate.mode=off"],
    "eval.batch_size": ["eval=none"],
    "eval.apply_chat_template": ["eval=none"],
    "eval.data_dir": ["eval=none"],
    "eval.tasks_dir": ["eval=none"],
    "eval.engine": ["eval=none"],
    "eval.serving.burstiness": ["eval.serving.arrivals=gamma"],
    **{
        f"telemetry.cpu_tdp_{name}": ["telemetry.cpu_estimate=off"]
        for name in ("w", "threads", "source")
    },
}
"""What has a setting not read, where the defaults do not already."""


def _key(word: str) -> str:
    return word.partition("=")[0]


def _asked(word: str, *others: str) -> list[str]:
    dense = word.startswith(("paradigm.response.beta", "paradigm.response.skew"))
    needed = ["paradigm.response.support=dense"] if dense else []
    needed += ["eval.inference=null"] if "eval=lighteval" in others else []
    spread = [part for other in others for part in other.split()]
    return [word, *spread, *needed, "gpu=cpu", "training=smoke"]


@pytest.mark.parametrize("word", READ)
def test_a_word_that_no_run_reads_is_refused_with_what_would_read_it(word: str):
    with pytest.raises(ValueError, match=f"^{re.escape(word)} has no effect on any run of this co"):
        preflight(_asked(word, *UNREAD.get(_key(word), [])), multirun=False)


@pytest.mark.parametrize(("word", "reader"), READ.items())
def test_a_word_that_a_run_reads_is_let_pass(word: str, reader: str):
    (config,) = preflight(_asked(word, reader), multirun=False)
    assert isinstance(config, Config)


@pytest.mark.parametrize("word", ["speeds=[2]", "from_s=2", "for_s=2", "format=azure"])
def test_a_plan_reads_a_log_without_an_engine(word: str):
    words = ["until=plan", "eval.serving.replay.log=/a", f"eval.serving.replay.{word}"]
    (config,) = preflight([*words, "gpu=cpu", "training=smoke"], multirun=False)
    assert not config.eval.serving.is_measured


def test_every_rule_is_tried_here_and_is_of_a_setting_that_there_is():
    tried = {_key(word) for word in READ}
    # Some rules are of a whole group, of which one setting is tried.
    groups = {key.rpartition(".")[0] for key in tried} & set(READ_BY)
    assert {key for key in tried if key.rpartition(".")[0] not in groups} | groups == set(READ_BY)
    for name in READ_BY:
        group = Config
        for part in name.split("."):
            hint = typing.get_type_hints(group)[part]
            group = next((arg for arg in typing.get_args(hint) if hasattr(arg, "__mro__")), hint)


def test_in_a_sweep_one_run_that_reads_a_word_is_enough():
    sweep = ["paradigm.response.support=dense", "paradigm.response.beta=0.3", "gpu=cpu"]
    both = [*sweep, "paradigm.response.divergence=forward_kl,jsd"]
    assert len(preflight(both, multirun=True)) == 2
    with pytest.raises(ValueError, match=r"^paradigm\.response\.beta=0\.3 has no effect on any"):
        preflight([*sweep, "paradigm.response.divergence=forward_kl,reverse_kl"], multirun=True)


def test_runs_and_what_is_answered_without_a_run_do_not_go_by_one_command():
    with pytest.raises(ValueError, match=r"^until is swept over plan, distill: prefetch and"):
        preflight(["until=plan,distill", "gpu=cpu"], multirun=True)
    assert len(preflight(["until=shards,distill", "gpu=cpu"], multirun=True)) == 2
