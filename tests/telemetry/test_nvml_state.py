from __future__ import annotations

import pytest

from kdwatts.telemetry.nvml_state import REASONS, harms_of, words_of

STATE = """
from dataclasses import asdict
from kdwatts.telemetry import nvml
from kdwatts.telemetry.nvml_state import read_state
(gpu,), _ = nvml.open_gpus()
def state():
    found = read_state(gpu)
    return asdict(found) | {"reasons": found.reasons, "harms": found.harms}
"""


@pytest.fixture(scope="module")
def printed(start_script):
    once = STATE + "print_json(state())"
    scripts = {
        "healthy": start_script(once),
        "limited": start_script(once, limit_w=400, reasons=0x4 | 0x40, clock_mhz=900),
        "bare": start_script(once, unsupported="slow", pids=7),
        "without ecc": start_script(once, ecc=0, persistence=0),
        "old": start_script(once, persistence=-1, default_limit_w=-1, ecc=-1, max_clock_mhz=-1),
        "errors": start_script(once, ecc_errors=3, pids="41,42"),
        "later": start_script(
            STATE
            + "before = state(); os.environ['NVML_REPLAY_LIMIT_W'] = '350'; time.sleep(2.1)\n"
            + "print_json([before, state()])",
            clock_mhz="1980,2:900",
        ),
    }
    return {name: script.finish() for name, script in scripts.items()}


def test_every_quantity_of_a_healthy_gpu_is_stated(printed):
    assert printed["healthy"] == {
        "is_persistent": True,
        "has_ecc": True,
        "has_ecc_by_default": True,
        "uncorrected_errors": 0,
        "uncorrected_errors_ever": 0,
        "is_sliced": False,
        "power_limit_w": 700.0,
        "default_limit_w": 700.0,
        "max_limit_w": 700.0,
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "max_sm_clock_mhz": 1980,
        "max_memory_clock_mhz": 2619,
        "application_sm_clock_mhz": 1980,
        "temperature_c": 45,
        "reason_bits": 4,
        "reasons": ["power limit reached"],
        "harms": [],
        "memory_used_gib": 4.0,
        "memory_gib": 80.0,
        "pids": [],
    }


def test_a_limit_in_watts_and_a_harmful_reason_in_words(printed):
    limited = printed["limited"]
    assert (limited["power_limit_w"], limited["default_limit_w"]) == (400.0, 700.0)
    assert (limited["sm_clock_mhz"], limited["max_sm_clock_mhz"]) == (900, 1980)
    assert limited["harms"] == ["slowed by the hardware because it is too hot"]


def test_what_a_gpu_does_not_state_is_none_and_never_0(printed):
    stated = {name for name, value in printed["bare"].items() if value is not None}
    assert stated == {"is_sliced", "pids"}
    old = printed["old"]
    assert old["is_persistent"] is None and old["has_ecc"] is None
    assert old["default_limit_w"] is None and old["max_limit_w"] is None
    assert old["power_limit_w"] == 700


def test_without_ecc_no_number_of_errors_is_claimed(printed):
    assert printed["without ecc"]["has_ecc"] is False
    assert printed["without ecc"]["uncorrected_errors"] is None
    assert printed["without ecc"]["is_persistent"] is False
    assert printed["errors"]["uncorrected_errors"] == 3


def test_every_process_is_named(printed):
    assert printed["errors"]["pids"] == [41, 42]


def test_a_change_is_seen_at_the_next_look(printed):
    before, after = printed["later"]
    assert (before["sm_clock_mhz"], before["power_limit_w"]) == (1980, 700)
    assert (after["sm_clock_mhz"], after["power_limit_w"]) == (900, 350)


def test_each_bit_has_words_of_its_own_and_an_unknown_one_is_named_by_its_number():
    words = words_of(2**11 - 1)
    assert len(set(words)) == len(REASONS) == 11
    assert words_of(0x8000) == ["a reason that NVML numbers 0x8000"]
    assert words_of(0) == []


def test_an_idle_gpu_and_a_chosen_clock_do_no_harm_but_heat_and_supply_do():
    assert harms_of(0x1 | 0x2 | 0x4 | 0x10 | 0x100) == []
    assert len(harms_of(0x8 | 0x20 | 0x40 | 0x80)) == 4
