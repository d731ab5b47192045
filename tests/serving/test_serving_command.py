"""`python -m kdwatts.serving` where a disk, a folder, a hub or a server fails it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from kdwatts.config.machine import Telemetry
from kdwatts.config.serving import Serving
from kdwatts.records.serving_record import EngineRecord, Figure, ServingPoint, ServingRecord
from kdwatts.runtime import interrupt
from kdwatts.serving import serving_command, session
from kdwatts.serving.__main__ import main
from kdwatts.serving.bench import Bench
from kdwatts.serving.client.outcomes import Outcome
from kdwatts.serving.engines.server import Server
from kdwatts.serving.load.requests import Load
from kdwatts.serving.one_load import say_failures
from kdwatts.telemetry.meter import Meter

NOBODY = ("--url", "http://127.0.0.1:9", "--model", "NAME", "--tokenizer", "tiny:tokenizer")
ON_CPU = ("--device", "cpu")
A_RECORD = EngineRecord("transformers", "5.23.0", [], "float32", None)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What becomes of each server in turn, in place of a measurement: `stopped`, or a verdict."""
    ends: list[str] = []

    def serve_and_measure(*_: Any, measurement: int, **__: Any) -> ServingRecord:
        if (end := ends.pop(0)) == "stopped":
            interrupt.join(15)
            interrupt.stop_if_requested("this server is measured anew")
        completed = int(end in ("steady", "unsteady"))
        points = [
            ServingPoint("closed", 1.0, "failed"),
            ServingPoint("closed", 4.0, end, completed=completed),
        ]
        return ServingRecord(
            "model", A_RECORD, {}, {}, points, parking_power_w=Figure(7.0), measurement=measurement
        )

    monkeypatch.setattr(serving_command, "serve_and_measure", serve_and_measure)
    return ends


def test_a_hub_id_that_is_not_on_this_disk_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["--model", "nobody/nothing", *ON_CPU, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("kdwatts: model nobody/nothing is not in ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--prompt-tokens", "9", "--prompt-tokens-p95", "99"],
            "--prompt-tokens-p95=99 is more than a lognormal with the mean prompt_tokens=9 can",
        ),
        (
            ["--prompt-tokens", "9000"],
            "--prompt-tokens=9000 and --output-tokens=32 together exceed the context of 128 tokens",
        ),
        (["--prompts", "."], "--prompts=. is no file; give a text or JSONL file"),
        (["--tokenizer", "tiny:corpus"], "/corpus has no tokenizer; give --tokenizer, a folder"),
    ],
)
def test_what_is_refused_leaves_no_folder_so_the_same_one_can_be_given_again(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = ["--model", "tiny:teacher", "--tokenizer", "tiny:tokenizer"]
    assert main([*model, *ON_CPU, "--out", str(tmp_path / "out"), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_configuration_that_is_a_list_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "config.json").write_text("[]")
    assert main(["--model", str(tmp_path), "--tokenizer", "tiny:tokenizer", *ON_CPU]) == 2
    assert "the folder has no configuration that can be read" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a_file", "a_file/below"])
def test_a_place_that_can_be_no_folder_of_records_is_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "a_file").write_text("mine")
    assert main([*NOBODY, *ON_CPU, "--out", str(tmp_path / name)]) == 2
    sentence = f"kdwatts: --out={tmp_path / name} cannot be a folder for records ("
    assert capsys.readouterr().err.startswith(sentence)
    assert (tmp_path / "a_file").read_text() == "mine"


def test_figures_that_the_disk_does_not_take_are_printed(
    served: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    served.append("steady")
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    taken = f".serving.json.{os.getpid()}.tmp"

    def open_folder(_: Path | None) -> Path:
        (out_dir / taken).symlink_to("/dev/full")
        return out_dir

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving_command, "_open_folder", open_folder)
        assert main([*NOBODY, *ON_CPU]) == 1
    printed = capsys.readouterr()
    assert "idle server: 7.00 W" in printed.out
    assert "no space left on device" in printed.err
    assert str(out_dir) in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("number_done", [0, 1])
def test_a_stopped_command_names_serving_json_only_where_it_has_one(
    number_done: int, served: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    served += ["steady"] * number_done + ["stopped"]
    words = ["--model", "tiny:teacher", "--tokenizer", "tiny:tokenizer", "--repeats", "2"]
    assert main([*words, *ON_CPU, "--out", str(tmp_path / "out")]) == 128 + 15
    path = tmp_path / "out" / "serving.json"
    assert (str(path) in capsys.readouterr().err) == path.exists() == bool(number_done)
    if number_done:
        assert [one["measurement"] for one in json.loads(path.read_text())] == [1]


@pytest.mark.parametrize(("verdict", "code"), [("failed", 1), ("client_bound", 1), ("unsteady", 0)])
def test_the_exit_code_is_1_where_no_load_has_figures(
    verdict: str, code: int, served: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    served.append(verdict)
    assert main([*NOBODY, *ON_CPU, "--out", str(tmp_path / "out")]) == code
    assert ("no load has figures" in capsys.readouterr().err) == (code == 1)


def test_a_reader_that_is_gone_gets_no_trace_for_each_line(
    served: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    served.append("steady")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as unread, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", unread)
        with pytest.raises(BrokenPipeError):  # Of the table; __main__ ends the command for it.
            main([*NOBODY, *ON_CPU, "--out", str(tmp_path / "out")])
        os.dup2(os.open(os.devnull, os.O_WRONLY), unread.fileno())
    assert capsys.readouterr().err == ""
    assert (tmp_path / "out" / "serving.json").is_file()


def test_the_servers_words_about_each_kind_of_failure_are_logged_once(
    caplog: pytest.LogCaptureFixture,
):
    ended = [("too_many", "HTTP 429: slow down"), ("refused", "HTTP 400: too long"), (None, None)]
    outcomes = [
        Outcome(number, 0.0, 0.0, 1.0, failure=kind, detail=words)
        for number, (kind, words) in enumerate([*ended, *ended, ("unfinished", None)])
    ]
    say_failures(Load("closed", 4.0), outcomes)
    assert caplog.messages == [
        "serving: 4 at once: a request failed (too_many): HTTP 429: slow down",
        "serving: 4 at once: a request failed (refused): HTTP 400: too long",
    ]


def test_an_idle_server_that_has_ended_draws_no_known_power(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    settings = Serving(engine="transformers", parking_settle_s=0.0, parking_s=0.1)
    server = Server(
        A_RECORD, "http://127.0.0.1:9", "m", "vllm", os.getpid(), why_dead=lambda: "it was ended"
    )
    with Meter(tmp_path, Telemetry(cpu_estimate="tdp"), use_gpus=False) as meter:
        load = ServingPoint(
            "closed", 1.0, "steady", energy_quality="measured", energy_j={"gpu": 1.0}
        )
        power = session._parking_power(Bench(server, settings, meter, iter(()), 0), [load])
    assert power.value is None
    assert "the power of the idle server is not known, as it was ended" in caplog.text
