"""The work of `python -m kdwatts.doctor`: examine, print verdicts, keep them in the store."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from kdwatts import __version__
from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.artifacts.manifest import package_versions
from kdwatts.artifacts.store import Store
from kdwatts.cli.command_line import REFUSED
from kdwatts.cli.flags import config_file
from kdwatts.cli.overrides import check_words
from kdwatts.cli.preflight import compose
from kdwatts.cli.refusal import in_one_sentence
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config
from kdwatts.doctor.chapters import all_chapters
from kdwatts.doctor.doctor_options import PAIRS
from kdwatts.doctor.examination import examine
from kdwatts.doctor.patient import Patient
from kdwatts.doctor.progress_bar import Progress
from kdwatts.doctor.verdict_lines import heading, lines_of, page_width, summary, title
from kdwatts.records.doctor_record import (
    DOCTOR_NAME,
    DoctorRecord,
    Verdict,
    file_name,
    record_path,
)
from kdwatts.records.files import write_json
from kdwatts.runtime.paths import new_dated_dir
from kdwatts.runtime.ranks import PLACES, launched, place_on_node
from kdwatts.runtime.whole_install import EXIT_REFUSED
from kdwatts.telemetry import nvml
from kdwatts.telemetry.host import cpu_name

DEFAULT_DIR = Path("runs/doctor")
EXIT_WRONG = 1


def run(options: argparse.Namespace) -> int:
    """The exit code after this machine was examined."""
    try:
        host = _one_of_several()
        config, gpus = _chosen(options)
        folder = _folder(options.out, host)
    except (*REFUSED, RuntimeError) as error:
        print(f"kdwatts: {in_one_sentence(error)}", file=sys.stderr)
        return EXIT_REFUSED
    # Warnings of the meter and of libraries become verdicts; here they would tear the page.
    logging.basicConfig(level=logging.ERROR, format="kdwatts: %(message)s", stream=sys.stderr)
    logging.captureWarnings(True)
    began_s, verdicts, stopped_by, unread = time.monotonic(), [], None, None
    with tempfile.TemporaryDirectory(prefix="kdwatts-doctor-") as work_dir, _sigterm() as received:
        patient = Patient(config, gpus, _has_cuda(config, gpus), Path(work_dir))
        try:
            with closing(_shown(patient, 60 * options.minutes)) as shown:
                for verdict in shown:
                    verdicts.append(verdict)
        except KeyboardInterrupt:
            stopped_by = received[0] if received else signal.SIGINT
            print(file=sys.stderr)
        except OSError as error:  # Those of checks are verdicts: stdout takes no more.
            unread = error
        record = _record(patient, verdicts, options.minutes, time.monotonic() - began_s)
        problem = _written(record, folder / DOCTOR_NAME)
    if isinstance(unread, BrokenPipeError):
        raise unread
    where = problem or f"what was found is in {folder / DOCTOR_NAME}"
    if unread:
        print(f"kdwatts: stdout takes no more ({unread.strerror}); {where}", file=sys.stderr)
        return EXIT_WRONG
    print(summary(record))
    if stopped_by is not None:
        reason = "Ctrl-C" if stopped_by == signal.SIGINT else signal.Signals(stopped_by).name
        said = f"stopped by {reason}; {where}, and the store keeps what it had"
        print(f"kdwatts: {said}", file=sys.stderr)
        return 128 + stopped_by
    if problem:
        print(f"kdwatts: {problem}", file=sys.stderr)
    print(_kept(record, config, None if problem else folder / DOCTOR_NAME))
    return EXIT_WRONG if problem or record.count("wrong") else 0


def _one_of_several() -> str | None:
    """This host's name where each of several machines is examined by a process; None alone.

    Raises ValueError where a launcher started several processes on this machine.
    """
    _, count = place_on_node()
    if count > 1:
        raise ValueError(
            f"{count} processes were started on this machine, and they would disturb each other's "
            "measurements; start one on each machine: srun --ntasks-per-node=1"
        )
    is_alone = launched().world == 1
    for name in (name for place in PLACES for name in place):
        os.environ.pop(name, None)  # Or a step of training would look for the other machines.
    return None if is_alone else socket.gethostname()


def _folder(out: Path | None, host: str | None) -> Path:
    """The folder of doctor.json, which can be written. Raises OSError."""
    folder = (out / file_name(host) if host else out) if out else new_dated_dir(DEFAULT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass  # Rather now than after minutes.
    return folder


def _chosen(options: argparse.Namespace) -> tuple[Config, list[nvml.Device]]:
    """The settings, and the GPUs to examine: none where the CPU was chosen."""
    check_words(options.words)
    for word in options.words:
        if word.lstrip("+~").startswith("hydra"):
            raise ValueError(
                f"{word} is a setting of Hydra, and there is no run that it could be of; leave it "
                "out"
            )
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
    only_dir = argparse.Namespace(config_dir=options.config_dir, config_path=None, config_name=None)
    tree = compose(words, source=config_file(only_dir))
    config = to_config(resolve_gpu(tree, found))
    return config, [] if config.gpu.device == "cpu" else found


def _has_cuda(config: Config, gpus: list[nvml.Device]) -> bool:
    if config.gpu.device == "cpu" or not gpus:
        return False
    import torch

    return torch.cuda.is_available()


@contextmanager
def _sigterm() -> Iterator[list[int]]:
    """SIGTERM, by which Slurm ends a job, raises KeyboardInterrupt here.

    The list then holds its number.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)


def _shown(patient: Patient, seconds: float) -> Generator[Verdict, None, None]:
    """The verdicts; each was printed before it comes."""
    chapter, width = "", page_width()
    print(title(patient, seconds, width=width), flush=True)
    with Progress(seconds) as progress:
        made = examine(patient, all_chapters(), seconds=seconds, begin=progress.begin)
        with closing(made):
            for verdict in made:
                if verdict.chapter != chapter:
                    chapter = verdict.chapter
                    progress.print(heading(chapter))
                progress.print(lines_of(verdict, width=width))
                yield verdict


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


def _written(record: DoctorRecord, path: Path) -> str | None:
    """Write the record; what is wrong where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
    except OSError as error:
        return f"{path} cannot be written ({error.strerror})"
    return None


def _kept(record: DoctorRecord, config: Config, written: Path | None) -> str:
    """Write the record to the store; where it is now, in words."""
    path = record_path(Store(config.store_dir).root, record.host, record.gpu_uuid)
    problem = _written(record, path)
    first = f"The record is {written}" if written else "There is no record in --out"
    if problem:
        return f"{first}; the store has none, as {problem}."
    return f"{first}, and the store's is {path}."
