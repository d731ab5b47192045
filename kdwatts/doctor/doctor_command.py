"""The work of `python -m kdwatts.doctor`: examine, print verdicts, keep them in the store."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from kdwatts import __version__
from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.artifacts.manifest import package_versions
from kdwatts.artifacts.store import Store
from kdwatts.cli.command_line import REFUSED
from kdwatts.cli.failure import in_one_sentence
from kdwatts.cli.overrides import check_words
from kdwatts.cli.preflight import compose
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config
from kdwatts.doctor.chapters import all_chapters
from kdwatts.doctor.doctor_options import PAIRS
from kdwatts.doctor.examination import examine
from kdwatts.doctor.patient import Patient
from kdwatts.doctor.verdict_lines import heading, lines_of, summary
from kdwatts.records.doctor_record import DOCTOR_NAME, DoctorRecord, Verdict, record_path
from kdwatts.records.files import write_json
from kdwatts.runtime.interrupt import EXIT_INTERRUPTED
from kdwatts.runtime.paths import new_dated_dir
from kdwatts.runtime.whole_install import EXIT_REFUSED
from kdwatts.telemetry import nvml
from kdwatts.telemetry.host import cpu_name

DEFAULT_DIR = Path("runs/doctor")
EXIT_WRONG = 1


def run(options: argparse.Namespace) -> int:
    """The exit code after this machine was examined."""
    try:
        config, gpus = _chosen(options)
        folder = options.out or new_dated_dir(DEFAULT_DIR)
        folder.mkdir(parents=True, exist_ok=True)
    except REFUSED as error:
        print(f"kdwatts: {in_one_sentence(error)}", file=sys.stderr)
        return EXIT_REFUSED
    # Warnings of the meter and of libraries become verdicts; here they would tear the page.
    logging.basicConfig(level=logging.ERROR, format="kdwatts: %(message)s", stream=sys.stderr)
    began_s = time.monotonic()
    verdicts: list[Verdict] = []
    is_whole = False
    with tempfile.TemporaryDirectory(prefix="kdwatts-doctor-") as work_dir:
        patient = Patient(config, gpus, _has_cuda(config, gpus), Path(work_dir))
        try:
            for verdict in _shown(patient, 60 * options.minutes):
                verdicts.append(verdict)
            is_whole = True
        except KeyboardInterrupt:
            print(file=sys.stderr)
    record = _record(patient, verdicts, options.minutes, time.monotonic() - began_s)
    write_json(folder / DOCTOR_NAME, record)
    print(summary(record))
    if not is_whole:
        print(
            f"kdwatts: stopped by Ctrl-C; what was found is in {folder / DOCTOR_NAME}, and the "
            "store keeps what it had",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    print(f"The record is {folder / DOCTOR_NAME}{_kept(record, config)}.")
    return EXIT_WRONG if record.count("wrong") else 0


def _chosen(options: argparse.Namespace) -> tuple[Config, list[nvml.Device]]:
    """The settings, and the GPUs to examine: none where the CPU was chosen."""
    check_words(options.words)
    found = nvml.list_gpus()
    named = {word.partition("=")[0] for word in options.words}
    words = list(options.words)
    if options.gpu:
        words.append(f"gpu={options.gpu}")
    if options.model:
        words.append(f"model={options.model}")
    elif "model" not in named:
        is_cpu = not found or options.gpu == "cpu" or "gpu=cpu" in words
        words.append(f"model={PAIRS['cpu' if is_cpu else 'cuda']}")
    config = to_config(resolve_gpu(compose(words), found))
    return config, [] if config.gpu.device == "cpu" else found


def _has_cuda(config: Config, gpus: list[nvml.Device]) -> bool:
    if config.gpu.device == "cpu" or not gpus:
        return False
    import torch

    return torch.cuda.is_available()


def _shown(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """The verdicts; each was printed before it comes."""
    chapter = ""
    with _bar(seconds) as bar:

        def begin(name: str) -> None:
            bar.set_description(name)
            _move(bar)

        for verdict in examine(patient, all_chapters(), seconds=seconds, begin=begin):
            if verdict.chapter != chapter:
                chapter = verdict.chapter
                bar.write(heading(chapter))
            bar.write(lines_of(verdict))
            sys.stdout.flush()
            _move(bar)
            yield verdict
        bar.set_description("")


@contextmanager
def _bar(seconds: float) -> Iterator[tqdm]:
    """A bar of the time that may be used, on stderr."""
    with tqdm(
        total=round(seconds),
        unit="s",
        leave=False,
        bar_format="{desc:<24} |{bar:30}| {n:.0f} of {total:.0f} s",
        disable=None,  # No bar where nobody watches.
    ) as bar:
        yield bar


def _move(bar: tqdm) -> None:
    taken_s = float(bar.format_dict["elapsed"] or 0.0)
    bar.n = min(float(bar.total), taken_s)
    bar.refresh()


def _record(
    patient: Patient, verdicts: list[Verdict], minutes: float, took_s: float
) -> DoctorRecord:
    gpu = patient.gpu
    return DoctorRecord(
        time_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        host=socket.gethostname(),
        gpu_uuid=gpu.uuid if gpu else None,
        gpu=gpu.name if gpu else None,
        cpu=cpu_name(),
        pair=patient.config.model.name,
        minutes=minutes,
        took_s=took_s,
        kdwatts=__version__,
        command=list(sys.argv),
        versions=package_versions(),
        verdicts=verdicts,
    )


def _kept(record: DoctorRecord, config: Config) -> str:
    """Write the record to the store; where else it is now, in words."""
    path = record_path(Store(config.store_dir).root, record.host, record.gpu_uuid)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
    except OSError as error:
        return f"; the store has none, as {path} cannot be written ({error.strerror})"
    return f", and the store's is {path}"
