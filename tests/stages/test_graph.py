"""The keys of a run that goes on with another number of nodes or ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdwatts.artifacts.manifest import write_manifest
from kdwatts.artifacts.store import Store
from kdwatts.runtime.ranks import Launch
from kdwatts.stages.graph import PlannedStage, plan, plan_of_attempt
from kdwatts.telemetry.node_facts import facts_of_this_node

SMALL = ("gpu=cpu", "paradigm=sft", "training=smoke", "eval=none", "training.accumulation=4")


@pytest.fixture
def begun(configure: Callable[..., Any], tmp_path: Path) -> Any:
    """The configuration of a run that four ranks of two nodes began in tmp_path."""
    config = configure(
        *SMALL, f"store_dir={tmp_path}/store", "training.parallel=fsdp", "training.precision=bf16"
    )
    nodes = [facts_of_this_node([], number=n, ranks=(2 * n - 2, 2 * n - 1)) for n in (1, 2)]
    write_manifest(tmp_path, config, nodes, attempt=1, overrides=[])
    return config


def student(stages: list[PlannedStage]) -> dict[str, Any]:
    (found,) = [planned.identity for planned in stages if planned.stage == "distill"]
    return found


def keys(stages: list[PlannedStage]) -> list[str]:
    return [planned.key for planned in stages]


def test_a_run_with_a_checkpoint_keeps_the_key_of_its_first_launch(
    begun: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    first, alone = (student(plan(begun, [], launch)) for launch in (Launch(2, 4), Launch()))
    assert first["key"] != alone["key"]
    # Shards are rounded in the key of the first launch, though one rank has none.
    assert (first["settings"]["shards"], "shards" in alone["settings"]) == ("bf16", False)
    assert first["settings"]["hardware"]["nodes"] == 2
    scratch = Store(begun.store_dir).scratch_dir("distill", first["key"])
    (scratch / "checkpoints" / "step-000010").mkdir(parents=True)
    assert student(plan_of_attempt(begun, [], Launch(), tmp_path)) == first
    assert caplog.messages == [
        "the run began with 4 ranks of 2 nodes and goes on with 1 rank of 1 node; its student "
        "keeps the key of the first start, and manifest.json has the launch of each attempt"
    ]


def test_what_is_measured_after_the_student_has_the_key_of_the_launch_that_measures_it(
    begun: Any, configure: Callable[..., Any], tmp_path: Path
):
    config = configure(*SMALL, f"store_dir={tmp_path}/store", "eval=tiny", "until=evaluate")
    trained = student(plan(config, [], Launch(2, 4)))
    with Store(config.store_dir).claim("distill", trained["key"]) as claim:
        claim.commit()
    stages = {planned.name: planned for planned in plan_of_attempt(config, [], Launch(), tmp_path)}
    scored = stages["evaluate_student"]
    assert scored.parents["distill"] == trained["key"]
    assert trained["settings"]["hardware"]["nodes"] == 2
    assert "nodes" not in scored.settings["hardware"]
    # No other launch finds these joules under its key.
    there = {planned.name: planned.key for planned in plan(config, [], Launch(2, 4))}
    assert scored.key != there["evaluate_student"]


def test_a_finished_student_is_found_by_the_launch_that_evaluates_it(begun: Any, tmp_path: Path):
    key = student(plan(begun, [], Launch(2, 4)))["key"]
    with Store(begun.store_dir).claim("distill", key) as claim:
        claim.commit()
    assert student(plan_of_attempt(begun, [], Launch(), tmp_path))["key"] == key


def test_a_run_that_left_nothing_begins_anew_under_its_own_key(
    begun: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    first = student(plan(begun, [], Launch(2, 4)))
    Store(begun.store_dir).scratch_dir("distill", first["key"]).mkdir(parents=True)
    alone = student(plan(begun, [], Launch()))
    assert student(plan_of_attempt(begun, [], Launch(), tmp_path)) == alone
    assert caplog.messages == []


def test_a_plan_without_a_launch_is_that_of_this_process(begun: Any, tmp_path: Path):
    assert keys(plan(begun, [])) == keys(plan(begun, [], Launch()))
    again = plan_of_attempt(begun, [], Launch(2, 4), tmp_path)
    assert keys(again) == keys(plan(begun, [], Launch(2, 4)))
