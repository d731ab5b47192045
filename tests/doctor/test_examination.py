"""All checks within the time given: none hides another, none is left out in silence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdwatts.doctor import examination
from kdwatts.doctor.chapters import all_chapters
from kdwatts.doctor.examination import examine
from kdwatts.doctor.patient import Check, Patient
from kdwatts.records.doctor_record import Verdict
from kdwatts.telemetry.nvml import Device

CLOCK = SimpleNamespace(now_s=0.0, monotonic=lambda: CLOCK.now_s)
"""It stands still unless a test moves it, however busy this machine is."""


@pytest.fixture(autouse=True)
def by_that_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "time", CLOCK)


PATIENT: Any = Patient(config=None, gpus=[], has_cuda=False, work_dir=Path("/nowhere"))  # pyright: ignore


def check(name: str, wants_s: float = 10.0, least_s: float = 1.0, gives: Any = None) -> Check:
    def look(patient: Patient, seconds: float) -> Iterator[Verdict]:
        assert patient is PATIENT
        yield Verdict(name.replace(" ", "_"), "right", f"{seconds:.1f} s")
        if isinstance(gives, Exception):
            raise gives
        if isinstance(gives, Verdict):
            yield gives

    return Check(name, wants_s, least_s, look)


def all_of(chapters: dict[str, list[Check]], seconds: float = 300.0) -> list[Verdict]:
    begun: list[str] = []
    made = list(examine(PATIENT, chapters, seconds=seconds, begin=begun.append))
    assert begun == [one.name for checks in chapters.values() for one in checks]
    return made


def test_verdicts_come_in_the_order_of_the_chapters_and_carry_their_chapter():
    made = all_of({"b": [check("one"), check("two")], "a": [check("three")]})
    assert [(one.chapter, one.name) for one in made] == [
        ("b", "one"),
        ("b", "two"),
        ("a", "three"),
    ]


def test_time_is_shared_by_what_each_check_wants_of_what_is_left():
    # 300 s over 10 + 30 + 60: none of the three uses its own, so the last may use all.
    made = all_of({"a": [check("a", 10), check("b", 30), check("c", 60)]})
    assert [one.found for one in made] == ["30.0 s", "100.0 s", "300.0 s"]


def test_a_check_has_never_less_than_it_needs_while_that_is_left():
    made = all_of({"a": [check("a", 1, least_s=20), check("b", 1000)]}, seconds=30)
    assert made[0].found == "20.0 s"


def test_a_check_without_time_left_says_what_it_takes_and_what_is_left_and_the_next_goes_on():
    made = all_of({"a": [check("long one", 10, least_s=40), check("short")]}, seconds=30)
    assert made[0] == Verdict(
        "check_of_long_one",
        None,
        "not looked at: it takes 40 s, and 30 s were left",
        remedy="give more --minutes",
        chapter="a",
    )
    assert made[1].name == "short"


def test_time_that_a_check_took_beyond_its_own_is_not_there_for_the_next():
    def slow(patient: Patient, seconds: float) -> Iterator[Verdict]:
        CLOCK.now_s += 0.3
        yield Verdict("slow", "right", "it slept")

    made = all_of({"a": [Check("slow", 1, 0.0, slow), check("next", least_s=0.3)]}, seconds=0.4)
    assert [one.verdict for one in made] == ["right", None]
    assert "and 0 s were left" in made[1].found


def test_a_check_with_nothing_to_look_at_takes_no_time_and_says_so_however_little_is_left():
    vain = replace(check("vain", 1000, least_s=40), takes_no_time=lambda patient: not patient.gpus)
    made = all_of({"a": [check("first"), vain, check("last")]}, seconds=20)
    assert [(one.name, one.found) for one in made] == [
        ("first", "10.0 s"),
        ("vain", "0.0 s"),
        ("last", "20.0 s"),
    ]
    (alone,) = all_of({"a": [vain]}, seconds=20)
    assert alone.found == "0.0 s"


def test_no_two_verdicts_of_a_record_have_one_name():
    twice = Verdict("rapl", "right", "in another chapter")
    made = all_of({"a": [check("rapl")], "b": [check("meters", gives=twice)]})
    assert [one.name for one in made] == ["rapl", "meters", "rapl_2"]


def test_a_check_that_raises_is_wrong_after_what_it_had_said_and_the_next_goes_on():
    failing = check("a tree", gives=RuntimeError("it fell\nover"))
    made = all_of({"a": [failing, check("b")]})
    assert [(one.name, one.verdict) for one in made] == [
        ("a_tree", "right"),
        ("check_of_a_tree", "wrong"),
        ("b", "right"),
    ]
    assert made[1].found == "the check failed: RuntimeError: it fell over"
    assert made[1].chapter == "a"


def test_a_figure_that_is_no_number_is_null_and_the_others_are_kept():
    odd = Verdict("odd", "wrong", "it was NaN", value=float("nan"), low=-1.5, high=float("inf"))
    _, made = all_of({"a": [check("b", gives=odd)]})
    assert (made.value, made.low, made.high) == (None, -1.5, None)
    json.dumps(asdict(made), allow_nan=False)


def test_ctrl_c_in_a_check_is_no_verdict_of_it():
    def stopped(patient: Patient, seconds: float) -> Iterator[Verdict]:
        raise KeyboardInterrupt
        yield

    made = examine(PATIENT, {"a": [Check("s", 1, 0, stopped)]}, seconds=9, begin=str)
    with pytest.raises(KeyboardInterrupt):
        next(made)


def test_every_check_has_a_name_of_its_own_and_wants_no_less_than_it_needs():
    checks = [one for group in all_chapters().values() for one in group]
    names = [one.name for one in checks]
    assert len(set(names)) == len(names)
    for one in checks:
        assert 0 <= one.least_s <= one.wants_s, one.name
        assert len(one.name) <= 24, f"{one.name}: the bar cuts it"


def test_what_a_cpu_computes_does_not_pass_for_what_a_gpu_beside_it_does():
    gpu = Device(0, "GPU-1", "NVIDIA H100 80GB HBM3", 79.6, 700.0, "580", True, False)
    beside_it = replace(PATIENT, gpus=[gpu])
    chapters = {name: all_chapters()[name] for name in ("speed", "numbers")}
    made = list(examine(beside_it, chapters, seconds=0.0, begin=lambda name: None))
    names = [one.name.replace(" ", "_") for checks in chapters.values() for one in checks]
    assert [one.name for one in made] == names
    for one in made:
        assert (one.verdict, one.value) == (None, None)
        assert "torch cannot compute on NVIDIA H100" in one.found
