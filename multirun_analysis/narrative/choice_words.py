"""A choice of a student in plain sentences."""

from __future__ import annotations

from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.footprint import co2e_kg
from multirun_analysis.statistics.accuracy_words import MeanInterval, share_and_ends
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
        lines.append(closest_line(choice.too_little, gate))
    elif choice.teacher_at_chance:
        lines.append("No recommendation: no teacher is better than guessing.")
    else:
        lines.append(
            "No recommendation: no student has benchmark scores (its own and its teacher's), a "
            "serving energy and a building energy. Run with eval=tiny, eval=offline, eval=quick or "
            "eval=paper."
        )
    lines += too_little_lines(choice.too_little, gate)
    lines += [
        f"What {c.label} keeps is not known: its teacher is at chance on "
        f"{', '.join(c.teacher_at_chance)}."
        for c in choice.teacher_at_chance
    ]
    if choice.apart:
        lines.append(
            f"Not ranked: {units.count(choice.apart, 'student')} without a score, without a "
            "serving energy, or with energy that was obtained in another way."
        )
    return "\n".join(lines)


def too_little_lines(found: list[Candidate], gate: Gate) -> list[str]:
    """Those that surely keep too little, and those whose intervals reach the bars."""
    open_ones = [c for c in found if may_keep_enough(c, gate)]
    parts = (
        ("Keeps too little:", [c for c in found if c not in open_ones]),
        ("Seems to keep too little, but the interval reaches your limit:", open_ones),
    )
    return [
        f"{words} {', '.join(f'{c.label} ({short_words(c, gate)})' for c in those)}."
        for words, those in parts
        if those
    ]


def closest_line(too_little: list[Candidate], gate: Gate) -> str:
    """Why nothing is recommended, and which setting comes closest."""
    best = max(too_little, key=lambda c: gate.bars(c)[0][0].value or 0.0)
    asked = " and ".join(_limit(share, least, best) for share, least in gate.bars(best))
    maybe = " This may be enough." if may_keep_enough(best, gate) else ""
    return (
        f"No recommendation: no setting keeps enough. You ask for {asked}. The closest is "
        f"{best.label} ({short_words(best, gate)}).{maybe}"
    )


def _limit(share: Interval, least: float, candidate: Candidate) -> str:
    """A bar with what it is of: accuracy kept is told in per cent, OM_perf as a ratio."""
    if share is candidate.accuracy:
        return f"{units.significant(100 * least)} % of the teacher's accuracy above chance"
    return f"an OM_perf of {least:g}"


def short_words(candidate: Candidate, gate: Gate) -> str:
    """What a setting keeps, of each bar, and where it is at chance."""
    shares = [_span(share, candidate) for share, _ in gate.bars(candidate)]
    return "; ".join([*shares, *_at_chance(candidate)])


def _span(share: Interval, candidate: Candidate) -> str:
    if share is candidate.accuracy:
        return ", ".join(filter(None, share_and_ends(share)))
    if share.low is None or share.high is None:
        return f"OM_perf {units.number(share.value)}"
    ends = f"{units.number(share.low)} to {units.number(share.high)}"
    return f"OM_perf {units.number(share.value)}, {ends}"


def _at_chance(candidate: Candidate) -> list[str]:
    found = candidate.student_at_chance
    return [f"at chance on {', '.join(found)}"] if found else []


def _reasons(choice: Choice, site: Site | None, gate: Gate, days: float) -> list[str]:
    best, *others = choice.enough
    lines = [
        f"Serve {best.label} ({', '.join(best.runs)}).",
        verdict_line(choice),
        *kept_lines(best, gate),
    ]
    taken, per_token = whole_j(best), best.serving
    span = f"{days:g} day{'s' * (days != 1)}"
    lines += [
        f"Building it and serving {units.plain_count(best.units)} tokens in {span} take "
        f"{units.energy(taken.value)} ({units.watt_hours(taken.value)}), {best.energy_quality} "
        f"({ends_words(absolute_interval(taken), 'J')}).",
        f"Building took {units.energy(building_j(best).value)}, its share of inherited work "
        f"included. Serving takes {units.quantity(per_token.value, 'J/token')} "
        f"({ends_words(absolute_interval(per_token), 'J/token')}){_loop_words(best)}.",
    ]
    lines += served_words(best)
    saved = whole_saving(best)
    lines += saved_lines(best, saved)
    if site:
        lines.append(_carbon(best, saved, site))
    if choice.cannot_tell:
        lines.append(
            "Several settings do not differ clearly in energy. Of these it is the cheapest to "
            "build, then the one that keeps most accuracy, as far as intervals tell. If they do "
            "not tell, it is the one whose building drew the least."
        )
    if choice.as_accurate:
        found = listed(choice.as_accurate)
        lines.append(f"Its accuracy does not differ clearly from that of {found}.")
    lines += [
        f"Second choice: {other.label} ({short_words(other, gate)}). It takes "
        f"{units.energy(whole_j(other).value)}."
        for other in others[:1]
    ]
    return lines


def _loop_words(best: Candidate) -> str:
    if best.serving.quality == "reported":
        return ""
    at = f" at batch {best.point.batch_size}" if best.point else ""
    return f" with our eager loop{at}"


def verdict_line(choice: Choice) -> str:
    """Settled, or what is open."""
    if not choice.reasons:
        return "Settled."
    return f"Not settled: {'; '.join(choice.reasons)}."


def kept_lines(best: Candidate, gate: Gate) -> list[str]:
    """What a candidate keeps of its teacher, and where it is at chance."""
    lines = []
    if best.accuracy.value is not None:
        value, ends = share_and_ends(best.accuracy)
        sure = _sure(best.accuracy, ends)
        lines.append(f"It keeps {value} of its teacher's accuracy above chance ({sure}).")
    if best.om_perf.value is not None:
        ends = "interval unknown"
        if best.om_perf.low is not None and best.om_perf.high is not None:
            ends = (
                f"{units.significant(best.om_perf.low)} to {units.significant(best.om_perf.high)}"
            )
        sure = _sure(best.om_perf, ends)
        value = units.significant(best.om_perf.value)
        lines.append(f"Its OM_perf (mean of student score / teacher score) is {value} ({sure}).")
    if best.accuracy.value is None and best.teacher_at_chance:
        lines.append(f"Its teacher is at chance on {', '.join(best.teacher_at_chance)}.")
    lines += [f"It is {words}." for words in _at_chance(best)]
    return lines


def _sure(share: MeanInterval, ends: str) -> str:
    """The ends of an interval and what it is over; without ends their words alone."""
    is_bounded = share.low is not None and share.high is not None
    return f"{ends}; {share.words}" if is_bounded and share.words else ends


def served_words(candidate: Candidate) -> list[str]:
    """The point that answers, the range over all that were measured, and how many it pools."""
    words = []
    at = f" at {point_words(candidate.point)}" if candidate.point else ""
    if candidate.num_measurements:
        found = units.count(candidate.num_measurements, "independent measurement")
        words.append(f"The serving energy is from {found}{at}.")
    elif at:
        words.append(f"The serving energy was measured{at}.")
    if candidate.grid and candidate.grid[0] < candidate.grid[1]:
        least, most = (units.quantity(end, "J/token") for end in candidate.grid)
        words.append(f"Over all measured batch sizes and lengths it is {least} to {most}.")
    return [" ".join(words)] if words else []


def point_words(point: Point) -> str:
    """Such as `batch size 8, 64 prompt and 32 new tokens`."""
    return (
        f"batch size {point.batch_size}, {point.prompt_tokens} prompt and {point.new_tokens} new "
        "tokens"
    )


def saved_lines(best: Candidate, saved: Saving, *, who: str = "The student") -> list[str]:
    """What its teacher would take, and what is saved; nothing where that is not known."""
    teacher = teacher_j(best).value
    if teacher is None or saved.share.value is None:
        return []
    compared = f"The saving is {UNRESOLVED}: its interval includes 0 or is not known"
    if saved.is_resolved:
        word = "less" if saved.share.value >= 0 else "more"
        ends = sorted(100 * abs(end or 0.0) for end in (saved.share.low, saved.share.high))
        low, high = (units.significant(end) for end in ends)
        compared = (
            f"{who} takes {units.significant(100 * abs(saved.share.value))} % {word} (95 % "
            f"interval {low} to {high} %). That is {amount(saved.joules, 'J')}"
        )
    return [f"Its teacher would take {units.energy(teacher)}. {compared}."]


def _carbon(best: Candidate, saved: Saving, site: Site) -> str:
    kg = carbon_kg(absolute_interval(whole_j(best)), site)
    grams, less = (one.times(1000) for one in (kg, carbon_kg(saved.joules, site)))
    compared = f"The CO2e saved is {UNRESOLVED}"
    if saved.is_resolved and saved.joules.value is not None:
        word = "less" if saved.joules.value >= 0 else "more"
        compared = f"That is {amount(less, 'gCO2e')} {word} than with its teacher"
    return (
        f"At site {site.name} ({site.grid_gco2e_per_kwh:g} gCO2e/kWh, PUE {site.pue:g}) the "
        f"student causes {units.quantity(grams.value, 'gCO2e')} ({ends_words(grams, 'gCO2e')}). "
        f"{compared}."
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


def ends_words(found: Interval, unit: str) -> str:
    """Such as `95 % interval 1.00 J to 1.20 J`."""
    if found.low is None or found.high is None:
        return "interval unknown"
    low, high = units.quantity(found.low, unit), units.quantity(found.high, unit)
    return f"95 % interval {low} to {high}"
