"""Energy and speed of one subject, student or teacher, behind an engine under load."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.artifacts.artifact import read_artifact
from kdwatts.config.experiment import Config, to_dict
from kdwatts.config.serving import Serving
from kdwatts.data.shards import TokenShards
from kdwatts.models.load import pair_tokenizer, tokenizer_fingerprint
from kdwatts.models.rounding_to_bits import LIBRARY, recipe
from kdwatts.models.served_folder import served_folder
from kdwatts.models.serving_shape import depends_on_text, serving_shape, student_configuration
from kdwatts.records.files import write_json
from kdwatts.records.serving_record import ServingRecord
from kdwatts.runtime.fingerprint import sha256_file
from kdwatts.serving.curve import loads_of
from kdwatts.serving.engines import starting
from kdwatts.serving.engines.served_model import ServedModel
from kdwatts.serving.load.lengths import lengths_of
from kdwatts.serving.load.prompt_text import PromptText
from kdwatts.serving.load.replayed_log import ReplayedLog, replayed_log
from kdwatts.serving.load.stream import requests
from kdwatts.serving.serving_text import (
    ENGINE_PROMPTS,
    ids_of_corpus,
    ids_of_file,
    prompts_file,
)
from kdwatts.serving.session import serve_and_measure
from kdwatts.stages.attempts import note_attempt
from kdwatts.stages.gpu_memory import release
from kdwatts.stages.measured_subject import (
    quantized_settings,
    subject_settings,
    subject_source,
    tokenizer_path,
)
from kdwatts.stages.quantized_subjects import name_of, quantize_node
from kdwatts.stages.serving_log import check_unchanged, key_of_log, log_facts
from kdwatts.stages.started_engine import (
    QUANTIZATION_FLAGS,
    engine_key,
    model_to_serve,
    own_flags,
    with_bits,
)
from kdwatts.stages.work import Work, teacher_source
from kdwatts.telemetry.nvml import list_gpus

NAME = "serving"
VERSION = 1
RECORD_NAME = "serving.json"

CORPUS_TOKENS = 2**20
"""Tokens at the corpus's end that prompts are cut from, where no file of prompts is given."""

DRAFTS = ("specul", "draft", "assistant", "lookup")
"""Words in flags of an engine that guesses tokens ahead: how many are right is the weights' doing.
"""

UNPACKED = (
    "transformers unpacks rounded weights and computes with them as usual: these joules and times "
    "are not those of an engine with kernels for few bits."
)
"""What a reader must know of a rounded model behind `transformers serve`."""

log = logging.getLogger(__name__)


def settings(
    config: Config, subject: str, quantization: str | None = None, *, num_gpus: int = 0
) -> dict[str, Any]:
    """What joules and times of serving depend on, besides hardware.

    A student that must write so many tokens does the same work whatever its weights are. So it is
    known by its architecture, and paradigms and seeds with one architecture share the measurement.
    A teacher is known by its weights. How often it is measured, which load is reported and how long
    is waited for an answer change no measurement. Of `num_gpus` of the job those of the server
    count alone; where they are fewer the key says so, as all counted once.
    """
    asked, workload = config.eval.serving, config.eval.serving.workload
    path = prompts_file(workload)
    # The loads come in an order of each measurement's own.
    load: dict[str, Any] = {"loads": sorted(asked.loads)}
    own = starting.device_indices(asked, has_gpus=config.gpu.device != "cpu")
    if own and len(own) < num_gpus:
        load["gpus_of_server"] = len(own)
    if asked.rates_per_s:
        load |= {"arrivals": asked.arrivals, "burstiness": asked.burstiness}
    return {
        **_subject(config, subject, quantization),
        "engine": _engine(config, subject),
        "workload": to_dict(workload) | {"prompts": sha256_file(path) if path else None},
        **load,
        **key_of_log(asked),
        "slo": to_dict(asked.slo),
        "min_window_s": asked.min_window_s,
        "max_window_s": asked.max_window_s,
        "parking_settle_s": asked.parking_settle_s,
        "parking_s": asked.parking_s,
    }


def stands_on(
    config: Config, subject: str, quantization: str | None = None
) -> tuple[list[str], list[str]]:
    """The nodes that serving a subject is built from: those in its key, and the others.

    The student's weights are in the key only where its joules depend on them, and the corpus only
    where prompts are cut from it.
    """
    text = [] if prompts_file(config.eval.serving.workload) else ["shards"]
    if quantization:
        weights = quantize_node(subject, quantization)
    elif subject == "teacher":
        return text, []
    else:
        weights = "distill"
    return (text, [weights]) if _is_alike(config, subject) else ([*text, weights], [])


def _is_alike(config: Config, subject: str) -> bool:
    """Whether other weights of the same architecture cost the same joules to serve."""
    asked = config.eval.serving
    flags = " ".join(own_flags(asked)).lower()
    return (
        subject == "student"
        and asked.workload.length == "forced"
        and not (asked.replay.log and log_facts(asked.replay).asks_natural)
        and not depends_on_text(student_configuration(config.model.student))
        and not any(word in flags for word in DRAFTS)
    )


def _subject(config: Config, subject: str, quantization: str | None) -> dict[str, Any]:
    if not _is_alike(config, subject):
        if quantization:
            return quantized_settings(config, subject, quantization)
        return subject_settings(config, subject)
    architecture = config.model.student.architecture
    bits = {"quantization": recipe(quantization, architecture)} if quantization else {}
    return {
        **bits,
        "subject": subject,
        "architecture": serving_shape(student_configuration(config.model.student)),
        "precision": config.training.precision,
        "tokenizer": tokenizer_fingerprint(config.model, tokenizer_path(config, subject)),
    }


def _engine(config: Config, subject: str) -> dict[str, Any]:
    """The engine as the key has it; of a server that runs already, always its address."""
    asked = _settings_of(config, subject)
    engine = engine_key(asked, _served_model(config, subject, place=subject))
    if asked.engine == "url":
        # What lies behind an address is its owner's, so another address is another measurement.
        engine["address"] = getattr(asked.url, subject)
        engine["model"] = getattr(asked.url, f"{subject}_model")
        if meter := getattr(asked.url, f"{subject}_meter"):
            engine["meter"] = meter  # Without it there are no joules of another host.
    return engine


def _served_model(config: Config, subject: str, *, place: str) -> ServedModel:
    asked, context = config.eval.serving, _context(config, subject)
    return model_to_serve(config, asked, subject, place=place, max_positions=context)


def _settings_of(config: Config, subject: str) -> Serving:
    bits = teacher_source(config).quantization if subject == "teacher" else None
    return with_bits(config.eval.serving, bits)


def check(config: Config) -> None:
    """Raise ValueError for an engine, lengths or a text that would stop it after the training."""
    starting.check(config.eval.serving)
    if config.gpu.device != "cpu":
        num_visible = len(list_gpus())
        starting.device_indices(config.eval.serving, has_gpus=True, num_visible=num_visible)
    check_requests(config)


def check_requests(config: Config) -> None:
    """Raise ValueError for lengths that no request can have, and for a file that is too short.

    A log is read, and its text is made tokens of, so that nothing of it stops a run later.
    """
    if config.eval.serving.replay.log:
        for subject in _subjects(config):
            loads_of(config.eval.serving, _replayed(config, subject))
        return
    if prompts_file(config.eval.serving.workload):
        _check_text(config, None)
        return
    for subject in _subjects(config):
        lengths_of(config.eval.serving.workload, max_positions=_context(config, subject))


def check_corpus(config: Config, shards_dir: Path) -> None:
    """Raise ValueError, before training, for a corpus that is too short to cut prompts from."""
    asked = config.eval.serving
    if not prompts_file(asked.workload) and not asked.replay.log:
        _check_text(config, shards_dir)


def _check_text(config: Config, shards_dir: Path | None) -> None:
    for subject in _subjects(config):
        ids, tokenizer = _ids(config, subject, shards_dir)
        context = _context(config, subject)
        requests(config.eval.serving.workload, ids, tokenizer, seed=0, max_positions=context)


def _subjects(config: Config) -> Sequence[str]:
    return ("student", "teacher") if config.model.teacher else ("student",)


def _context(config: Config, subject: str) -> int:
    source = config.model.student if subject == "student" else teacher_source(config)
    return source.architecture.max_positions


def build(work: Work, subject: str, quantization: str | None = None) -> None:
    """Serve every load and write the record to `work.out_dir`.

    The number of the measurement seeds arrivals, lengths, prompts and the order of the loads, the
    same for both subjects.
    """
    note_attempt(work)
    config = work.config
    text = _text(work, subject)
    asked, context = _settings_of(config, subject), _context(config, subject)
    replayed = _replayed(config, subject)
    if replayed is None:
        _say_what_is_cut(asked, subject, context, len(text.ids))
    else:
        check_unchanged(replayed, work.keyed)
    release(work.device)
    with _model(work, subject, quantization) as place:
        model = _served_model(config, subject, place=place)
        record = serve_and_measure(
            asked,
            model,
            text,
            work.meter,
            seed=work.measurement,
            measurement=work.measurement,
            log_path=work.run_dir / f"serving_{name_of(subject, quantization)}.log",
            replayed=replayed,
        )
    record = _with_bits(record, quantization or _bits(config, subject))
    if quantization and asked.engine == "transformers":
        log.warning("serving_%s: %s", name_of(subject, quantization), UNPACKED)
        points = [replace(one, remarks=[*one.remarks, UNPACKED]) for one in record.points]
        record = replace(record, points=points)
    write_json(work.out_dir / RECORD_NAME, [asdict(record)])


@contextmanager
def _model(work: Work, subject: str, quantization: str | None) -> Iterator[str]:
    """The folder that the engine reads; of a server that runs already, only a word for the log."""
    config = work.config
    if config.eval.serving.engine == "url":
        yield subject
        return
    source = subject_source(config, work.inputs, subject, quantization)
    with served_folder(config.model, source, tokenizer_path(config, subject)) as folder:
        yield str(folder)


def _replayed(config: Config, subject: str) -> ReplayedLog | None:
    """The log in the subject's tokens; None where none is replayed."""
    replay = config.eval.serving.replay
    if replay.log is None:
        return None
    tokenizer = pair_tokenizer(config.model, tokenizer_path(config, subject))
    return replayed_log(replay, tokenizer)


def _text(work: Work, subject: str) -> PromptText:
    """The same text for both subjects, in the tokens of each."""
    ids, tokenizer = _ids(work.config, subject, work.inputs.get("shards"))
    path = prompts_file(work.config.eval.serving.workload)
    key = sha256_file(path) if path else read_artifact(work.inputs["shards"]).key
    return PromptText(ids, tokenizer, key)


def _ids(config: Config, subject: str, shards_dir: Path | None) -> tuple[NDArray[np.int64], Any]:
    """The text in the subject's tokens, and its tokenizer."""
    own = tokenizer_path(config, subject)
    tokenizer, path = pair_tokenizer(config.model, own), prompts_file(config.eval.serving.workload)
    if path:
        return ids_of_file(path, tokenizer, setting=ENGINE_PROMPTS), tokenizer
    assert shards_dir, "without a file the text is the corpus's"
    shards = TokenShards(shards_dir)
    if own == config.model.tokenizer:
        return ids_of_corpus(shards, at_most=CORPUS_TOKENS), tokenizer
    written_by = pair_tokenizer(config.model)
    ids = ids_of_corpus(shards, at_most=CORPUS_TOKENS, read_by=tokenizer, written_by=written_by)
    return ids, tokenizer


def _say_what_is_cut(asked: Serving, subject: str, context: int, text_tokens: int) -> None:
    lengths = lengths_of(asked.workload, max_positions=context, text_tokens=text_tokens)
    if share := lengths.clipped_share():
        log.warning(
            "serving_%s: the lengths of %.1f %% of the requests are cut to fit the context of %d "
            "tokens, so their mean is less than was asked for",
            *(subject, 100 * share, context),
        )


def _with_bits(record: ServingRecord, quantization: str | None) -> ServingRecord:
    """The record of a model that we quantised, or our flag did: it says in how many bits.

    A flag of the user's says more, and stands. The folder that we rounded says its format alone.
    """
    stated = record.engine.quantization
    known = quantization if stated in (None, LIBRARY) else stated
    return replace(record, engine=replace(record.engine, quantization=known or stated))


def _bits(config: Config, subject: str) -> str | None:
    """int8 or int4 where the engine quantises the teacher; of a running server we know nothing."""
    asked = config.eval.serving
    bits = teacher_source(config).quantization if subject == "teacher" else None
    return bits if (asked.engine, bits or "") in QUANTIZATION_FLAGS else None
