"""The work of `python -m kdwatts.serving`: a model, a meter, fresh servers, serving.json."""

from __future__ import annotations

import errno
import logging
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pynvml import NVMLError

from kdwatts.config.machine import Telemetry
from kdwatts.config.serving import Serving
from kdwatts.models.access import AGAIN, TOKENIZER_NAMES, hub_errors_in_one_sentence
from kdwatts.models.load import load_tokenizer, local_dir, location
from kdwatts.records.files import write_json
from kdwatts.records.serving_record import ServingRecord
from kdwatts.runtime import interrupt
from kdwatts.runtime.fingerprint import sha256_file
from kdwatts.runtime.paths import TINY_DIR, new_dated_dir, resolve_dir
from kdwatts.runtime.screen import ScreenLine
from kdwatts.runtime.whole_install import EXIT_REFUSED
from kdwatts.serving.engines.served_model import ServedModel
from kdwatts.serving.engines.starting import check, device_indices, engine_record
from kdwatts.serving.load.prompt_text import PromptText
from kdwatts.serving.load.replayed_log import ReplayedLog, replayed_log
from kdwatts.serving.serving_options import in_options
from kdwatts.serving.serving_table import table
from kdwatts.serving.serving_text import ids_of_file
from kdwatts.serving.session import check_requests, serve_and_measure
from kdwatts.telemetry import nvml
from kdwatts.telemetry.meter import Meter

log = logging.getLogger(__name__)

SERVING_NAME = "serving.json"
DEFAULT_DIR = Path("runs/serving")
HELD_OUT = TINY_DIR / "tasks" / "held_out.jsonl"
"""Text of the package that no training has seen: the default of --prompts."""

EXIT_FAILED = 1


@dataclass(frozen=True)
class Asked:
    """What the command line asks for, besides the settings."""

    model: str | None
    """Folder or hub id; with a URL the name there, None for the only one."""
    tokenizer: str | None
    device: str
    """auto, cpu or cuda."""
    dtype: str | None
    seed: int
    repeats: int
    out_dir: Path | None


def measure(settings: Serving, telemetry: Telemetry, asked: Asked) -> int:
    """The exit code after every load was measured, each time with a fresh server."""
    _log_to_stdout()
    try:
        check(settings)
        inputs = _read_inputs(settings, asked)
        _check(settings, *inputs, asked.seed)
        folder = _open_folder(asked.out_dir)
    except (OSError, ValueError, RuntimeError, NVMLError) as error:
        return _ended(error, EXIT_REFUSED)
    log.info("records go to %s", folder)
    records: list[ServingRecord] = []
    with interrupt.deferred():
        try:
            _measure(settings, telemetry, asked, inputs, folder, records)
        except interrupt.Preempted:
            kept = f"servers that were measured before are in {folder / SERVING_NAME}"
            kept = kept if records else "no server was measured to its end"
            print(f"kdwatts: stopped by {interrupt.requested()}; {kept}", file=sys.stderr)
            return 128 + interrupt.number()
        except (ValueError, NVMLError) as error:
            return _ended(error, EXIT_REFUSED)
        except RuntimeError as error:
            return _ended(error, EXIT_FAILED)
        except OSError as error:
            if records:  # What the disk does not take, the screen may.
                print(table(records))
            place = error.filename or folder
            sentence = f"{place}: {_lower(error)}; make room, or give another --out, and run again"
            return _ended(RuntimeError(sentence), EXIT_FAILED)
    print(table(records))
    points = [point for record in records for point in record.points]
    points += [one for record in records if record.capacity for one in record.capacity.tried]
    if not any(point.completed for point in points):
        sentence = "no load has figures, as no request ended well; the remarks above say why"
        return _ended(RuntimeError(sentence), EXIT_FAILED)
    print(f"\nFigures: python -m multirun_analysis {folder}")
    return 0


def _measure(
    settings: Serving,
    telemetry: Telemetry,
    asked: Asked,
    inputs: tuple[ServedModel, PromptText, ReplayedLog | None],
    folder: Path,
    records: list[ServingRecord],
) -> None:
    """Add a record of each fresh server; each is in serving.json at once, whatever comes."""
    # Where a meter on the server's host counts, our own GPUs have no part in it.
    use_gpus = asked.device != "cpu" and settings.url.student_meter is None
    with Meter(folder, telemetry, use_gpus=use_gpus) as meter:
        for number in range(asked.repeats):
            with meter.window(f"server_{number + 1}"):
                model, text, replayed = inputs
                record = serve_and_measure(
                    settings,
                    model,
                    text,
                    meter,
                    replayed=replayed,
                    seed=asked.seed + number,
                    measurement=number + 1,
                    log_path=folder / f"server_{number + 1}.log",
                )
            records.append(record)
            write_json(folder / SERVING_NAME, [asdict(one) for one in records])


def _read_inputs(
    settings: Serving, asked: Asked
) -> tuple[ServedModel, PromptText, ReplayedLog | None]:
    """The model, the text, and the log where one is given.

    Raises ValueError for what cannot be read.
    """
    is_running = settings.engine == "url"
    gpus = nvml.list_gpus() if asked.device != "cpu" else []
    if asked.device == "cuda" and not gpus:
        raise ValueError("--device=cuda was given, but NVML finds no GPU; give --device cpu")
    place = asked.model or ""
    model = ServedModel(
        place=place if is_running else location(place),
        subject="model",
        dtype=asked.dtype or ("bfloat16" if gpus else "float32"),
        device_indices=device_indices(settings, has_gpus=bool(gpus), num_visible=len(gpus)),
        max_positions=None if is_running else _max_positions(place),
    )
    text = _text(settings, asked)
    replay = settings.replay
    return model, text, replayed_log(replay, text.tokenizer) if replay.log else None


def _text(settings: Serving, asked: Asked) -> PromptText:
    place = asked.tokenizer or asked.model
    if place is None or (settings.engine == "url" and not asked.tokenizer and not _is_place(place)):
        raise ValueError(
            "--url was given without a tokenizer, but prompts are cut in the model's tokens; give "
            "--tokenizer, the model's folder or hub id"
        )
    tokenizer = _tokenizer(place)
    path = resolve_dir(settings.workload.prompts) if settings.workload.prompts else HELD_OUT
    if not path.is_file():
        found = "is no file" if path.exists() else "does not exist"
        raise ValueError(f"--prompts={path} {found}; give a text or JSONL file")
    ids = ids_of_file(path, tokenizer, setting="--prompts")
    return PromptText(ids, tokenizer, key=sha256_file(path))


def _check(
    settings: Serving,
    model: ServedModel,
    text: PromptText,
    replayed: ReplayedLog | None,
    seed: int,
) -> None:
    """Raise ValueError for requests or a model that would be refused once there are records."""
    check_requests(settings, text, replayed, max_positions=model.max_positions, seed=seed)
    engine_record(settings, model)


def _is_place(model: str) -> bool:
    """Whether a model's name at a server is that of a folder here, or of a hub."""
    return resolve_dir(model).is_dir() or model.count("/") == 1


def _tokenizer(place: str) -> Any:
    """Raises ValueError for a folder without a tokenizer, and as `load_tokenizer`."""
    folder = local_dir(place)
    if folder and not any((folder / name).is_file() for name in TOKENIZER_NAMES):
        raise ValueError(
            f"{folder} has no tokenizer; give --tokenizer, a folder or hub id with one"
        )
    return load_tokenizer(place)


def _max_positions(model: str) -> int | None:
    """Tokens of the longest text that the model's configuration allows."""
    from transformers import AutoConfig

    try:
        with hub_errors_in_one_sentence(f"model {model}", page=model):
            configuration = AutoConfig.from_pretrained(location(model), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sentence = " ".join(str(error).split())
        where = "the folder" if local_dir(model) else "the hub's model"
        raise ValueError(
            f"--model={model}: {where} has no configuration that can be read ({sentence[:300]}); "
            "give the folder of a saved model"
        ) from None
    return getattr(configuration, "max_position_embeddings", None)


def _open_folder(out_dir: Path | None) -> Path:
    """A folder for the records, new or empty.

    Raises ValueError for one that holds some, and for one that cannot be made or written.
    """
    try:
        if out_dir is None:
            return new_dated_dir(DEFAULT_DIR)
        if out_dir.is_dir() and any(out_dir.iterdir()):
            raise ValueError(f"--out={out_dir} is not empty; give a new folder")
        out_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(out_dir, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(out_dir))
        return out_dir
    except OSError as error:
        why = "it is a file" if isinstance(error, FileExistsError) else _lower(error)
        raise ValueError(
            f"--out={out_dir or DEFAULT_DIR} cannot be a folder for records ({why}); give a folder "
            "that can be written"
        ) from None


class _Screen(logging.StreamHandler):
    """Lines on a screen that may be gone: the records go on, and the end of the command says so."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by logging: a trace for each line helps nobody who closed the pipe."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _log_to_stdout() -> None:
    handler = _Screen(sys.stdout)
    handler.setFormatter(ScreenLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("kdwatts").setLevel(logging.INFO)


def _ended(error: Exception, exit_code: int) -> int:
    sentence = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename} cannot be read" if error.filename else "a file cannot be read"
        sentence = f"{place} ({_lower(error)}); repair it, or give another"
    sentence = sentence.replace("set telemetry.allow_shared=true", "give --allow-shared")
    sentence = sentence.replace(AGAIN, "fetch it where there is a network, with the same HF_HOME")
    print(f"kdwatts: {in_options(sentence)}", file=sys.stderr)
    return exit_code


def _lower(error: OSError) -> str:
    return str(error.strerror).lower()
