"""Every pair, on every GPU, under every paradigm: planned without a network or a download."""

from __future__ import annotations

import copy
import re
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from kdwatts.artifacts.store import Store
from kdwatts.cli.preflight import compose
from kdwatts.config.checks import check, to_config
from kdwatts.config.device_choices import settle_again
from kdwatts.config.experiment import Config
from kdwatts.config.machine import Gpu
from kdwatts.config.paradigm import Paradigm
from kdwatts.memory.budget import estimate
from kdwatts.planning.demands import available_gib, is_allowed, workload_of
from kdwatts.planning.describe import describe
from kdwatts.planning.feasibility import unmade_teacher
from kdwatts.planning.fits import check_memory
from kdwatts.planning.suggest import Suggestion, suggest
from kdwatts.runtime.paths import conf_dir
from kdwatts.runtime.ranks import Launch
from kdwatts.stages.graph import plan


def _options(group: str, *, without: tuple[str, ...] = ()) -> list[str]:
    return sorted(
        path.stem for path in (conf_dir() / group).glob("*.yaml") if path.stem not in without
    )


REMEDY = re.compile(
    r"the same steps fit|set model.teacher.quantization=int[48]|set paradigm.generate.batch_size=\d"
    r"|set eval=none, or choose|choose a larger GPU or a smaller pair|lower paradigm.generate"
)
PAIRS, PARADIGMS = _options("model"), _options("paradigm")
GPUS = _options("gpu", without=("auto", "cpu"))


@cache
def _pair(pair: str) -> Config:
    return to_config(compose([f"model={pair}", "gpu=h100", "paradigm=sft"]))


@cache
def _group(paradigm: str) -> Paradigm:
    return to_config(compose([f"paradigm={paradigm}"])).paradigm


@cache
def _gpu(gpu: str) -> Gpu:
    return to_config(compose([f"gpu={gpu}"])).gpu


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a plan opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _runs(pair: str, paradigm: str) -> Iterator[Config]:
    """The pair under the paradigm on each GPU; none where they are refused together."""
    config = copy.deepcopy(_pair(pair))
    config.paradigm = _group(paradigm)
    relational = config.paradigm.relational
    if relational and relational.level == "sequence" and config.training.micro_batch < 8:
        config.training.micro_batch = relational.group_size
    settle_again(config)
    try:
        check(config)
    except ValueError as refusal:
        assert pair in str(refusal) or paradigm in str(refusal)
        return
    for gpu in GPUS:
        config.gpu = _gpu(gpu)
        settle_again(config)
        yield config


@pytest.mark.parametrize("paradigm", PARADIGMS)
@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_is_planned_on_every_gpu(pair: str, paradigm: str, tmp_path: Path):
    store, stages = Store(tmp_path), []
    for config in _runs(pair, paradigm):
        if not stages and not unmade_teacher(config.model):
            stages = plan(config, [])
        text = describe(config, stages, store, [])
        gpu = config.gpu.name
        assert f"paradigm={paradigm} model={pair} " in text and f"gpu={gpu} " in text
        assert "kWh" in text and "steps/s" in text
        budget = estimate(workload_of(config))
        assert budget.activations_gib > 0 and budget.student_state_gib > 0
        assert (budget.teacher_gib > 0) == (
            config.paradigm.needs_signals and config.paradigm.teacher == "online"
        )
        found = suggest(config)
        if found:
            _take(config, found)
        try:
            check_memory(config)
        except ValueError as refusal:
            told = str(refusal)
            assert not is_allowed(config)
            assert f"gpu={gpu}" in told and f"room for {available_gib(config):.0f}" in told
            assert REMEDY.search(told), told
        else:
            assert is_allowed(config) and found


def _take(config: Config, found: Suggestion) -> None:
    """Assert that a suggestion keeps the step's rows and that our own checks allow it."""
    taken = copy.deepcopy(config)
    for override in found.overrides:
        key, _, word = override.partition("=")
        value = int(word) if word.isdigit() else {"true": True, "false": False}.get(word, word)
        setattr(taken.training, key.removeprefix("training."), value)
    settle_again(taken)
    before, after = config.training, taken.training
    assert before.micro_batch * before.accumulation == after.micro_batch * after.accumulation
    assert is_allowed(taken, Launch(1, found.ranks)), (found, config.gpu.name)


def test_what_runs_together_is_planned_and_only_known_pairs_are_refused():
    """A pair without a teacher has sft alone, one of two vocabularies what compares no tokens."""
    planned = {pair: [p for p in PARADIGMS if any(_runs(pair, p))] for pair in PAIRS}
    assert planned.pop("tiny_teacher") == ["sft"]
    assert planned.pop("llama31_8b_to_qwen25_1b5") == ["sft", "universal"]
    assert all(found == PARADIGMS for found in planned.values()), planned


def test_a_teacher_still_to_be_made_is_planned_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (config, *_) = _runs("smollm2_135m_to_81m", "feature")
    text = describe(config, [], Store(tmp_path), [])
    assert "there is no folder runs/models/smollm2-135m-instruct; `make smollm2` makes it" in text
    assert "81.4 M parameters; teacher: 135 M" in text
