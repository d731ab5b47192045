"""A choice of a student in plain sentences."""

from __future__ import annotations

from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.footprint import co2e_kg
from multirun_analysis.statistics.candidates import (
    Candidate,
    Point,
    building_j,
    teacher_j,
    whole_j,
)
from multirun_analysis.statistics.choice import Choice, Gate, listed, may_keep_enough
from multirun_analysis.statistics.savings import Saving, absolute_interval, whole_saving
from multirun_analysis.statistics.site import Site
from multirun_analysis.values import units

UNRESOLVED = "unresolved"
"""In the place of what is saved, where its interval includes 0 or is not known."""


def choice_words(choice: Choice, site: Site | None, gate: Gate, days: float) -> str:
    lines = []
    if choice.enough:
        lines += _reasons(choice, site, gate, days)
    elif choice.too_little:
        lines.append(_closest(choice.too_little, gate))
    elif choice.teacher_at_chance:
        lines.append("Cannot be told: no teacher is above chance.")
    else:
        lines.append(
            "Cannot be told: no student has a score beside its teacher's, a serving cost and a "
            "known energy; run with eval=tiny, quick or paper."
        )
    lines += _too_little(choice.too_little, gate)
    lines += [
        f"What {c.label} keeps cannot be told: its teacher is at chance on "
        f"{', '.join(c.teacher_at_chance)}."
        for c in choice.teacher_at_chance
    ]
    if choice.apart:
        lines.append(
            f"Not ranked, as a score, a serving cost or the same quality of energy is missing: "
            f"{choice.apart}."
        )
    return "\n".join(lines)


def _too_little(found: list[Candidate], gate: Gate) -> list[str]:
    """Those that surely keep too little, and those whose intervals reach the bars."""
    open_ones = [c for c in found if may_keep_enough(c, gate)]
    parts = (
        ("They keep too little:", [c for c in found if c not in open_ones]),
        ("Below what is asked, but not surely:", open_ones),
    )
    return [
        f"{words} {', '.join(f'{c.label} ({_short(c, gate)})' for c in those)}."
        for words, those in parts
        if those
    ]


def _closest(too_little: list[Candidate], gate: Gate) -> str:
    best = max(too_little, key=lambda c: gate.bars(c)[0][0].value or 0.0)
    asked = " and ".join(f"{least:g}" for _, least in gate.bars(best))
    return (
        f"None keeps enough: no setting keeps {asked} of its teacher's accuracy; {best.label} "
        f"comes closest with {_short(best, gate)}{_maybe(best, gate)}."
    )


def _maybe(candidate: Candidate, gate: Gate) -> str:
    return ", which may be enough" if may_keep_enough(candidate, gate) else ""


def _short(candidate: Candidate, gate: Gate) -> str:
    """What a setting keeps, of each bar, and where it is at chance."""
    shares = [_span(share) for share, _ in gate.bars(candidate)]
    return "; ".join([*shares, *_at_chance(candidate)])


def _span(share: Interval) -> str:
    if share.low is None or share.high is None:
        return units.number(share.value)
    return f"{units.number(share.value)}, {units.number(share.low)} to {units.number(share.high)}"


def _at_chance(candidate: Candidate) -> list[str]:
    found = candidate.student_at_chance
    return [f"at chance on {', '.join(found)}"] if found else []


def _reasons(choice: Choice, site: Site | None, gate: Gate, days: float) -> list[str]:
    best, *others = choice.enough
    lines = [f"{best.label}: {', '.join(best.runs)}", _verdict(choice), *_kept(best, gate)]
    taken, per_token = whole_j(best), best.serving
    lines.append(
        f"{units.quantity(best.tokens, 'tokens')} in {days:g} days take "
        f"{units.energy(taken.value)} ({units.watt_hours(taken.value)}; "
        f"{_ends(absolute_interval(taken), 'J')}), {best.energy_quality}: "
        f"{units.energy(building_j(best).value)} to build with its share of inherited work, "
        f"{units.quantity(per_token.value, 'J/token')} to serve "
        f"({_ends(absolute_interval(per_token), 'J/token')})."
    )
    lines += served_words(best)
    saved = whole_saving(best)
    lines += _saved(best, saved)
    if site:
        lines.append(_carbon(best, saved, site))
    if choice.cannot_tell:
        lines.append(
            "Of settings that joules do not tell apart the cheaper to build is preferred, then the "
            "one that keeps more, as far as intervals tell."
        )
    if choice.as_accurate:
        lines.append(f"Accuracy does not tell it from {listed(choice.as_accurate)}.")
    lines += [
        f"Next: {other.label}, {units.energy(whole_j(other).value)}, keeps {_short(other, gate)}."
        for other in others[:1]
    ]
    return lines


def _verdict(choice: Choice) -> str:
    if not choice.reasons:
        return "Settled."
    return f"Not settled: {'; '.join(choice.reasons)}."


def _kept(best: Candidate, gate: Gate) -> list[str]:
    lines = []
    shares = (
        (best.accuracy, gate.min_kept, "its teacher's accuracy above chance"),
        (best.om_perf, gate.min_om_perf, "its teacher's scores as they are, OM_perf"),
    )
    for share, least, what in shares:
        if share.value is None:
            continue
        sure = "of unknown spread"
        if share.low is not None and share.high is not None:
            low, high = units.significant(share.low), units.significant(share.high)
            sure = f"{low} to {high}, {share.words}"
        if least is not None and (share.low is None or share.low < least):
            sure += f", so that {least:g} is not certain"
        lines.append(f"It keeps {units.significant(share.value)} of {what} ({sure}).")
    if best.accuracy.value is None and best.teacher_at_chance:
        lines.append(f"Its teacher is at chance on {', '.join(best.teacher_at_chance)}.")
    lines += [f"It is {words}." for words in _at_chance(best)]
    return lines


def served_words(candidate: Candidate) -> list[str]:
    """The point that answers, the range over all that were measured, and how many it pools."""
    parts = []
    if candidate.point:
        parts.append(f"at {point_words(candidate.point)}")
    if candidate.num_measurements:
        number = candidate.num_measurements
        parts.append(f"from {number} independent measurement{'s' * (number != 1)}")
    if candidate.grid and candidate.grid[0] < candidate.grid[1]:
        least, most = (units.quantity(end, "J/token") for end in candidate.grid)
        parts.append(f"{least} to {most} over all points that were measured")
    return [f"Served {'; '.join(parts)}."] if parts else []


def point_words(point: Point) -> str:
    """Such as `batch size 8, 64 prompt and 32 new tokens`."""
    return (
        f"batch size {point.batch_size}, {point.prompt_tokens} prompt and {point.new_tokens} new "
        "tokens"
    )


def _saved(best: Candidate, saved: Saving) -> list[str]:
    teacher = teacher_j(best).value
    if teacher is None or saved.share.value is None:
        return []
    compared = f"what is saved is {UNRESOLVED}"
    if saved.is_resolved:
        word = "less" if saved.share.value >= 0 else "more"
        ends = sorted(100 * abs(end or 0.0) for end in (saved.share.low, saved.share.high))
        low, high = (units.significant(end) for end in ends)
        compared = (
            f"{units.significant(100 * abs(saved.share.value))} % {word} (95 % interval {low} to "
            f"{high} %), or {amount(saved.joules, 'J')}"
        )
    return [f"Its teacher would take {units.energy(teacher)}: {compared}."]


def _carbon(best: Candidate, saved: Saving, site: Site) -> str:
    kg = carbon_kg(absolute_interval(whole_j(best)), site)
    grams, less = (one.times(1000) for one in (kg, carbon_kg(saved.joules, site)))
    compared = f"what is saved is {UNRESOLVED}"
    if saved.is_resolved and saved.joules.value is not None:
        word = "less" if saved.joules.value >= 0 else "more"
        compared = f"{amount(less, 'gCO2e')} {word} than with its teacher"
    return (
        f"At site {site.name} ({site.grid_gco2e_per_kwh:g} gCO2e/kWh, PUE {site.pue:g}) that is "
        f"{units.quantity(grams.value, 'gCO2e')} ({_ends(grams, 'gCO2e')}); {compared}."
    )


def carbon_kg(joules: Interval, site: Site) -> Interval:
    """Of joules and of both ends; the grid's factor is taken as it stands."""
    place = {"pue": site.pue, "grid_gco2e_per_kwh": site.grid_gco2e_per_kwh}
    return Interval(*(co2e_kg(end, **place) for end in (joules.value, joules.low, joules.high)))


def amount(found: Interval, unit: str) -> str:
    """The size of a saving with its interval, without its sign."""
    size = units.quantity(None if found.value is None else abs(found.value), unit)
    if found.low is None or found.high is None:
        return f"{size} ({UNRESOLVED})"
    low, high = sorted((abs(found.low), abs(found.high)))
    return f"{size} ({units.quantity(low, unit)} to {units.quantity(high, unit)})"


def _ends(found: Interval, unit: str) -> str:
    if found.low is None or found.high is None:
        return "of unknown spread"
    low, high = units.quantity(found.low, unit), units.quantity(found.high, unit)
    return f"95 % interval {low} to {high}"
