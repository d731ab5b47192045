"""The checks of this chapter, in order."""

from __future__ import annotations

from kdwatts.doctor.patient import Check

INSTRUMENTS: list[Check] = []
