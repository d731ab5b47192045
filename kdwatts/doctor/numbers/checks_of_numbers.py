"""The checks of this chapter, in order."""

from __future__ import annotations

from kdwatts.doctor.numbers.attention_in_float64 import look_at_attention
from kdwatts.doctor.numbers.cached_signals import look_at_cached_signals
from kdwatts.doctor.numbers.fused_in_float64 import look_at_fused_head
from kdwatts.doctor.numbers.resume_after_kill import look_at_resume
from kdwatts.doctor.numbers.verdicts_on_terms import look_at_divergences, look_at_terms
from kdwatts.doctor.patient import Check

NUMBERS: list[Check] = [
    Check("terms", 12.0, 2.0, look_at_terms, computes=True),
    Check("divergences", 14.0, 2.0, look_at_divergences, computes=True),
    Check("fused head", 12.0, 3.0, look_at_fused_head, computes=True),
    Check("attention", 12.0, 2.0, look_at_attention, computes=True),
    Check("cached signals", 10.0, 5.0, look_at_cached_signals, computes=True),
    Check("resume", 45.0, 20.0, look_at_resume, computes=True),
]
"""A resume is three starts of Python with torch, two of them at once."""
