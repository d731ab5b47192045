"""What the page says of `python -m kdwatts.doctor` on the machines of its runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from kdwatts.records.doctor_record import COUNTER_CHECK, LastDoctor, Verdict, doctors_in
from multirun_analysis.values import units
from multirun_analysis.values.notices import Passage, notices_of
from multirun_analysis.values.rows import Row, grouped, known

STALE = timedelta(days=30)
"""Drivers, limits and neighbours of a machine change within weeks. This limit is our judgement."""

COMMAND = "python -m kdwatts.doctor"

_UUID = len("GPU-00000000")
"""Characters of a GPU's UUID that tell it from others on a page."""

_FEW = 2
"""Hosts without an examination that have a sentence each."""

_Place = tuple[str, str | None]
"""Host, and NVML's name of the GPU."""


@dataclass
class _Machine:
    """A host with one of its GPUs, or without one, and what the runs on it say of it."""

    name: str
    examined: dict[datetime, LastDoctor] = field(default_factory=dict)
    runs: list[Row] = field(default_factory=list)

    @property
    def last(self) -> LastDoctor | None:
        """The newest examination that a run names."""
        return self.examined[max(self.examined)] if self.examined else None


def examination_passages(students: list[Row], *, name_hosts: bool = True) -> list[Passage]:
    """The last examination of each machine, what it did not find right, and who had none.

    A run names the examinations that there were when it began. Of two runs on one machine the later
    one may name an examination that the earlier one came before.
    """
    machines = _machines(students, name_hosts=name_hosts)
    looked_at = [one for one in machines.values() if one.last]
    parts: list[Passage] = []
    if looked_at:
        of_all = units.count(len(machines), "machine")
        each = "; each GPU counts as one" if any(uuid for _, uuid in machines) else ""
        parts.append(f"{COMMAND} examined {len(looked_at)} of {of_all}{each}.")
    parts += notices_of(map(_counter, looked_at), what="machines")
    parts += notices_of(_wrong(looked_at, with_figures=name_hosts), what="machines")
    parts += notices_of(_attention(looked_at), what="machines")
    parts += notices_of(
        (run["run"], "The energy counter was found wrong, so joules of the run may be too")
        for one in looked_at
        if (counter := one.last and one.last.counter) and counter.verdict == "wrong"
        for run in one.runs
    )
    parts += notices_of(late for one in looked_at for late in _dated(one))
    parts += notices_of(_never(students, machines, name_hosts=name_hosts))
    silent = [run for run in students if run["doctor"] is None]
    imported = [run["run"] for run in known(silent, "origin")]
    parts += notices_of((name, "Imported runs have no examination") for name in imported)
    parts += notices_of(
        (run["run"], f"The manifest is older than {COMMAND} and names no examination")
        for run in silent
        if run["run"] not in imported
    )
    return parts


def _machines(students: list[Row], *, name_hosts: bool) -> dict[_Place, _Machine]:
    """Every machine that a run names, in order of appearance."""
    found: dict[_Place, _Machine] = {}
    for run in students:
        for one in _doctors(run):
            place = one.host, one.gpu_uuid
            name = f"{one.host} {(one.gpu_uuid or '')[:_UUID]}".rstrip()
            machine = found.setdefault(place, _Machine(name if name_hosts else _product(run)))
            if run not in machine.runs:
                machine.runs.append(run)
            if made := _moment(one.time_utc):
                machine.examined[made] = one
    if not name_hosts and len(found) > 1:  # Machines of one product are still several.
        for number, machine in enumerate(found.values(), start=1):
            machine.name = f"machine {number} with {machine.name}"
    return found


def _doctors(run: Row) -> list[LastDoctor]:
    return doctors_in(json.loads(run["doctor"])) if run["doctor"] else []


def _product(run: Row) -> str:
    return str(run["cards"] or run["cpu"] or "a machine")


def _moment(text: str | None) -> datetime | None:
    """A moment of a record; None where it is not one."""
    try:
        made = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return made if made.tzinfo else made.replace(tzinfo=UTC)


def _counter(machine: _Machine) -> tuple[str, str]:
    """The machine, and what was found of its energy counter, and when."""
    last = machine.last
    assert last
    day = max(machine.examined).date().isoformat()
    words = _counter_words(last.counter) if last.gpu_uuid else "Examined without a GPU"
    return machine.name, f"{words} ({day})"


def _counter_words(counter: Verdict | None) -> str:
    if counter is None:
        return "Examined, but without a look at an energy counter"
    if counter.value is None:
        return f"Energy counter: {counter.found}"
    unit = counter.unit or "%"
    low, high = counter.low, counter.high
    if counter.verdict == "right" and low is not None and high is not None:
        furthest = max(abs(counter.value), abs(low), abs(high))
        return f"Counter within {_rounded_up(furthest)} {unit} of the integral of power"
    value = units.significant(counter.value, 2)
    known_to = (
        f" (95 % interval {units.significant(low, 2)} to {units.significant(high, 2)} {unit})"
        if low is not None and high is not None
        else ""
    )
    return f"Counter {value} {unit} from the integral of power{known_to}"


def _rounded_up(value: float) -> str:
    """Two digits that are no less than the value: it is within what they say."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1) if value > 0 else 1.0
    return units.significant(math.ceil(round(value / step, 6)) * step, 2)


def _not_right(machine: _Machine, word: str) -> list[Verdict]:
    """The verdicts that are wrong, or of attention; without the counter's, which is quoted."""
    all_of_it = machine.last.not_right if machine.last else []
    return [one for one in all_of_it if one.verdict == word and one.name != COUNTER_CHECK]


def _wrong(machines: list[_Machine], *, with_figures: bool) -> Iterator[tuple[str, str]]:
    """Each machine and each verdict of wrong. A figure may name hosts and processes."""
    for machine in machines:
        for one in _not_right(machine, "wrong"):
            figure = f"; {one.found}" if with_figures else ""
            yield machine.name, f"Wrong ({one.name.replace('_', ' ')}{figure})"


def _attention(machines: list[_Machine]) -> Iterator[tuple[str, str]]:
    """Each machine and the verdicts of attention that the same machines have."""
    having: dict[str, dict[str, None]] = {}
    for machine in machines:
        for one in _not_right(machine, "attention"):
            having.setdefault(one.name.replace("_", " "), {})[machine.name] = None
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, names in having.items():
        alike.setdefault(tuple(names), []).append(name)
    for names, verdicts in alike.items():
        yield from ((name, f"Attention ({', '.join(verdicts)})") for name in names)


def _dated(machine: _Machine) -> Iterator[tuple[str, str]]:
    """The runs that began before the first examination, or long after the one before them."""
    for run in machine.runs:
        began = _moment(run["started_utc"])
        before = [made for made in machine.examined if began and made <= began]
        if began and not before:
            yield run["run"], "The machine was examined only after the run had begun"
        elif began and began - max(before) > STALE:
            days = (began - max(before)).days
            yield run["run"], f"The examination was {days} days old when the run began"


def _never(
    students: list[Row], machines: dict[_Place, _Machine], *, name_hosts: bool
) -> Iterator[tuple[str, str]]:
    """The runs on machines of which no run names an examination, and each such host."""
    found: list[tuple[str, LastDoctor, str]] = []
    for run in students:
        for host, on_host in grouped(
            ({"host": one.host, "of": one} for one in _doctors(run)), "host"
        ).items():
            all_of_it = {one["of"].gpu_uuid: one["of"] for one in on_host}
            missing = [one for uuid, one in all_of_it.items() if not machines[host, uuid].last]
            if missing:
                some = f"{len(missing)} of {len(all_of_it)} GPUs of "
                place = host if name_hosts else _product(run)
                place = f"{some if len(missing) < len(all_of_it) else ''}{place}"
                found.append((run["run"], missing[0], place))
    if len({place for _, _, place in found}) <= _FEW:
        yield from ((name, _why(one, place)) for name, one, place in found)
    else:
        yield from ((f"{name} on {place}", _why(one, "the machine")) for name, one, place in found)


def _why(one: LastDoctor, place: str) -> str:
    if one.path is None:
        return f"{COMMAND} was never run on {place}"
    return f"The record that {COMMAND} left of {place} could not be read"
