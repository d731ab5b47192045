"""Which student to serve, and how sure that is.

The rule has four steps. Each keeps all settings that cannot be told apart by their intervals.

- Take the settings that keep enough accuracy.
- Of these, keep the one with the fewest joules over all tokens, and those that cannot be told from
  it.
- Of these, keep the cheapest to build, and those that cannot be told from it.
- Of these, keep those that keep the most accuracy. Of what is left, take the one whose building
  drew the least.

Measured and estimated joules are never ranked against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdwatts.metrics.fieller import Interval
from multirun_analysis.statistics.accuracy_words import names_of
from multirun_analysis.statistics.candidates import (
    Candidate,
    building_j,
    candidates,
    whole_j,
)
from multirun_analysis.statistics.pareto import CLASSES
from multirun_analysis.statistics.savings import (
    differ_in_accuracy,
    differ_in_joules,
    more_joules,
    more_to_build,
    surely_more,
    whole_saving,
)
from multirun_analysis.statistics.served import served
from multirun_analysis.values.rows import Row, known

VERDICTS = {
    "settled": "the recommended setting surely keeps enough, its energy differs clearly from that "
    "of all others that keep enough, and its saving is resolved",
    "not settled": "one setting is recommended; the reasons say what is open",
    "none keeps enough": "every setting that can be judged keeps too little",
    "cannot be told": "no setting can be judged, for example because no teacher is better than "
    "guessing",
}
"""Every verdict and what it means."""


@dataclass(frozen=True)
class Gate:
    """What a setting must keep. A limit that is None is not applied."""

    min_kept: float | None = 0.5
    """The least accuracy kept, with chance subtracted."""
    min_om_perf: float | None = None

    def bars(self, candidate: Candidate) -> list[tuple[Interval, float]]:
        """Each value of a candidate that has a limit, with this limit."""
        asked = ((candidate.accuracy, self.min_kept), (candidate.om_perf, self.min_om_perf))
        return [(share, least) for share, least in asked if least is not None]

    def is_scored(self, run: Row) -> bool:
        """Whether a run has every value that has a limit."""
        asked = ((run.get("accuracy_kept"), self.min_kept), (run["om_perf"], self.min_om_perf))
        return all(value is not None for value, least in asked if least is not None)


@dataclass(frozen=True)
class Choice:
    """The settings that keep enough, the recommended one first, and those that do not."""

    enough: list[Candidate]
    too_little: list[Candidate]
    teacher_at_chance: list[Candidate]
    """Settings whose teacher is at chance on every benchmark: what they keep cannot be told."""
    apart: int
    """Number of students that cannot be ranked.

    They have no score, were not served, or have another quality of energy.
    """
    verdict: str
    """One of VERDICTS."""
    reasons: list[str]
    """Why it is not settled, in plain words."""
    cannot_tell: list[Candidate]
    """Settings that keep enough and cannot be told from the recommended one in whole joules."""
    as_accurate: list[Candidate]
    """Settings that keep enough and cannot be told from it in accuracy."""


def choose(students: Sequence[Row], *, gate: Gate, tokens: float) -> Choice:
    """The settings ranked for serving `tokens` tokens in all, by the rule of this module."""
    usable = [
        run
        for run in known(students, "total_amortised_energy_j")
        if served(run, "student").value is not None
    ]
    scored = candidates([run for run in usable if gate.is_scored(run)], tokens)
    at_chance = [
        run
        for run in usable
        if gate.min_kept is not None
        and run.get("accuracy_kept") is None
        and names_of(run, "teacher_at_chance")
    ]
    return ranked(scored, candidates(at_chance, tokens), gate=gate, num_runs=len(students))


def ranked(
    scored: Sequence[Candidate],
    teacher_at_chance: list[Candidate],
    *,
    gate: Gate,
    num_runs: int,
) -> Choice:
    """The candidates ranked by the rule of this module, whatever they serve.

    `num_runs` are the runs of all candidates, with those that cannot be ranked.
    """
    best = min((CLASSES.index(c.energy_quality) for c in scored), default=0)
    alike = [c for c in scored if CLASSES.index(c.energy_quality) == best]
    alike.sort(key=lambda c: whole_j(c).value or 0.0)
    enough = [c for c in alike if _keeps_enough(c, gate)]
    too_little = [c for c in alike if c not in enough]
    verdict, reasons, ties, as_accurate = "cannot be told", [], [], []
    if enough:
        winner = _preferred(enough)
        others = [c for c in enough if c is not winner]
        enough = [winner, *others]
        ties = [c for c in others if not differ_in_joules(c, winner, more_joules(c, winner))]
        as_accurate = [c for c in others if not differ_in_accuracy(c, winner)]
        reasons = _open_questions(winner, ties, others, too_little, gate)
        verdict = "not settled" if reasons else "settled"
    elif too_little:
        verdict = "none keeps enough"
    placed = sum(len(c.runs) for c in (*alike, *teacher_at_chance))
    apart = num_runs - placed
    return Choice(enough, too_little, teacher_at_chance, apart, verdict, reasons, ties, as_accurate)


def _keeps_enough(candidate: Candidate, gate: Gate) -> bool:
    return all(share.value is not None and share.value >= least
               for share, least in gate.bars(candidate))  # fmt: skip


def _preferred(enough: list[Candidate]) -> Candidate:
    """The one to recommend of settings in the order of their whole joules."""
    left = _like(
        enough[0], enough, lambda c, first: differ_in_joules(c, first, more_joules(c, first))
    )
    cheapest = min(left, key=_built_j)
    left = _like(
        cheapest, left, lambda c, first: differ_in_joules(c, first, more_to_build(c, first))
    )
    left = _like(max(left, key=_kept), left, differ_in_accuracy)
    return min(left, key=_built_j)


def _like(
    first: Candidate, found: list[Candidate], told: Callable[[Candidate, Candidate], bool]
) -> list[Candidate]:
    """`first`, and those that are not told from it."""
    return [c for c in found if c is first or not told(c, first)]


def _built_j(candidate: Candidate) -> float:
    return building_j(candidate).value or 0.0


def _kept(candidate: Candidate) -> float:
    values = (candidate.accuracy.value, candidate.om_perf.value)
    return next((value for value in values if value is not None), 0.0)


def _open_questions(
    winner: Candidate,
    ties: list[Candidate],
    others: list[Candidate],
    too_little: list[Candidate],
    gate: Gate,
) -> list[str]:
    reasons = []
    if ties:
        reasons.append(f"its energy does not differ clearly from that of {listed(ties)}")
    reasons += [
        f"it may keep less than the {least:g} that you ask for"
        for share, least in gate.bars(winner)
        if share.low is None or share.low < least
    ]
    if winner.accuracy.value is None:
        reasons.append("the accuracy that it keeps above chance is not known")
    saved = whole_saving(winner)
    if winner.is_reference:
        pass  # It saves nothing against itself.
    elif saved.share.value is None:
        reasons.append("the energy that its teacher would take is not known")
    elif not saved.is_resolved:
        reasons.append("its saving is unresolved")
    elif saved.share.value < 0:
        reasons.append("it takes more energy than its teacher")
    rivals = [
        c
        for c in too_little
        if may_keep_enough(c, gate) and not surely_more(c, winner, more_joules(c, winner))
    ]
    if rivals:
        reasons.append(f"{listed(rivals)} may keep enough too, and may take less energy")
    if len({c.point for c in (winner, *others)}) > 1:
        reasons.append("the settings were served at different batch sizes or lengths")
    return reasons


def may_keep_enough(candidate: Candidate, gate: Gate) -> bool:
    """Whether no interval of what the setting keeps ends below its limit."""
    bars = gate.bars(candidate)
    return all(share.high is None or share.high >= least for share, least in bars)


def listed(found: Sequence[Candidate]) -> str:
    """The settings' labels in a sentence."""
    return ", ".join(c.label for c in found)
