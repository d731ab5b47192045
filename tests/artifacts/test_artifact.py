from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdwatts.artifacts.artifact import (
    ARTIFACT_NAME,
    Artifact,
    component_energy_j,
    in_words,
    make_record,
    other_code,
    read_artifact,
)
from kdwatts.metrics.quantity import MISSING_J, Quantity
from kdwatts.records.files import write_json


def _attempt(gpu_j: float | None, cpu_j: float | None) -> dict[str, Any]:
    energy_j = {"gpu": gpu_j, "cpu": cpu_j, "dram": None}
    quality = {name: "missing" if j is None else "measured" for name, j in energy_j.items()}
    uncertainty_j = {name: None if j is None else 1.0 for name, j in energy_j.items()}
    return {"energy_j": energy_j, "quality": quality, "uncertainty_j": uncertainty_j}


def _record(*attempts: dict[str, Any]) -> dict[str, Any]:
    identity = {
        "stage": "distill",
        "key": "k1",
        "parents": ["k0"],
        "reads": [],
        "settings": {"seed": 0},
        "code": {"paradigm.response.divergence=own": "1a2b", "paradigm.ce": None},
    }
    return make_record(
        identity, attempts=list(attempts), run="run-1", gpus=["NVIDIA H100 80GB HBM3"]
    )


@pytest.mark.parametrize(
    ("energy", "words"),
    [
        (Quantity(412.4, unit="J", quality="measured"), "412 J"),
        (Quantity(999.6, unit="J", quality="measured"), "1 kJ"),
        (Quantity(3_140_000, unit="J", quality="measured"), "3.14 MJ"),
        (Quantity(7.2e9, unit="J", quality="mixed"), "7.2 GJ (mixed)"),
        (Quantity(0.0, unit="J", quality="measured"), "0 J"),
        (Quantity(1500, unit="J", quality="estimated"), "1.5 kJ (estimated)"),
        (MISSING_J, "energy not measured"),
    ],
)
def test_an_energy_is_said_in_the_unit_that_fits_and_with_its_quality(energy: Quantity, words: str):
    assert in_words(energy) == words


def test_an_artifact_read_from_its_folder_says_what_all_its_attempts_drew(tmp_path: Path):
    record = _record(_attempt(1000, 200), _attempt(300, 100))
    write_json(tmp_path / ARTIFACT_NAME, record)
    artifact = read_artifact(tmp_path)
    assert artifact.reused
    assert artifact.key == "k1"
    assert artifact.energy.value == 1600
    assert artifact.cost_in_words() == "1.6 kJ spent by run run-1"
    assert [component_energy_j(record, name) for name in ("gpu", "cpu", "dram")] == [
        1300,
        300,
        None,
    ]


def test_an_attempt_that_nobody_measured_makes_the_artifact_s_energy_missing(tmp_path: Path):
    record = _record(_attempt(1000, 200), _attempt(None, None))
    artifact = Artifact(tmp_path, record, reused=False)
    assert artifact.energy == MISSING_J
    assert artifact.cost_in_words() == "energy not measured by run run-1"
    assert component_energy_j(record, "gpu") is None


def test_a_folder_of_the_store_without_a_record_is_refused_by_its_path(tmp_path: Path):
    with pytest.raises(
        ValueError, match=rf"{tmp_path} has no artifact.json.*; delete the folder and run"
    ):
        read_artifact(tmp_path)
    write_json(tmp_path / ARTIFACT_NAME, {**_record(), "schema": 2})
    with pytest.raises(ValueError, match="schema is 2"):
        read_artifact(tmp_path)


OWN = "paradigm.response.divergence=own"


@pytest.mark.parametrize(
    ("today", "words"),
    [
        ({OWN: "1a2b"}, []),
        ({OWN: "3c4d"}, [f"the code of {OWN} was 1a2b and is 3c4d"]),
        ({OWN: None}, []),  # Its source cannot be read today.
        ({"paradigm.ce": "5e6f"}, []),  # It could not when this was built.
        ({"paradigm.teacher=online": "7a8b"}, []),  # Nothing was said of it then.
        ({}, []),
    ],
)
def test_other_code_is_told_by_both_its_keys_and_unknown_code_is_no_other(
    today: dict[str, str | None], words: list[str]
):
    assert other_code(_record(), today) == words


def test_a_record_from_before_code_had_keys_tells_of_no_other_code():
    record = _record()
    del record["code"]
    assert other_code(record, {OWN: "3c4d"}) == []
