"""The command line of `python -m kdwatts.serving` as settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdwatts.config.serving import Replay, Serving
from kdwatts.serving.serving_options import in_options, parser, settings_of


def settings(*words: str) -> Serving:
    return settings_of(parser().parse_args(words))


def test_what_is_not_given_keeps_its_default():
    asked = settings("--model", "DIR")
    assert asked == Serving(engine="transformers", url=asked.url)
    assert asked.loads == [1.0, 4.0, 16.0]


def test_rates_and_limits_become_settings():
    asked = settings(
        *("--model", "DIR", "--engine", "vllm", "--rates", "1,2.5", "--slo-ttft-p99-s", "0.5"),
        *("--prompt-tokens", "100", "--prompt-tokens-p95", "300", "--flag=--max-num-seqs=8"),
    )
    assert (asked.engine, asked.loads) == ("vllm", [1.0, 2.5])
    assert (asked.slo.ttft_p99_s, asked.slo.is_set) == (0.5, True)
    assert (asked.workload.prompt_tokens, asked.workload.prompt_tokens_p95) == (100, 300)
    assert (asked.vllm.flags, asked.transformers.flags) == (["--max-num-seqs=8"], [])


def test_a_url_is_an_engine_of_its_own():
    asked = settings("--url", "http://127.0.0.1:8000", "--model", "NAME")
    assert (asked.engine, asked.url.student) == ("url", "http://127.0.0.1:8000")
    assert asked.url.student_model == "NAME"


def test_a_log_and_how_it_is_replayed_become_settings():
    asked = settings(
        *("--model", "DIR", "--replay", "log.csv", "--replay-format", "azure"),
        *("--replay-speeds", "0.5,2", "--replay-from-s", "10", "--replay-for-s", "60"),
        *("--replay-sessions", "apart"),
    )
    assert asked.replay == Replay("log.csv", "azure", [0.5, 2.0], 10.0, 60.0, "apart")
    assert (asked.is_replayed, asked.loads) == (True, [0.5, 2.0])
    rated = settings("--model", "DIR", "--replay", "log.csv", "--rates", "3")
    assert (rated.is_replayed, rated.loads) == (False, [3.0])


def test_the_meter_of_the_servers_host_is_given_with_the_server():
    words = ("--url", "http://a:8000", "--model", "NAME", "--meter-url", "http://a:9400")
    assert settings(*words).url.student_meter == "http://a:9400"
    with pytest.raises(ValueError, match=r"^--meter-url is for a server that runs on another host"):
        settings("--model", "DIR", "--meter-url", "http://a:9400")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--replay-speeds", "2"],
            "--replay-speeds is of a log, but none was given; give --replay FILE, or leave it out",
        ),
        (
            ["--replay", "a", "--replay-speeds", "1,1"],
            "--replay-speeds=[1.0, 1.0] is empty or has a number twice; give each speed once, such "
            "as [0.5,1,2]",
        ),
        (
            ["--replay", "a", "--prompt-tokens", "9"],
            "--prompt-tokens and --replay were both given, but the log says how long requests are; "
            "leave --prompt-tokens out",
        ),
        (
            ["--replay", "a", "--replay-for-s", "0"],
            "--replay-for-s=0.0 is out of range; give a number above 0",
        ),
        (
            ["--replay", "a", "--concurrency", "2"],
            "--replay and --concurrency were both given, but a log says itself when requests come; "
            "leave the concurrency out",
        ),
        (["--min-window-s", "1"], "--min-window-s=1.0 is out of range; give at least 2.0"),
        (["--slo-tpot-p99-s", "0"], "--slo-tpot-p99-s=0.0 is out of range; give a number above 0"),
        (["--rates", "0"], "--rates=0.0 is out of range; give a number above 0"),
        (
            ["--output-tokens", "5", "--output-tokens-p95", "5"],
            "--output-tokens-p95=5 is not above the mean, --output-tokens=5; give a larger number, "
            "or none for one length",
        ),
        (
            ["--concurrency", "1", "--rates", "2"],
            "--concurrency and --rates were both given; give one of them",
        ),
        (["--rates", "4,4"], "--rates=[4.0, 4.0] has a number twice; give each once"),
        (
            ["--max-window-s", "5"],
            "--max-window-s=5.0 is less than --min-window-s=30.0; give at least as much",
        ),
        (
            ["--burstiness", "2"],
            "--burstiness=2.0 shapes gamma arrivals, but --arrivals=poisson; set --arrivals=gamma, "
            "or leave the burstiness at 1",
        ),
        (
            ["--url", "http://a", "--engine", "vllm"],
            "--url and --engine were both given; give one of them",
        ),
        (
            ["--vllm-python", "/p"],
            "--vllm-python is not used by engine transformers; give --engine vllm",
        ),
        (["--repeats", "0"], "--repeats=0 is out of range; give at least 1"),
        (["--url", ""], "--url is empty; give an address, or leave it out to start a server"),
        (["--seed", "-1"], "--seed=-1 is out of range; give at least 0"),
        (
            ["--arrivals", "gamma", "--burstiness", "2"],
            "--arrivals=gamma says when requests of an open loop come, but no rate was given; give "
            "--rates, or leave --arrivals out",
        ),
        (
            ["--rates", "1,1"],
            "--rates=[1.0, 1.0] has a number twice; give each once",
        ),
    ],
)
def test_a_wrong_value_is_said_by_the_name_of_its_option(words: list[str], sentence: str):
    with pytest.raises(ValueError) as caught:
        settings("--model", "DIR", *words) if "--url" not in words else settings(*words)
    assert str(caught.value) == sentence


def test_settings_in_a_sentence_become_options():
    sentence = "eval.serving.workload.prompts=a is wrong, see eval.serving.vllm.python"
    assert in_options(sentence) == "--prompts=a is wrong, see --vllm-python"
    assert in_options("eval.serving.transformers.flags has --port") == "--flag has --port"
    assert in_options("eval.serving.workload: 9 is much") == (
        "--prompt-tokens and --output-tokens: 9 is much"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "kdwatts: no model was given; give --model DIR, or --url of a running server"),
        (
            ["--url", "http://127.0.0.1:9"],
            "kdwatts: --url was given without a tokenizer, but prompts are cut in the model's "
            "tokens; give --tokenizer, the model's folder or hub id",
        ),
        (
            ["--url", "http://127.0.0.1:9", "--model", "NAME"],
            "kdwatts: --url was given without a tokenizer, but prompts are cut in the model's "
            "tokens; give --tokenizer, the model's folder or hub id",
        ),
    ],
)
def test_a_command_that_cannot_begin_exits_with_2_in_one_sentence(
    words: list[str], sentence: str, tmp_path: Path
):
    command = [sys.executable, "-m", "kdwatts.serving", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip(), done.stdout) == (2, sentence, "")
    assert not any(tmp_path.iterdir())
