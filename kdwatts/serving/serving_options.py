"""The options of `python -m kdwatts.serving`, and the settings that they are."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kdwatts.runtime.paths import argument_path
from kdwatts.telemetry.meter_options import add_meter_options

if TYPE_CHECKING:
    from kdwatts.config.serving import Serving

DESCRIPTION = """\
Starts a server for a model, sends it requests, and measures joules and latencies of each load.

  python -m kdwatts.serving --model runs/DATE/TIME/student --engine transformers --concurrency 1,4
  python -m kdwatts.serving --model DIR --engine vllm --rates 1,2,4,8 --slo-ttft-p99-s 0.5
  python -m kdwatts.serving --model DIR --engine vllm --replay log.jsonl --replay-speeds 1,2
  python -m kdwatts.serving --url http://127.0.0.1:8000 --model NAME --concurrency 1,8,32
"""

EPILOG = """\
It writes serving.json, and the meter's telemetry.jsonl and stages.jsonl, to the folder --out, and
prints a table. `python -m multirun_analysis DIR` draws the figures.
Times are those that a user waits: from the moment when a request was due. The exit code is 0 when
loads were measured, 1 when the server failed or no load has figures, 2 when the command was
refused, and 130 after Ctrl-C. The server is ended in every case, but one that was given by --url.
"""

NAMES = {
    "rates_per_s": "rates",
    "replay.log": "replay",
    "vllm.python": "vllm-python",
    "vllm.flags": "flag",
    "transformers.flags": "flag",
    "url.student": "url",
    "url.student_model": "model",
    "url.student_meter": "meter-url",
}
"""Settings whose option has another name. The others are spelled with dashes."""
LENGTHS = "--prompt-tokens and --output-tokens"
"""Options of a sentence about both."""
DASHES = str.maketrans("_.", "--")


def _numbers(kind: Callable[[str], float]) -> Callable[[str], list[float]]:
    def read(text: str) -> list[float]:
        try:
            return [kind(word) for word in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no list of numbers such as 1,4,16"
            ) from None

    return read


def parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m kdwatts.serving",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--model",
        metavar="MODEL",
        help="folder or hub id of the model; with --url its name there",
    )
    add("--engine", choices=("transformers", "vllm"), help="server to start (default transformers)")
    add("--url", metavar="URL", help="measure a server that runs already, in place of --engine")
    add(
        "--meter-url",
        metavar="URL",
        help="with --url: python -m kdwatts.telemetry --listen on the server's host, whose joules "
        "count",
    )
    add(
        "--tokenizer",
        metavar="PATH",
        help="folder or hub id of the tokenizer (default: the model's)",
    )
    add(
        "--concurrency",
        type=_numbers(int),
        metavar="N,N",
        help="closed loop: so many requests are always under way (default 1,4,16)",
    )
    add(
        "--rates",
        type=_numbers(float),
        metavar="R,R",
        help="open loop: requests a second, whatever the server does",
    )
    add(
        "--arrivals",
        choices=("poisson", "gamma", "constant"),
        help="when requests of an open loop come (default poisson)",
    )
    add(
        "--burstiness",
        type=float,
        metavar="K",
        help="shape of gamma gaps: 1 is poisson, less comes in bursts (default 1)",
    )
    _add_replay(parser)
    _add_requests(parser)
    _add_limits(parser)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")
    add(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="numbers of the weights (default: bfloat16 on a GPU, float32 on a CPU)",
    )
    add("--vllm-python", metavar="PATH", help="interpreter of an environment with vLLM")
    add(
        "--flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="one more flag for the server, such as --flag=--max-num-seqs=64; repeatable",
    )
    add(
        "--out",
        type=argument_path,
        metavar="DIR",
        help="new folder of the records (default runs/serving/DATE/TIME)",
    )
    add_meter_options(parser)
    return parser


def _add_replay(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--replay",
        metavar="FILE",
        help="send the requests of this log when they came; with --rates at those rates",
    )
    add(
        "--replay-format",
        choices=("auto", "kdwatts", "azure", "burstgpt", "mooncake"),
        help="format of the log (default: known by its first line)",
    )
    add(
        "--replay-speeds",
        type=_numbers(float),
        metavar="X,X",
        help="replay once for each: at 2 the gaps are half as long (default 1)",
    )
    add(
        "--replay-from-s",
        type=float,
        metavar="S",
        help="begin so long after the log's first request (default 0)",
    )
    add(
        "--replay-for-s",
        type=float,
        metavar="S",
        help="replay so much of the log, in its own seconds (default: to its end)",
    )
    add(
        "--replay-sessions",
        choices=("ordered", "apart"),
        help="ordered: a turn waits for the one before it in its conversation (default ordered)",
    )


def _add_requests(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--prompt-tokens", type=int, metavar="N", help="tokens of a prompt (default 64)")
    add(
        "--prompt-tokens-p95",
        type=int,
        metavar="N",
        help="95th percentile: lengths are lognormal, and --prompt-tokens is their mean",
    )
    add("--output-tokens", type=int, metavar="N", help="tokens of an answer (default 32)")
    add(
        "--output-tokens-p95",
        type=int,
        metavar="N",
        help="95th percentile: lengths are lognormal, and --output-tokens is their mean",
    )
    add(
        "--length",
        choices=("forced", "natural"),
        help="forced writes exactly so many tokens, natural at most so many (default forced)",
    )
    add(
        "--prompts",
        metavar="FILE",
        help="text or JSONL that prompts are cut from (default: held-out text of the package)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of arrivals, lengths and prompts")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    for name, words in (
        ("--slo-ttft-p99-s", "99 %% of requests get their first token within S"),
        ("--slo-tpot-p99-s", "99 %% of requests get a token every S, on average"),
        ("--slo-e2e-p99-s", "99 %% of requests are answered within S"),
        ("--min-window-s", "least time over which a load is measured (default 30)"),
        ("--max-window-s", "most time for one load (default 300)"),
        ("--parking-settle-s", "wait before the idle server is measured (default 30)"),
        ("--parking-s", "time over which the idle server is measured; 0 measures none"),
        ("--request-timeout-s", "a request without an answer for so long failed (default 120)"),
        ("--start-timeout-s", "time in which the server must answer (default 600)"),
    ):
        add(name, type=float, metavar="S", help=words)
    add(
        "--repeats",
        type=int,
        default=1,
        metavar="N",
        help="measure so often, each time with a fresh server (default 1)",
    )


def settings_of(options: argparse.Namespace) -> Serving:
    """The settings that the options state; what is not given keeps its default.

    Raises ValueError, which names the option, for a wrong value.
    """
    from kdwatts.config import serving

    def given(names: Sequence[str], prefix: str = "") -> dict[str, Any]:
        values = {name: getattr(options, prefix + name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    if options.url == "":
        raise ValueError("--url is empty; give an address, or leave it out to start a server")
    if options.meter_url and not options.url:
        raise ValueError(
            "--meter-url is for a server that runs on another host; give its address by --url"
        )
    if options.url and options.engine:
        raise ValueError("--url and --engine were both given; give one of them")
    if options.url and options.repeats > 1:
        raise ValueError(
            f"--repeats={options.repeats} starts fresh servers, but --url names one that runs; "
            "leave --repeats out"
        )
    if options.repeats < 1:
        raise ValueError(f"--repeats={options.repeats} is out of range; give at least 1")
    if options.seed < 0:
        raise ValueError(f"--seed={options.seed} is out of range; give at least 0")
    engine = "url" if options.url else options.engine or "transformers"
    if options.vllm_python and engine != "vllm":
        raise ValueError(f"--vllm-python is not used by engine {engine}; give --engine vllm")
    if options.flag and engine == "url":
        raise ValueError("--flag is for a server that is started; leave it out with --url")
    if options.arrivals and not options.rates:
        raise ValueError(
            f"--arrivals={options.arrivals} says when requests of an open loop come, but no rate "
            "was given; give --rates, or leave --arrivals out"
        )
    replay = given(("format", "speeds", "from_s", "for_s", "sessions"), "replay_")
    if replay and options.replay is None:
        name = next(iter(replay)).translate(DASHES)
        raise ValueError(
            f"--replay-{name} is of a log, but none was given; give --replay FILE, or leave it out"
        )
    for name in ("prompt_tokens", "prompt_tokens_p95", "output_tokens_p95"):
        if options.replay is not None and getattr(options, name) is not None:
            raise ValueError(
                f"--{name.translate(DASHES)} and --replay were both given, but the log says how "
                f"long requests are; leave --{name.translate(DASHES)} out"
            )
    lengths = ("prompt_tokens", "prompt_tokens_p95", "output_tokens", "output_tokens_p95")
    limits = ("min_window_s", "max_window_s", "parking_settle_s", "parking_s")
    limits += ("request_timeout_s", "start_timeout_s", "arrivals", "burstiness", "concurrency")
    try:
        return serving.Serving(
            engine=engine,
            rates_per_s=options.rates or [],
            workload=serving.Workload(**given((*lengths, "length", "prompts"))),
            replay=serving.Replay(options.replay, **replay),
            slo=serving.Slo(**given(("ttft_p99_s", "tpot_p99_s", "e2e_p99_s"), "slo_")),
            transformers=serving.TransformersServe(
                options.flag if engine == "transformers" else []
            ),
            vllm=serving.Vllm(options.vllm_python, options.flag if engine == "vllm" else []),
            url=serving.RunningServers(
                student=options.url,
                student_model=options.model,
                student_meter=options.meter_url,
            ),
            **given(limits),
        )
    except ValueError as error:
        raise ValueError(in_options(str(error))) from None


def in_options(sentence: str) -> str:
    """A sentence about settings, in the names of this command's options."""

    def option(match: re.Match[str]) -> str:
        name = match[1].removeprefix("workload.")
        return "--" + NAMES.get(name, name.translate(DASHES))

    sentence = sentence.replace("eval.serving.workload:", f"{LENGTHS}:")
    sentence = sentence.replace("eval.serving has ", "the command line has ")
    return re.sub(r"eval\.serving\.([a-z_0-9.]*[a-z_0-9])", option, sentence)
