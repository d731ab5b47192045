"""Which code a run's stages record, and what becomes of an artifact whose code changed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from torch import Tensor

from kdwatts.artifacts.artifact import ARTIFACT_NAME
from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.cli.attempt import run_in
from kdwatts.cli.preflight import compose
from kdwatts.config import paradigm
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config
from kdwatts.losses.feature import DISTANCES
from kdwatts.losses.plain import plain
from kdwatts.losses.response import DIVERGENCES, forward_kl, reverse_kl
from kdwatts.models.layers import LAYER_MAPS
from kdwatts.records.files import read_json, write_json
from kdwatts.runtime import plugins
from kdwatts.runtime.fingerprint import stage_key
from kdwatts.runtime.paths import conf_dir
from kdwatts.stages import distill
from kdwatts.stages.graph import PlannedStage, plan
from kdwatts.stages.named_code import LEVELS, NAMED, SUPPORTS, code_keys
from kdwatts.training.projectors import PROJECTORS
from tests.plugin_package import install

DENSE = ("paradigm=response", "paradigm.teacher=online", "paradigm.response.support=dense")
OPTION = "paradigm.response.divergence=forward_kl"


def tree_of(*overrides: str) -> DictConfig:
    return resolve_gpu(compose(["training=smoke", "gpu=cpu", "eval=none", *overrides]), [])


def config_of(*overrides: str) -> Config:
    return to_config(tree_of(*overrides))


def stages_of(*overrides: str) -> dict[str, PlannedStage]:
    return {planned.name: planned for planned in plan(config_of(*overrides), [])}


@pytest.mark.parametrize(
    ("overrides", "stage", "options"),
    [
        (["paradigm=sft"], "distill", ["paradigm.ce"]),
        (["paradigm=response"], "distill", ["paradigm.ce", "paradigm.response.support=top_k"]),
        (["paradigm=response"], "teacher", ["paradigm.teacher=cached"]),
        (DENSE, "distill", ["paradigm.ce", OPTION, "paradigm.teacher=online"]),
        (
            ["paradigm=feature"],
            "distill",
            [
                "paradigm.ce",
                "paradigm.feature.distance=normalized_mse",
                "paradigm.feature.projector=linear",
                "paradigm.feature.layers=uniform",
                "paradigm.teacher=online",
            ],
        ),
        (
            ["paradigm=on_policy"],
            "distill",
            [
                "paradigm.response.divergence=jsd",
                "paradigm.teacher=online",
                "paradigm.text=student",
            ],
        ),
        (["paradigm=sft"], "shards", []),
    ],
)
def test_a_stage_names_the_code_of_its_own_options_alone(
    overrides: list[str], stage: str, options: list[str]
):
    found = code_keys(stage, config_of(*overrides))
    assert list(found) == options
    assert all(found.values())


def test_every_option_that_ships_names_code_that_can_be_read():
    for path in (conf_dir() / "paradigm").glob("*.yaml"):
        config = config_of(f"paradigm={path.stem}")
        assert all(all(code_keys(stage, config).values()) for stage in NAMED)


def test_the_schema_names_the_functions_that_there_are():
    assert set(paradigm.DISTANCES) == set(DISTANCES)
    # The universal one compares ranks; it is a term of its own.
    assert set(paradigm.DIVERGENCES) == {*DIVERGENCES, "universal"}
    # Pairs that are given, or measured on the models, are no function of their depths.
    assert set(paradigm.LAYER_MAPS) == {*LAYER_MAPS, "explicit", "cka"}
    assert set(paradigm.PROJECTORS) == {*PROJECTORS, "none"}
    assert set(paradigm.LEVELS) == set(LEVELS)
    assert set(paradigm.SUPPORTS) == {*SUPPORTS, "dense"}


def test_a_name_of_the_schema_without_a_function_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(DISTANCES, "normalized_mse")
    message = "paradigm.feature.distance=normalized_mse is in the schema and names no function; add"
    with pytest.raises(ValueError, match=message):
        stages_of("paradigm=feature")


def test_by_default_code_is_in_no_key(monkeypatch: pytest.MonkeyPatch):
    before = stages_of(*DENSE)["distill"]
    monkeypatch.setitem(DIVERGENCES, "forward_kl", reverse_kl)
    after = stages_of(*DENSE)["distill"]
    assert before.key == after.key and before.code != after.code
    assert "code" not in before.settings
    # As it was before code had keys.
    asked = {**distill.settings(config_of(*DENSE)), "hardware": before.settings["hardware"]}
    parents = list(before.parents.values())
    assert before.key == stage_key("distill", distill.VERSION, asked, parents)


@pytest.mark.parametrize("name", [*DIVERGENCES, "universal"])
def test_only_divergences_whose_slopes_changed_have_another_key_than_before(name: str):
    asked = distill.settings(config_of(*DENSE, f"paradigm.response.divergence={name}"))
    assert ("divergence_revision" in asked) == (name in ("total_variation", "universal"))


def test_strict_puts_code_into_the_keys_of_what_it_builds_and_of_what_stands_on_it(
    monkeypatch: pytest.MonkeyPatch,
):
    asked = (*DENSE, "store.code=strict", "until=inference", "eval=tiny")
    before = stages_of(*asked)
    monkeypatch.setitem(DIVERGENCES, "forward_kl", reverse_kl)
    after = stages_of(*asked)
    changed = {name for name in before if before[name].key != after[name].key}
    # What serving it costs does not depend on what it was taught.
    assert changed == {"distill", "evaluate_student"}


def install_gap(site: Path, power: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package on the path whose divergence, distance and map are of one helper's power."""
    for module in ("gaps", "gaps.functions", "gaps.helpers"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    (site / "gaps").mkdir(parents=True)
    (site / "gaps" / "__init__.py").touch()
    modules = {
        "gaps/helpers": f"def powered(gap):\n    return {power}\n",
        "gaps/functions": "from gaps.helpers import powered\n\n\n"
        "def gap(student, teacher):\n    return powered(student - teacher).mean(-1)\n\n\n"
        "def pairs(num_student_layers, num_teacher_layers):\n    return [(powered(0), 0)]\n",
    }
    groups = {
        plugins.DIVERGENCES: {"gap": "gaps.functions:gap"},
        plugins.DISTANCES: {"gap": "gaps.functions:gap"},
        plugins.LAYER_MAPS: {"first": "gaps.functions:pairs"},
    }
    install(site, "gaps", groups, modules)
    monkeypatch.syspath_prepend(site)


def test_the_code_of_a_packages_functions_is_told_of_as_ours_is_down_to_what_it_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = (
        *("paradigm=combined", "paradigm.response.support=dense"),
        *("paradigm.response.divergence=gap", "paradigm.feature.distance=gap"),
        "paradigm.feature.layers=first",
    )
    options = [word for word in asked if word.endswith(("=gap", "=first"))]
    found = []
    for site, power in (("a", "gap**2"), ("b", "gap  **  2"), ("c", "gap**4")):
        install_gap(tmp_path / site, power, monkeypatch)
        stages = [stages_of(*asked, f"store.code={rule}")["distill"] for rule in ("warn", "strict")]
        assert all(stages[0].code[option] for option in options)
        found.append(([stages[0].code[option] for option in options], *(n.key for n in stages)))
    (first, warn_key, strict_key), again, (changed, same_key, other_key) = found
    assert again == (first, warn_key, strict_key)
    assert all(one != other for one, other in zip(first, changed, strict=True))
    assert same_key == warn_key and other_key != strict_key


def test_the_class_of_an_object_that_is_called_as_a_function_is_part_of_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = ("paradigm.response.divergence=gap", "paradigm.feature.distance=gap")
    found = []
    for power in (2, 2, 4):
        monkeypatch.delitem(sys.modules, "gap_object", raising=False)
        site = tmp_path / str(len(found))
        site.mkdir()
        source = (
            "class Gap:\n    def __call__(self, student, teacher):\n"
            f"        return (student - teacher).pow({power}).mean(-1)\n\n\ngap = Gap()\n"
        )
        groups = {plugins.DIVERGENCES: {"gap": "gap_object:gap"}}
        groups[plugins.DISTANCES] = groups[plugins.DIVERGENCES]
        install(site, "gap-object", groups, {"gap_object": source})
        monkeypatch.syspath_prepend(site)
        planned = stages_of("paradigm=combined", "paradigm.response.support=dense", *asked)[
            "distill"
        ]
        found.append([planned.code[option] for option in asked])
    first, again, changed = found
    assert again == first
    assert all(one and one != other for one, other in zip(first, changed, strict=True))


def test_blocks_that_a_packages_map_pairs_are_in_the_key_and_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = ("paradigm=feature", "paradigm.feature.layers=first")
    keys = []
    for site, power in (("a", "gap + 0"), ("b", "gap + 1")):
        install_gap(tmp_path / site, power, monkeypatch)
        keys.append(stages_of(*asked)["distill"].key)
    assert keys[0] != keys[1]
    install_gap(tmp_path / "c", "gap + 99", monkeypatch)
    with pytest.raises(
        ValueError, match=r"^paradigm\.feature\.layers=first returns the pairs \[\(99, "
    ):
        stages_of(*asked)


def test_strict_refuses_code_without_a_source(monkeypatch: pytest.MonkeyPatch):
    space: dict[str, Any] = {"__name__": "nowhere"}
    exec("def own(block, weight, *, temperature):\n    return block\n", space)
    monkeypatch.setitem(DIVERGENCES, "forward_kl", space["own"])
    assert stages_of(*DENSE)["distill"].code[OPTION] is None
    with pytest.raises(ValueError, match=r"store.code=strict needs the source of what paradigm\."):
        stages_of(*DENSE, "store.code=strict")


def test_an_unknown_rule_for_code_is_refused():
    with pytest.raises(
        ValueError, match=r"store.code=loose is unknown; choose one of warn, strict"
    ):
        config_of("store.code=loose")


def test_a_student_that_other_code_built_is_reused_under_one_warning_or_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="kdwatts")

    def run(name: str, *overrides: str) -> list[str]:
        """What the run says of the student, warnings marked."""
        caplog.clear()
        tree = tree_of(f"store_dir={tmp_path}/store", "until=distill", *DENSE, *overrides)
        (tmp_path / name).mkdir()
        run_in(tmp_path / name, tree)
        said = [
            f"{record.levelname} {record.getMessage()}"
            for record in caplog.records
            if record.name == "kdwatts.pipeline"
        ]
        return [line for line in said if "distill:" in line]

    (built,) = run("first")
    assert built.startswith("INFO distill: built")
    (record,) = [read_json(path) for path in tmp_path.glob(f"store/distill/*/{ARTIFACT_NAME}")]
    first = record["code"][OPTION]
    assert run("again")[0].startswith("INFO distill: reused")

    def thrice(student_nV: Tensor, teacher_nV: Tensor, *, temperature: float) -> Tensor:
        gap_nV = student_nV.log_softmax(-1) - teacher_nV.log_softmax(-1)
        return -3 * (gap_nV * teacher_nV.softmax(-1)).sum(-1)

    monkeypatch.setitem(DIVERGENCES, "forward_kl", plain(thrice))
    second = code_keys("distill", config_of(*DENSE))[OPTION]
    warning, reused = run("other")
    assert warning.startswith(
        f"WARNING distill: the artifact {record['key']} was built by other code: the code of "
        f"{OPTION} was {first} and is {second}; it is reused all the same, set store.code=strict "
    )
    assert reused.startswith("INFO distill: reused")
    (built,) = run("strict", "store.code=strict")
    assert built.startswith("INFO distill: built")

    monkeypatch.setitem(DIVERGENCES, "forward_kl", forward_kl)
    (reused,) = run("back")
    assert reused.startswith("INFO distill: reused")
    # An artifact from before code had keys says nothing.
    path = tmp_path / "store" / "distill" / record["key"] / ARTIFACT_NAME
    del record["code"]
    write_json(path, record)
    monkeypatch.setitem(DIVERGENCES, "forward_kl", plain(thrice))
    (reused,) = run("old")
    assert reused.startswith("INFO distill: reused")
