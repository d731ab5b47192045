"""What `python -m kdwatts.doctor` found: doctor.json, and the last one of a host and a GPU."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from kdwatts.records.files import read_json
from kdwatts.records.schema import SCHEMA

DOCTOR_NAME = "doctor.json"
STORE_FOLDER = "doctor"
"""In the store: the last record of each host and GPU."""

VERDICTS = ("right", "attention", "wrong")
COUNTER_CHECK = "counter_agreement"
"""The check that the methods section of a report quotes."""


@dataclass(frozen=True)
class Verdict:
    """One thing that was looked at."""

    name: str
    """What was looked at. No other verdict of the record has this name."""
    verdict: str | None
    """right, attention or wrong. null where it was not looked at, where nothing is known that the
    figure could be held against, or where its interval is too wide to tell; `found` says which."""
    found: str
    """What was found, as the page prints it."""
    against: str | None = None
    """What it was held against, and where that was published."""
    remedy: str | None = None
    """What to do about it; null where nothing has to be done."""
    chapter: str = ""
    """surroundings, instruments, speed or numbers."""
    value: float | None = None
    """The figure; null where it was not measured, or where it is no number."""
    low: float | None = None
    """Lower end of the figure's 95 % interval; null where it is not known."""
    high: float | None = None
    """Upper end of the figure's 95 % interval; null where it is not known."""
    unit: str | None = None
    """Unit of value, low and high."""
    conditions: dict[str, Any] | None = None
    """Settings that the figure was measured with, where it depends on them; else null."""


@dataclass(frozen=True)
class DoctorRecord:
    """One examination of a host and of one GPU, or of a host without a GPU."""

    time_utc: str
    """When it ended."""
    host: str
    """Name of the machine."""
    gpu_uuid: str | None
    """NVML's name of the GPU; null without a GPU."""
    gpu: str | None
    """NVML's name of the product; null without a GPU."""
    cpu: str
    """Name of the processor."""
    pair: str
    """The pair of models that was examined: `--model`."""
    minutes: float
    """The time that it could take: `--minutes`."""
    took_s: float
    """The time that it took."""
    kdwatts: str
    """Version of kdwatts."""
    command: list[str] = field(default_factory=list)
    """The command line."""
    versions: dict[str, str | None] = field(default_factory=dict)
    """Package to its version; null where it is not installed."""
    verdicts: list[Verdict] = field(default_factory=list)
    """In the order in which they were found."""
    schema: int = SCHEMA
    """Version of this layout."""

    def named(self, name: str) -> Verdict | None:
        """The verdict of this name; None where there is none."""
        return next((one for one in self.verdicts if one.name == name), None)

    def count(self, verdict: str) -> int:
        """How many verdicts are this one."""
        return sum(one.verdict == verdict for one in self.verdicts)


@dataclass(frozen=True)
class LastDoctor:
    """What a run's manifest says of the last examination of its host and one of its GPUs."""

    host: str
    """Name of the machine."""
    gpu_uuid: str | None
    """NVML's name of the GPU; null for a host without a GPU."""
    time_utc: str | None
    """When the examination ended; null where there was none."""
    path: str | None
    """Its record in the store; null where there was none."""
    counter: Verdict | None = None
    """The energy counter beside the integral of power; null where it was not examined."""
    not_right: list[Verdict] = field(default_factory=list)
    """Verdicts of attention and of wrong."""
    num_right: int = 0
    """How many verdicts were right."""
    reason: str | None = None
    """Why nothing is known of an examination; null where it is known."""


def record_path(store_root: Path, host: str, gpu_uuid: str | None) -> Path:
    """Where the store keeps the last examination of a host and a GPU."""
    name = file_name(f"{host}-{gpu_uuid or 'cpu'}")
    return store_root / STORE_FOLDER / f"{name}.json"


def file_name(text: str) -> str:
    """The text without what could end the name of a file, or be read as a path."""
    return re.sub(r"[^\w.-]", "_", text)


def read_record(path: Path) -> DoctorRecord:
    """The record in a file. Keys that this version does not know are left out.

    Raises OSError, or ValueError where the file is no doctor.json.
    """
    try:
        known = _fields(DoctorRecord, read_json(path))
        verdicts = [Verdict(**_fields(Verdict, one)) for one in known.pop("verdicts", [])]
        return DoctorRecord(**known, verdicts=verdicts)
    except (TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no {DOCTOR_NAME} ({error}); run python -m kdwatts.doctor again"
        ) from None


def doctors_in(manifest_field: Any) -> list[LastDoctor]:
    """What the field `doctor` of a manifest says. Entries that cannot be read are left out."""
    read: list[LastDoctor] = []
    for entry in manifest_field if isinstance(manifest_field, list) else []:
        try:
            known = _fields(LastDoctor, entry)
            counter = known.get("counter")
            known["counter"] = counter and Verdict(**_fields(Verdict, counter))
            known["not_right"] = [
                Verdict(**_fields(Verdict, one)) for one in known.get("not_right", [])
            ]
            read.append(LastDoctor(**known))
        except TypeError:
            continue
    return read


_KINDS = {"str": str, "float": int | float, "int": int, "list": list, "dict": dict}
_KINDS["Verdict"] = dict


def _fields(record_type: type, value: Any) -> dict[str, Any]:
    """The fields that a JSON object has of a record. Raises TypeError for another kind of value."""
    if not isinstance(value, dict):
        raise TypeError(f"it holds {type(value).__name__}, not a record")
    known = {one.name: str(one.type) for one in fields(record_type) if one.name in value}
    for name, kind in known.items():
        given = value[name]
        if given is None and kind.endswith("| None"):
            continue
        is_kind = isinstance(given, _KINDS[re.match(r"\w+", kind)[0]])  # pyright: ignore
        # The verdicts of a list are read one by one.
        is_number = isinstance(given, list) or _is_finite(given)
        if not is_kind or isinstance(given, bool) or not is_number:
            raise TypeError(f"{name} is {given!r}, not {kind}")
    return {name: value[name] for name in known}


def _is_finite(value: Any) -> bool:
    """Whether no number in a JSON value is NaN, infinite, or too large for a float.

    A manifest could not repeat NaN and infinities, and nothing could be reckoned with the others.
    """
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    try:
        return not isinstance(value, int | float) or math.isfinite(value)
    except OverflowError:
        return False


def records_in(store_root: Path) -> list[DoctorRecord]:
    """The last examinations of all hosts and GPUs; the newest comes first.

    A file that cannot be read is left out.
    """
    found: list[DoctorRecord] = []
    for path in sorted((store_root / STORE_FOLDER).glob("*.json")):
        try:
            found.append(read_record(path))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda record: record.time_utc, reverse=True)


def last_of(store_root: Path, host: str, gpu_uuids: Sequence[str | None]) -> list[dict[str, Any]]:
    """For the manifest: the last examination of the host with each of these GPUs."""
    return [asdict(_last_of(store_root, host, uuid)) for uuid in gpu_uuids]


def _last_of(store_root: Path, host: str, gpu_uuid: str | None) -> LastDoctor:
    path = record_path(store_root, host, gpu_uuid)
    place = f"{gpu_uuid} of {host}" if gpu_uuid else host
    try:
        record = read_record(path)
        if (record.host, record.gpu_uuid) != (host, gpu_uuid):
            raise ValueError(f"{path} is not of {place}; run python -m kdwatts.doctor again")
    except FileNotFoundError:
        reason = f"python -m kdwatts.doctor was never run on {place} with this store"
        return LastDoctor(host, gpu_uuid, None, None, reason=reason)
    except OSError as error:
        reason = f"{path} cannot be read ({error.strerror})"
        return LastDoctor(host, gpu_uuid, None, str(path), reason=reason)
    except ValueError as error:
        return LastDoctor(host, gpu_uuid, None, str(path), reason=str(error))
    return LastDoctor(
        host=host,
        gpu_uuid=gpu_uuid,
        time_utc=record.time_utc,
        path=str(path),
        counter=record.named(COUNTER_CHECK),
        not_right=[one for one in record.verdicts if one.verdict in ("attention", "wrong")],
        num_right=record.count("right"),
    )
