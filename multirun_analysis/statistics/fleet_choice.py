"""Which fleet to serve with, by the rule of `choice`, counted in requests.

The teacher is a candidate too: it keeps everything and builds nothing. In few bits it keeps what
was measured in these bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from multirun_analysis.statistics.accuracy_words import MeanInterval, mean_interval_of, names_of
from multirun_analysis.statistics.candidates import Candidate
from multirun_analysis.statistics.choice import Choice, Gate, ranked
from multirun_analysis.statistics.fleet_building import Building, building_of, runs_of
from multirun_analysis.statistics.fleet_repayment import is_one_meter, machine_of
from multirun_analysis.statistics.one_fleet import Fleet
from multirun_analysis.statistics.pareto import CLASSES, energy_class
from multirun_analysis.statistics.quantized_runs import in_few_bits
from multirun_analysis.values.rows import Row

ALL = MeanInterval(1.0, 1.0, 1.0)


@dataclass(frozen=True)
class FleetChoice:
    """The fleets ranked, and those that cannot be judged."""

    choice: Choice
    fleets: dict[str, Fleet]
    """All of them, by label: that of a candidate too."""
    not_judged: dict[str, str]
    """Label of a fleet to the reason why it has no place in the ranking."""
    not_served: list[str]
    """Labels of the settings of which no server was measured in an open loop: they have no fleet.
    """
    days: float

    @property
    def best(self) -> Fleet | None:
        """The recommended one."""
        return self.fleets[self.choice.enough[0].label] if self.choice.enough else None

    def teacher_of(self, fleet: Fleet) -> Fleet | None:
        """The fleet that it is held against."""
        return self.fleets.get(fleet.reference or "")


def choose_fleet(
    found: Sequence[Fleet], runs: Sequence[Row], *, gate: Gate, days: float
) -> FleetChoice:
    """The fleets of one operating point ranked for serving so many days.

    Only fleets of one set of lengths are compared: those of the log, and else, of several, those
    that most candidates have. A teacher that two pairs share is one candidate.
    """
    by_label = {fleet.label: fleet for fleet in found}
    lengths = _lengths(found)
    scored, at_chance, not_judged = [], [], {}
    for fleet in found:
        building = building_of(fleet.replica, runs)
        candidate = _candidate(fleet, by_label, building, runs, days)
        why = _why_not_judged(fleet, candidate, gate, lengths)
        if why is None and (same := _teacher_before(candidate, scored)) is not None:
            why = f"it is {same.label}, which is judged"
        if why is None:
            scored.append(candidate)
        elif candidate.teacher_at_chance and fleet.why_not is None:
            at_chance.append(candidate)
        else:
            not_judged[fleet.label] = why
    scored = _in_one_class(scored)
    # Where nothing can be held against the teacher, to name it would be no choice.
    held = {c.energy_quality for c in scored if not c.is_reference}
    alone = [c for c in scored if c.energy_quality not in held]
    not_judged |= {c.label: "nothing that can be judged is held against it" for c in alone}
    scored = [c for c in scored if c not in alone]
    num_runs = sum(len(c.runs) for c in (*scored, *at_chance))
    choice = ranked(scored, at_chance, gate=gate, num_runs=num_runs)
    placed = {c.label for c in (*choice.enough, *choice.too_little)}
    for candidate in scored:
        if candidate.label not in placed:
            kind = candidate.energy_quality
            not_judged[candidate.label] = f"its joules are {kind}, and those of others are not"
    if choice.enough and (doubts := _doubts([by_label[c.label] for c in choice.enough], by_label)):
        reasons = [*choice.reasons, *doubts]
        choice = replace(choice, reasons=reasons, verdict="not settled")
    have_fleets = {fleet.replica.setting for fleet in found}
    not_served = {r["group_label"] for r in runs if r["finished"] and r["group"] not in have_fleets}
    return FleetChoice(replace(choice, apart=0), by_label, not_judged, sorted(not_served), days)


def _lengths(found: Sequence[Fleet]) -> tuple | None:
    """The lengths that are compared; None where no fleet that can be judged has an answer."""
    answered = [one for one in found if one.why_not is None and one.replica.subject != "model"]
    of_the_log = [fleet for fleet in answered if not fleet.doubts]
    most = Counter(fleet.replica.workload for fleet in of_the_log or answered).most_common(1)
    return most[0][0] if most else None


def _teacher_before(candidate: Candidate, scored: Sequence[Candidate]) -> Candidate | None:
    """The teacher of another pair whose server is that of this teacher; None without one."""
    return next(
        (
            other
            for other in scored
            if candidate.is_reference
            and other.is_reference
            and other.serving_key == candidate.serving_key
        ),
        None,
    )


def _doubts(enough: Sequence[Fleet], by_label: dict[str, Fleet]) -> list[str]:
    """Why the first of those that keep enough may not be the best, as ends of sentences."""
    best, *others = enough
    doubts = list(best.doubts)
    pairs: dict[frozenset | None, str] = {}
    for one in enough:
        teacher = one if one.is_reference else by_label.get(one.reference or "")
        pairs.setdefault(teacher and teacher.replica.servers, str(one.replica.model))
    if len(set(pairs.values())) > 1:
        doubts.append(
            "those that keep enough are held against different teachers, of the pairs "
            f"{', '.join(pairs.values())}"
        )
    teacher = by_label.get(best.reference or "")
    rivals = [*others, *([] if teacher is None or teacher in others else [teacher])]
    open_ended = [
        one.label
        for one in rivals
        if one.why_not is None and one.capacity.is_lower_bound and (one.num_replicas or 0) > 1
    ]
    if open_ended:
        doubts.append(
            f"fewer replicas may be enough for {', '.join(open_ended)}, as only a lower bound "
            "of what one carries is known"
        )
    return doubts


def _why_not_judged(
    fleet: Fleet, candidate: Candidate, gate: Gate, workload: tuple | None
) -> str | None:
    if fleet.why_not is not None:
        return fleet.why_not
    if fleet.replica.subject == "model":
        return "it was measured without a run, so what it keeps is not known"
    if fleet.replica.workload != workload:
        return "it was measured with other lengths than those that are compared"
    asked = ((candidate.accuracy, gate.min_kept), (candidate.om_perf, gate.min_om_perf))
    if any(share.value is None for share, least in asked if least is not None):
        if fleet.quantization:
            return f"its accuracy was not measured in {fleet.quantization}"
        return "it has no benchmark scores"
    if candidate.own.value is None or candidate.inherited.value is None:
        return "the energy of building it is not known"
    return None


def _candidate(
    fleet: Fleet,
    by_label: dict[str, Fleet],
    building: Building,
    runs: Sequence[Row],
    days: float,
) -> Candidate:
    replica, teacher = fleet.replica, by_label.get(fleet.reference or "", fleet)
    rows = runs_of(replica, runs) if replica.subject != "model" else []
    kinds = [fleet.energy_class]
    kinds += [energy_class(run["total_energy_quality"]) for run in building.rows]
    kind = max(kinds, key=CLASSES.index)
    is_held = fleet.is_reference or fleet.reference is not None
    machines = {replica.machine, *map(machine_of, building.rows)}
    return Candidate(
        label=fleet.label,
        group=replica.setting or replica.subject,
        runs=tuple(run["run"] for run in rows) or replica.runs,
        units=fleet.point.requests_per_day * days,
        energy_quality=kind,
        **_kept(fleet, rows),
        own=replace(building.own, quality=kind),
        inherited=replace(building.inherited, quality=kind),
        inherits=frozenset(run.get("inherited_energy_by_artifact_j") for run in building.rows),
        serving=fleet.j_per_request,
        serving_key=repr(sorted(map(str, replica.servers))),
        num_measurements=replica.curve.num_servers,
        teacher=teacher.j_per_request if is_held else replace(fleet.j_per_request, value=None),
        point=None,
        grid=None,
        machines=frozenset(machines),
        is_reference=fleet.is_reference,
        same_meter_as_teacher=is_one_meter(fleet, teacher, building.rows),
    )


def _kept(fleet: Fleet, rows: list[Row]) -> dict:
    """What a candidate keeps, and where teacher and student are at chance."""
    if fleet.is_reference:
        return {"accuracy": ALL, "om_perf": ALL, "teacher_at_chance": (), "student_at_chance": ()}
    scored = rows
    if fleet.quantization:
        scored = in_few_bits(rows, fleet.replica.subject, fleet.quantization)
    at_chance: dict[str, tuple[str, ...]] = {}
    for column in ("teacher_at_chance", "student_at_chance"):
        counts = Counter(name for run in rows for name in names_of(run, column))
        at_chance[column] = tuple(name for name, n in counts.items() if 2 * n >= len(rows))
    if fleet.replica.subject == "teacher":
        at_chance["student_at_chance"] = ()
        scored = scored[:1]  # All of these runs have one teacher: it is one draw.
    return at_chance | {
        "accuracy": _share(scored, "accuracy_kept"),
        "om_perf": _share(scored, "om_perf"),
    }


def _share(rows: list[Row], column: str) -> MeanInterval:
    if not rows or any(run.get(column) is None for run in rows):
        return MeanInterval(None)
    return mean_interval_of(rows, column) or MeanInterval(None)


def _in_one_class(scored: list[Candidate]) -> list[Candidate]:
    """A teacher, which builds nothing, in the class of students whose serving is as its own.

    So a student whose building was estimated is ranked against it, where both were served alike.
    """
    found = []
    for one in scored:
        if one.is_reference:
            alike = [
                other.energy_quality
                for other in scored
                if not other.is_reference and other.serving.quality == one.serving.quality
            ]
            if alike:
                one = replace(one, energy_quality=min(alike, key=CLASSES.index))
        found.append(one)
    return found
