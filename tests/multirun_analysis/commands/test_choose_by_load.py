"""`choose --rate` and `--replay`: in words, as a record, and by exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from multirun_analysis.__main__ import main
from tests.multirun_analysis.statistics.test_fleet_choice import (
    INT4,
    TEACHER,
    add,
    say_quantized,
    two_students,
)
from tests.multirun_analysis.written_fleets import server
from tests.multirun_analysis.written_serving import point, record, write_under_load


def told(capsys: Any, *words: object) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["choose", *map(str, words)])
    return code, capsys.readouterr().out


def test_the_words_say_what_to_serve_on_how_many_gpus_at_which_cost(
    make: Any, tmp_path: Path, capsys: Any
):
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), TEACHER)
    code, text = told(capsys, tmp_path, "--rate", 12, "--price-per-card-hour", "H100=2.5",
                      "--site", "france")  # fmt: skip
    assert code == 0
    assert text.startswith(
        "Serve response on 2 replicas, each on NVIDIA H100 80GB HBM3 (2 GPUs), behind vllm 0.32.0."
        "\nSettled.\nIt keeps 90 % of its teacher's accuracy above chance (85 to 95 %;"
    )
    assert (
        "The load that you ask for is 12 requests/s on average and 12 at its peak. 99 of 100 "
        "requests must have the first token within 0.5 s and each later token within 0.05 s.\n"
        "One replica carries 8 requests/s (found by a search), and the peak may take 75 % of "
        "that.\n"
        "At the peak a replica gets 6 requests/s. At 8, the nearest measured load that is no "
        "lower, in 99 of 100 requests the first token came within 100 ms (95.0 ms to 105 ms), "
    ) in text
    assert (
        "A request takes 33.3 J (95 % interval 33.1 J to 33.6 J), measured, and a day 34.6 MJ (9.6"
    )
    # 2 GPUs x 24 h x 2.5 USD over 33.18 million tokens; 9.6 kWh x 1.35 x the price of France.
    assert "A million tokens written cost 3.62 USD of rent and " in text
    assert "of electricity; rent often holds the electricity." in text
    assert "At site france (44 gCO2e/kWh, PUE 1.35) a request causes 550 µgCO2e (" in text
    assert "Held against teacher, building is repaid after 83,300 (" in text
    assert " tokens or 0.0804 (" in text
    assert (
        "The student" not in text and "It takes 64.3 % less (95 % interval 63.9 to 64.6 %)" in text
    )
    assert "Second choice: teacher (the teacher itself), on 4 replicas" in text


def test_tokens_a_day_and_a_rate_choose_differently_and_the_first_says_what_it_lacks(
    make: Any, tmp_path: Path, capsys: Any
):
    two_students(make, tmp_path)
    code, by_loop = told(capsys, tmp_path, "--tokens-per-day", 12 * 80 * 86_400)
    assert code == 0 and by_loop.startswith("Serve response (0).")
    assert "This answer rests on our eager loop at batch 8: no load, no latency, no idle" in by_loop
    code, by_load = told(capsys, tmp_path, "--rate", 12)
    assert code == 0 and by_load.startswith("Serve feature on 2 replicas")


def test_a_log_is_read_and_its_day_decides(make: Any, tmp_path: Path, capsys: Any):
    """An hour of one request each 10 s: 0.1 requests/s, 8.01 kJ of parking and 20 J a request."""
    add(make, tmp_path / "runs" / "0", server("student", 80, 20, 8.0), TEACHER)
    log = tmp_path / "log.jsonl"
    lines = [
        json.dumps({"id": str(i), "t_s": 10.0 * i, "prompt_tokens": 48, "output_tokens": 32})
        for i in range(360)
    ]
    log.write_text("\n".join(lines) + "\n")
    code, text = told(capsys, tmp_path / "runs", "--replay", log, "--json")
    said = json.loads(text)
    assert (code, said["source"], said["log"]["format"]) == (0, "replay", "kdwatts")
    assert said["rate_per_s"] == pytest.approx(0.1, rel=1e-3)
    assert said["recommended"]["j_per_request"] == pytest.approx(820, rel=1e-3)
    _, text = told(capsys, tmp_path / "runs", "--replay", log)
    assert "The load of the log, which spans 60.0 min and is repeated to fill a day, is 0.1" in text


def test_of_a_log_of_several_days_the_mean_day_is_said_to_be_taken(
    make: Any, tmp_path: Path, capsys: Any
):
    add(make, tmp_path / "runs" / "0", server("student", 80, 20, 8.0), TEACHER)
    log = tmp_path / "log.jsonl"
    row = {"prompt_tokens": 48, "output_tokens": 32}
    lines = [json.dumps(row | {"id": str(i), "t_s": 1000.0 * i}) for i in range(200)]
    log.write_text("\n".join(lines) + "\n")
    _, text = told(capsys, tmp_path / "runs", "--replay", log)
    assert "of the log, which spans 55.6 h and whose mean day is taken, is 0.001 requests" in text


def test_programs_are_given_a_record_with_null_for_what_is_not_known(
    make: Any, tmp_path: Path, capsys: Any
):
    quantized = server("teacher", 90, 10, 6.0, engine=INT4, key="teacher-int4")
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), TEACHER, quantized)
    code, text = told(capsys, tmp_path, "--rate", 3, "--json")
    said = json.loads(text)
    assert (code, said["verdict"], said["recommended"]["label"]) == (0, "settled", "response")
    best = said["recommended"]
    assert (best["replicas"], best["gpus"]) == (1, 1)
    assert best["requests_to_break_even"] == pytest.approx(5e6 / (280 / 3 - 140 / 3))
    assert best["rent_usd_per_million_output_tokens"] is None
    assert (said["teacher"]["label"], said["teacher"]["break_even"]) == ("teacher", "unknown")
    (apart,) = said["not_judged"]
    assert apart["why"] == "its accuracy was not measured in int4"
    assert apart["accuracy_kept"] is None and apart["j_per_request"] == pytest.approx(40)


def test_settings_without_a_server_in_an_open_loop_are_named(
    make: Any, tmp_path: Path, capsys: Any
):
    """One was measured in a closed loop, one not at all."""
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), TEACHER)
    closed = record("student", [point(4, 0.9)], key="closed")
    add(make, tmp_path / "1", closed, paradigm="feature")
    make.run(tmp_path / "2", paradigm="sft")
    _, text = told(capsys, tmp_path, "--rate", 3)
    assert text.splitlines()[-1] == (
        "Not judged: feature, sft: no server was measured in an open loop."
    )
    _, text = told(capsys, tmp_path, "--rate", 3, "--json")
    assert json.loads(text)["not_served"] == ["feature", "sft"]


def test_the_teacher_in_four_bits_is_named_where_it_wins(make: Any, tmp_path: Path, capsys: Any):
    quantized = server("teacher", 90, 10, 6.0, engine=INT4, key="teacher-int4")
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), TEACHER, quantized)
    say_quantized(tmp_path / "0")
    code, text = told(capsys, tmp_path, "--rate", 3, "--strict")
    assert code == 0
    assert text.startswith("Serve teacher in int4 on 1 replica, on NVIDIA H100 80GB HBM3 (1 GPU)")
    assert "Rounding it to int4 took 1.00 kJ. With 94.6 million requests in 365 days" in text
    assert "Beside it: teacher, on 1 replica" in text and "Second choice: response (90 %" in text
    assert "It keeps 98.0 % of its teacher's accuracy above chance" in text


def test_exit_codes_are_those_of_the_verdicts(make: Any, tmp_path: Path, capsys: Any):
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), TEACHER, accuracy_kept_low=0.4)
    assert told(capsys, tmp_path, "--rate", 3)[0] == 0
    assert told(capsys, tmp_path, "--rate", 3, "--strict")[0] == 3
    write_under_load(make.run(tmp_path / "bare" / "0", accuracy_kept=None, om_perf=None),
                     server("student", 80, 20, 8.0), TEACHER)  # fmt: skip
    code, text = told(capsys, tmp_path / "bare", "--rate", 3)
    assert code == 1
    assert "Not judged: response: it has no benchmark scores." in text
    assert told(capsys, tmp_path / "bare", "--rate", 3, "--strict")[0] == 3


def test_building_that_is_not_repaid_is_said(make: Any, tmp_path: Path, capsys: Any):
    """The only student that keeps enough draws more than its teacher, so the teacher is named."""
    add(make, tmp_path / "0", server("student", 120, 70, 4.0), TEACHER)
    code, text = told(capsys, tmp_path, "--rate", 3)
    assert code == 0
    assert text.startswith("Serve teacher on 1 replica, on NVIDIA H100 80GB HBM3 (1 GPU)")
    assert "It is the teacher itself." in text and "Building" not in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "one of the arguments --rate --replay --tokens-per-day is required"),
        (("--rate", 1, "--tokens-per-day", 1), "not allowed with argument --rate"),
        (("--rate", 0), "--rate 0 is no load; give a number above 0"),
        (("--rate", "nan"), "--rate nan is no load"),
        (("--rate", "1e300"), "1e+300 requests/s on average and 1e+300 at its peak, which no"),
        (("--rate", "1e-300"), "the load is 1e-300 requests/s on average"),
        (("--rate", 10, "--peak-factor", "1e300"), "10 requests/s on average and 1e+301 at its"),
        (("--rate", 1, "--peak-factor", 0.5), "--peak-factor 0.5 is below 1"),
        (("--rate", 1, "--slo-tpot-p99-s", -1), "--slo-tpot-p99-s -1 is no limit"),
        (("--rate", 1, "--days", 0), "--days 0 must be a number above 0"),
        (("--rate", 1, "--days", "1e300"), "--days 1e+300 must be a number above 0, up to 1e+06"),
        (("--rate", 1, "--price-per-card-hour", "1e308"), "that is no price above 0"),
        (("--rate", 1, "--price-per-card-hour", "cheap"), "that is no price above 0"),
        (("--rate", 1, "--price-per-card-hour", "B200=9"), "no measured GPU is called so"),
        (("--rate", 1, "--price-per-card-hour", "1", "--price-per-card-hour", "2"), "given twice"),
        (("--replay", "/nowhere/log.jsonl"), "/nowhere/log.jsonl"),
        (("--tokens-per-day", 1, "--peak-factor", 2), "which knows no load; give --rate or"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    options: tuple, sentence: str, make: Any, tmp_path: Path, capsys: Any
):
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), TEACHER)
    try:
        code = main(["choose", str(tmp_path), *map(str, options)])
    except SystemExit as ended:  # argparse's own.
        code = ended.code
    assert code == 2
    assert sentence in capsys.readouterr().err


def test_without_an_objective_in_common_one_is_asked_for(make: Any, tmp_path: Path, capsys: Any):
    none: dict[str, Any] = {"slo": {"ttft_p99_s": None, "tpot_p99_s": None, "e2e_p99_s": None}}
    add(make, tmp_path / "0", server("student", 80, 20, None, **none), TEACHER)
    assert main(["choose", str(tmp_path), "--rate", "1"]) == 2
    assert (
        "the measurements have 2 different SLOs; give --slo-ttft-p99-s" in capsys.readouterr().err
    )
    add(make, tmp_path / "alone" / "0", server("student", 80, 20, None, **none))
    assert main(["choose", str(tmp_path / "alone"), "--rate", "1"]) == 2
    assert "the measurements have no SLO to take; give --slo-ttft-p99-s" in capsys.readouterr().err
    assert main(["choose", str(tmp_path), "--rate", "1", "--slo-tpot-p99-s", "0.05"]) == 0


def test_closed_loops_alone_are_refused(make: Any, tmp_path: Path, capsys: Any):
    add(make, tmp_path / "0", record("student", [point(4, 0.9)]))
    asked = ["choose", str(tmp_path), "--rate", "1", "--slo-tpot-p99-s", "0.05"]
    assert main(asked) == 2
    assert "closed loops alone, which say nothing of a rate; measure one" in capsys.readouterr().err


def test_where_no_model_s_replicas_are_known_the_first_line_says_so(
    make: Any, tmp_path: Path, capsys: Any
):
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), TEACHER)
    code, text = told(capsys, tmp_path, "--rate", 12, "--slo-e2e-p99-s", 0.001)
    assert code == 1
    assert text.startswith(
        "No recommendation: for no model is it known how many replicas it needs.\n"
    )


def test_runs_without_a_measured_server_are_refused_before_limits_are_asked_for(
    make: Any, tmp_path: Path, capsys: Any
):
    make.run(tmp_path / "0")
    assert told(capsys, tmp_path, "--rate", 12)[0] == 2
    assert main(["choose", str(tmp_path), "--rate", "12"]) == 2
    assert "no server was measured under load" in capsys.readouterr().err
