"""Every setting that names a file, a folder or a program is read alike, and never when empty."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdwatts.artifacts.store import Store
from kdwatts.config.experiment import Config
from kdwatts.evaluation import lighteval
from kdwatts.stages.evaluate import task_sources

PLACES = {
    "store_dir": "store_dir={}",
    "data.source.path": "data.source.path={}",
    "data.sources.source.path": "data.sources.0.source.path={}",
    "model.tokenizer": "model.tokenizer={}",
    "model.student.path": "model.student.path={}",
    "model.teacher.path": "model.teacher.path={}",
    "eval.data_dir": "eval.data_dir={}",
    "eval.tasks_dir": "eval.tasks_dir={}",
    "eval.lighteval.python": "eval.lighteval.python={}",
    "eval.lighteval.tasks_file": "eval.lighteval.tasks_file={}",
    "eval.inference.prompts": "eval.inference.prompts={}",
    "eval.serving.workload.prompts": "eval.serving.workload.prompts={}",
    "eval.serving.vllm.python": "eval.serving.vllm.python={}",
    "telemetry.rapl_root": "telemetry.rapl_root={}",
    "telemetry.cgroup_root": "telemetry.cgroup_root={}",
    "telemetry.openmetrics": "telemetry.openmetrics={}",
}
"""Setting of the schema to the override that gives it."""


def _settings(group: Any, prefix: str = "") -> Iterator[str]:
    """Dotted name of every setting that holds text."""
    hints = typing.get_type_hints(group)
    for field in dataclasses.fields(group):
        hint = hints[field.name]
        parts = [hint, *typing.get_args(hint)]
        if found := [part for part in parts if dataclasses.is_dataclass(part)]:
            yield from _settings(found[0], f"{prefix}{field.name}.")
        elif str in parts:
            yield prefix + field.name


def test_every_setting_that_is_named_like_a_place_is_among_those_that_are_tried_here():
    named = r"(path|_dir|_file|_root|python|prompts|openmetrics|tokenizer)$"
    assert {name for name in _settings(Config) if re.search(named, name)} == set(PLACES)


@pytest.mark.parametrize("name", PLACES)
def test_an_empty_place_or_one_of_no_variable_is_refused_by_its_name(
    name: str, configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("KDWATTS_NONE", raising=False)
    mix = ["data=tulu3_fineweb"] if name.startswith("data.sources") else []
    key = name.replace("data.sources.", "data.")
    with pytest.raises(ValueError, match=rf"^{key}(=| ).*is empty"):
        configure(*mix, PLACES[name].format(""))
    with pytest.raises(ValueError, match=rf"^{key}=\$KDWATTS_NONE/a refers to the environment"):
        configure(*mix, PLACES[name].format("$KDWATTS_NONE/a"))


def test_the_store_of_an_empty_variable_is_refused(
    configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KDWATTS_STORE", "")
    with pytest.raises(ValueError, match=r"^store_dir is empty, in the command or in the variabl"):
        configure()


def test_store_tasks_and_data_of_tasks_are_found_below_a_variable(
    tmp_path: Path, configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KDWATTS_PLACE", str(tmp_path))
    config = configure(
        "store_dir=$KDWATTS_PLACE/store",
        "eval.data_dir=$KDWATTS_PLACE/data",
        "eval.tasks_dir=${oc.env:KDWATTS_PLACE}/tasks",
    )
    assert Store(config.store_dir).root == tmp_path / "store"
    sources = task_sources(config)
    assert (sources.data_dir, sources.tasks_dir) == (tmp_path / "data", tmp_path / "tasks")


def test_an_interpreter_is_found_below_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KDWATTS_PLACE", str(tmp_path))
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\necho 0.13.0\n")
    interpreter.chmod(0o755)
    assert lighteval.installed_version("$KDWATTS_PLACE/python") == "0.13.0"
