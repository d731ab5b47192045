"""The record of an artifact: what it is, what it was built from, and what building it cost."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdwatts.metrics.quantity import Quantity, add
from kdwatts.metrics.window_energy import window_energy, window_net_energy_j
from kdwatts.records.files import read_json
from kdwatts.records.schema import COMPONENTS, SCHEMA

ARTIFACT_NAME = "artifact.json"


@dataclass(frozen=True)
class Artifact:
    """A finished folder of the store with its record."""

    directory: Path
    record: dict[str, Any]
    reused: bool
    """Whether this run found it in the store."""

    @property
    def key(self) -> str:
        """The key: 16 hexadecimal digits."""
        return self.record["key"]

    @property
    def energy(self) -> Quantity:
        """Joules of building it, over all attempts."""
        return record_energy(self.record)

    def cost_in_words(self) -> str:
        """Its energy and who spent it, for a line of log."""
        spent = "spent by" if self.energy.value is not None else "by"
        return f"{in_words(self.energy)} {spent} run {self.record['run']}"


def in_words(energy: Quantity) -> str:
    """An energy with a fitting unit: `3.1 MJ`, `412 J (estimated)`, `energy not measured`."""
    if energy.value is None:
        return "energy not measured"
    value, unit = energy.value, "J"
    for larger in ("kJ", "MJ", "GJ"):
        if value < 999.5:  # What rounds to 1000 is 1 of the next unit.
            break
        value, unit = value / 1000, larger
    suffix = "" if energy.quality == "measured" else f" ({energy.quality})"
    return f"{value:.3g} {unit}{suffix}"


def make_record(
    identity: dict[str, Any], *, attempts: list[dict[str, Any]], run: str, gpus: list[str]
) -> dict[str, Any]:
    """The content of artifact.json: `PlannedStage.identity`, and how the artifact was built.

    `attempts` are window records. The last one is that of the run that finished it.
    """
    return {
        "schema": SCHEMA,
        **identity,
        "attempts": attempts,
        "run": run,
        "host": socket.gethostname(),
        "gpus": gpus,
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def read_artifact(directory: Path) -> Artifact:
    """The artifact in a folder of the store.

    Raises ValueError when its record is missing, broken, or of a newer kdwatts.
    """
    path = directory / ARTIFACT_NAME
    if not path.is_file():
        raise ValueError(
            f"store: {directory} has no {ARTIFACT_NAME}, so it is not known what it holds; delete "
            "the folder and run again"
        )
    return Artifact(directory, read_json(path), reused=True)


def other_code(record: dict[str, Any], code: dict[str, str | None]) -> list[str]:
    """The code of an artifact that has changed since, in words. Empty where this is unknown.

    Older records have no keys of code.
    """
    built = record.get("code", {})
    return [
        f"the code of {option} was {built[option]} and is {key}"
        for option, key in code.items()
        if key and built.get(option) and built[option] != key
    ]


def record_energy(record: dict[str, Any]) -> Quantity:
    """Joules over all attempts of an artifact's record."""
    return add(map(window_energy, record["attempts"]), unit="J")


def component_energy_j(record: dict[str, Any], component: str) -> float | None:
    """Joules of one component over all attempts. None if one attempt lacks it."""
    assert component in COMPONENTS
    parts = [row["energy_j"][component] for row in record["attempts"]]
    return None if None in parts else sum(parts)


def net_energy_j(record: dict[str, Any]) -> float | None:
    """Joules over all attempts, less the joules that idle devices would have drawn.

    It covers the components that `record_energy` adds. None if idle power of one of them is
    unknown.
    """
    nets_j = [window_net_energy_j(row) for row in record["attempts"]]
    return None if None in nets_j else sum(net_j or 0.0 for net_j in nets_j)
