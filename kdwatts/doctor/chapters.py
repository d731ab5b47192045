"""The four chapters of an examination, and the checks in each."""

from __future__ import annotations

from kdwatts.doctor.examination import Chapters


def all_chapters() -> Chapters:
    """Every check of the doctor, by chapter, in the order in which they are made."""
    # torch takes seconds to load: --help need not wait for it.
    from kdwatts.doctor.instruments.checks_of_instruments import INSTRUMENTS
    from kdwatts.doctor.numbers.checks_of_numbers import NUMBERS
    from kdwatts.doctor.speed.checks_of_speed import SPEED
    from kdwatts.doctor.surroundings.checks_of_surroundings import SURROUNDINGS

    return {
        "surroundings": SURROUNDINGS,
        "instruments": INSTRUMENTS,
        "speed": SPEED,
        "numbers": NUMBERS,
    }
