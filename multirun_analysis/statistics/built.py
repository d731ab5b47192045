"""Joules of building a student.

The part that repeats average out and the shared part stay apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from kdwatts.metrics.quantity import Quantity, add, common_quality, mean_of, scaled
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.values.rows import Row

_MISSING = Quantity(None, unit="J", quality="missing")


def own(run: Row) -> Quantity:
    """Joules of building the student alone.

    A record that does not divide its error counts as calibration, so all of the error is shared.
    """
    return _stated(run, "own", (0.0, run.get("own_energy_uncertainty_j")))


def inherited(run: Row) -> Quantity:
    """Joules of all that was inherited, undivided.

    A record without an error gets that of its own energy, relative to the joules, where both were
    obtained alike: the meters are of one kind.
    """
    error: tuple[float | None, float | None] = (None, None)
    joules, mine = run.get("inherited_energy_j"), own(run)
    qualities = [run.get(f"{part}_energy_quality") for part in ("own", "inherited")]
    if joules == 0:
        error = (0.0, 0.0)
    elif joules and mine.value and energy_class(qualities[0]) == energy_class(qualities[1]):
        alike = scaled(mine, joules / mine.value)
        error = (alike.random_sd, alike.shared_sd)
    return _stated(run, "inherited", error)


def share(run: Row) -> Quantity:
    """Joules of the student's share of what was inherited."""
    joules, whole = run.get("inherited_amortised_energy_j"), inherited(run)
    if joules is None or whole.value is None:
        return _MISSING
    return scaled(whole, joules / whole.value) if whole.value else replace(whole, value=joules)


def part_of(run: Row, joules: float) -> Quantity:
    """A part of the joules of building the student, with its part of the error."""
    whole = own(run)
    return scaled(whole, joules / whole.value) if whole.value else replace(_MISSING, value=joules)


def _stated(run: Row, part: str, other: tuple[float | None, float | None]) -> Quantity:
    """The energy of a part with the errors that its record states, else with `other`."""
    stated = (run.get(f"{part}_energy_random_sd_j"), run.get(f"{part}_energy_shared_sd_j"))
    random_sd, shared_sd = other if None in stated else stated
    if shared_sd is None:
        random_sd = None
    quality = run.get(f"{part}_energy_quality") or "missing"
    return Quantity(run.get(f"{part}_energy_j"), random_sd, shared_sd, "J", quality)


def built(rows: Sequence[Row]) -> Quantity:
    """Joules of building a student of one setting with its share of inherited work, over seeds."""
    parts = [over_seeds(rows, own)]
    portions = over_seeds(rows, share)
    # Nothing inherited: the quality beside 0 J must not turn a measured sum into a mixed one.
    return add(parts if portions.value == 0 else [*parts, portions])


def over_seeds(rows: Sequence[Row], of: Callable[[Row], Quantity]) -> Quantity:
    """The mean of a quantity over seeds, by Student's t. No value where one seed has none.

    What all seeds share to the last bit is one measurement, such as their teacher's signals. It
    keeps the error that its record states.
    """
    found = [of(run) for run in rows]
    values = [each.value for each in found if each.value is not None]
    unit = found[0].unit if found else "J"
    if not values or len(values) < len(found):
        return Quantity(None, unit=unit, quality="missing")
    if len(set(values)) == 1:
        return found[0]
    mean = mean_of(values, unit=unit, quality=common_quality(each.quality for each in found))
    shared = [each.shared_sd for each in found if each.shared_sd is not None]
    whole = len(shared) == len(found)
    return replace(mean, shared_sd=sum(shared) / len(shared) if whole else None)
