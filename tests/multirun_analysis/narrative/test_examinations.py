"""What the page says of the examinations of its machines, and of those that had none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from kdwatts.records.doctor_record import COUNTER_CHECK, LastDoctor, Verdict
from kdwatts.records.files import write_json
from multirun_analysis.collect.collection import collect
from multirun_analysis.narrative.caveats import caveats
from tests.multirun_analysis.written_runs import MANIFEST, write_run

COUNTER = Verdict(
    COUNTER_CHECK, "right", "counter 0.1 % below samples", value=-0.1, low=-0.38, high=0.2,
    unit="%", chapter="instruments",
)  # fmt: skip
EXAMINED = LastDoctor(
    host="node7", gpu_uuid="GPU-1", time_utc="2026-12-01T08:00:00+00:00",
    path="/store/doctor/node7-GPU-1.json", counter=COUNTER, num_right=12,
)  # fmt: skip
NEVER = LastDoctor("node7", "GPU-1", None, None, reason="never run")
RAPL = Verdict("rapl_readable", "attention", "root alone may read /sys/class/powercap")
RATE = Verdict("matrix_rate_bf16", "wrong", "410 TFLOP/s, of 989")


def run(folder: Path, *doctors: Any, began: str = "2026-12-02T10:00:00+00:00", **more: Any) -> None:
    """A run that began at a time; its manifest names these examinations, one list an attempt."""
    write_run(folder, student_key=folder.name)
    attempts = [
        MANIFEST | {"time_utc": began, "doctor": [asdict(d) for d in each]} for each in doctors
    ]
    if not attempts:
        attempts = [MANIFEST | {"time_utc": began}]
    write_json(folder / "manifest.json", attempts[-1] | {"earlier_attempts": attempts[:-1]} | more)


def said(folder: Path, *, name_hosts: bool = True) -> str:
    return dict(caveats(collect([folder]), name_hosts=name_hosts))["Examination"]


def test_a_counter_that_is_right_is_quoted_by_the_far_end_of_its_interval_and_its_day(tmp_path):
    run(tmp_path / "0", [EXAMINED])
    run(tmp_path / "1", [EXAMINED])
    assert said(tmp_path) == (
        "python -m kdwatts.doctor examined 1 of 1 machine; each GPU counts as one. "
        "Counter within 0.38 % of the integral of power (2026-12-01): node7 GPU-1."
    )
    assert said(tmp_path, name_hosts=False).endswith(
        " Counter within 0.38 % of the integral of power (2026-12-01): 1 x NVIDIA H100 80GB HBM3."
    )


@pytest.mark.parametrize(
    ("value", "low", "high", "within"),
    # Never less than the interval: 0.401 is not within 0.40.
    [
        (0.1, -0.401, 0.2, "0.41"),
        (0.0, 0.0, 0.0, "0"),
        (9.99, 0, 9.99, "10"),
    ],
)
def test_within_is_rounded_up(value, low, high, within, tmp_path):
    counter = replace(COUNTER, value=value, low=low, high=high)
    run(tmp_path / "0", [replace(EXAMINED, counter=counter)])
    assert (
        said(tmp_path)
        .partition("one. ")[2]
        .startswith(f"Counter within {within} % of the integral")
    )


def test_a_figure_without_an_interval_is_not_called_within_anything(tmp_path):
    run(tmp_path / "0", [replace(EXAMINED, counter=replace(COUNTER, low=None))])
    assert " Counter -0.10 % from the integral of power (2026-12-01)" in said(tmp_path)


def test_a_lying_counter_has_its_interval_and_a_warning_for_the_runs_on_that_gpu_alone(tmp_path):
    lying = replace(COUNTER, verdict="wrong", value=30.0, low=29.4, high=30.6)
    run(tmp_path / "0", [replace(EXAMINED, counter=lying, not_right=[lying])])
    run(tmp_path / "1", [replace(EXAMINED, host="node8")])
    text = said(tmp_path)
    assert (
        "Counter 30 % from the integral of power (95 % interval 29 to 31 %) (2026-12-01): "
        "node7 GPU-1." in text
    )
    assert "The energy counter was found wrong, so joules of the run may be too: 0." in text


def test_the_last_verdict_counts_also_where_an_earlier_run_names_a_better_one(tmp_path):
    lying = replace(COUNTER, verdict="wrong", value=30.0, low=29.4, high=30.6)
    run(tmp_path / "0", [EXAMINED])
    later = replace(EXAMINED, counter=lying, time_utc="2026-12-03T08:00:00+00:00")
    run(tmp_path / "1", [later], began="2026-12-04T08:00:00+00:00")
    text = said(tmp_path)
    assert "within" not in text
    assert "so joules of the run may be too: 2 runs (0, 1)." in text


def test_what_is_not_right_is_named_and_a_public_page_has_no_words_of_the_host(tmp_path):
    run(tmp_path / "0", [replace(EXAMINED, not_right=[RAPL, RATE])])
    text = said(tmp_path)
    assert "Wrong (matrix rate bf16; 410 TFLOP/s, of 989): node7 GPU-1." in text
    assert "Attention (rapl readable): node7 GPU-1." in text
    public = said(tmp_path, name_hosts=False)
    assert "Wrong (matrix rate bf16): 1 x NVIDIA H100 80GB HBM3." in public
    assert "node7" not in public and "TFLOP" not in public


def test_verdicts_of_attention_that_the_same_machines_have_are_one_sentence(tmp_path):
    quota = Verdict("cpu_quota", "attention", "1 of 64")
    run(tmp_path / "0", [replace(EXAMINED, not_right=[RAPL, quota])])
    run(tmp_path / "1", [replace(EXAMINED, host="node8", not_right=[quota, RAPL])])
    assert said(tmp_path).endswith(
        " Attention (rapl readable, cpu quota): 2 machines (node7 GPU-1, node8 GPU-1)."
    )


def test_a_host_without_an_examination_is_said_with_its_runs_and_no_figure(tmp_path):
    run(tmp_path / "0", [NEVER])
    run(tmp_path / "1", [NEVER])
    run(tmp_path / "2", [replace(NEVER, host="node3", gpu_uuid=None)])
    assert said(tmp_path) == (
        "python -m kdwatts.doctor was never run on node7: 2 runs (0, 1). "
        "python -m kdwatts.doctor was never run on node3: 2."
    )


def test_gpus_of_a_host_that_were_not_examined_are_counted(tmp_path):
    others = [replace(NEVER, gpu_uuid=f"GPU-{n}") for n in range(2, 9)]
    run(tmp_path / "0", [EXAMINED, *others])
    assert said(tmp_path).startswith("python -m kdwatts.doctor examined 1 of 8 machines; ")
    assert said(tmp_path).endswith(
        "python -m kdwatts.doctor was never run on 7 of 8 GPUs of node7: 0."
    )


def test_a_record_that_could_not_be_read_is_not_called_never(tmp_path):
    run(tmp_path / "0", [replace(NEVER, path="/store/x.json", reason="/store/x.json: not JSON")])
    assert said(tmp_path) == (
        "The record that python -m kdwatts.doctor left of node7 could not be read: 0."
    )


def test_an_examination_after_a_run_is_said_to_be_later_than_that_run(tmp_path):
    run(tmp_path / "0", [NEVER], began="2026-11-30T08:00:00+00:00")
    run(tmp_path / "1", [EXAMINED])
    text = said(tmp_path)
    assert "The machine was examined only after the run had begun: 0." in text
    assert "never" not in text


def test_an_examination_between_two_attempts_is_later_than_the_run(tmp_path):
    run(tmp_path / "0", [NEVER], [EXAMINED], began="2026-11-30T08:00:00+00:00")
    assert "was examined only after the run had begun: 0." in said(tmp_path)


@pytest.mark.parametrize(
    ("began", "is_old"), [("2026-12-31T07:59:00+00:00", False), ("2027-01-01T08:01:00Z", True)]
)
def test_an_examination_of_more_than_30_days_is_called_old(began, is_old, tmp_path):
    run(tmp_path / "0", [EXAMINED], began=began)
    assert ("The examination was 31 days old when the run began: 0." in said(tmp_path)) == is_old


def test_two_attempts_on_two_hosts_name_both(tmp_path):
    run(tmp_path / "0", [EXAMINED], [replace(EXAMINED, host="node8")])
    assert "2 machines (node7 GPU-1, node8 GPU-1)" in said(tmp_path)


def test_many_machines_are_one_sentence_with_the_least_and_the_most(tmp_path):
    for number in range(12):
        counter = replace(COUNTER, low=-0.2 - number / 100, high=0.1)
        day = f"2026-12-{number + 1:02}T08:00:00+00:00"
        one = replace(EXAMINED, host=f"node{number}", counter=counter, time_utc=day)
        run(tmp_path / str(number), [one], began="2026-12-20T10:00:00+00:00")
    text = said(tmp_path)
    assert (
        "Counter within 0.20 to 0.31 % of the integral of power (2026-12-01 to 2026-12-12): "
        "12 machines (node0 GPU-1, " in text
    )
    assert text.count("Counter within") == 1


def test_many_machines_without_an_examination_are_one_sentence_that_names_each_with_its_run(
    tmp_path,
):
    for number in range(3):
        run(tmp_path / str(number), [replace(NEVER, host=f"node{number}")])
    assert said(tmp_path) == (
        "python -m kdwatts.doctor was never run on the machine: "
        "3 runs (0 on node0, 1 on node1, 2 on node2)."
    )


def test_a_public_page_counts_machines_of_one_product_and_a_long_uuid_is_cut(tmp_path):
    for number in range(2):
        uuid = f"GPU-5f0c0a1{number}-1111-2222-3333-444455556666"
        run(tmp_path / str(number), [replace(EXAMINED, gpu_uuid=uuid)])
    assert "2 machines (node7 GPU-5f0c0a10, node7 GPU-5f0c0a11)." in said(tmp_path)
    public = said(tmp_path, name_hosts=False)
    assert "2 machines (machine 1 with 1 x NVIDIA H100 80GB HBM3, machine 2 with 1 x " in public


def test_a_host_without_a_gpu_and_a_counter_that_was_not_read_are_no_agreement(tmp_path):
    run(tmp_path / "0", [replace(EXAMINED, gpu_uuid=None, counter=None)])
    run(tmp_path / "1", [replace(EXAMINED, host="node8", counter=None)])
    stuck = replace(
        COUNTER, verdict="wrong", value=None, low=None, high=None, found="the counter is stuck"
    )
    run(tmp_path / "2", [replace(EXAMINED, host="node9", counter=stuck, not_right=[stuck])])
    text = said(tmp_path)
    assert "within" not in text
    assert "Examined without a GPU (2026-12-01): node7." in text
    assert "Examined, but without a look at an energy counter (2026-12-01): node8 GPU-1." in text
    assert "Energy counter: the counter is stuck (2026-12-01): node9 GPU-1." in text
    assert "Wrong (" not in text and "so joules of the run may be too: 2." in text


def test_a_manifest_of_an_older_version_and_an_imported_run_have_no_examination(
    tmp_path, imported_dir
):
    run(tmp_path / "0")
    assert said(tmp_path) == (
        "The manifest is older than python -m kdwatts.doctor and names no examination: 0."
    )
    assert "Imported runs have no examination: 3 runs (" in said(imported_dir)


@pytest.mark.parametrize(
    "field",
    [7, "x", {"host": "node7"}, ["x", None, 7], [{}], [{"host": 7}], [[]], [{"host": "n"}],
     [asdict(EXAMINED) | {"counter": {"name": "x"}}], [asdict(EXAMINED) | {"not_right": [7]}]],
)  # fmt: skip
def test_a_field_that_no_run_of_ours_writes_does_not_end_the_page(
    field: Sequence[object], tmp_path
):
    run(tmp_path / "0", doctor=field)
    found = dict(caveats(collect([tmp_path])))
    assert "Counter" not in found.get("Examination", "")


def test_a_time_that_is_none_is_no_examination(tmp_path):
    run(tmp_path / "0", [replace(EXAMINED, time_utc="yesterday")])
    assert "within" not in said(tmp_path)


def test_the_table_of_runs_has_the_start_and_every_examination_once(tmp_path):
    run(tmp_path / "0", [NEVER], [EXAMINED], [EXAMINED], began="2026-11-30T08:00:00+00:00")
    (row,) = collect([tmp_path]).runs.to_dict("records")
    assert row["started_utc"] == "2026-11-30T08:00:00+00:00"
    assert json.loads(row["doctor"]) == [asdict(NEVER), asdict(EXAMINED)]
