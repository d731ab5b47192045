"""The engine that writes text for a stage: its settings, its key, and the server itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from kdwatts.config.experiment import Config
from kdwatts.config.pair import ModelSource
from kdwatts.config.serving import Serving
from kdwatts.models.generation_settings import generation_settings
from kdwatts.models.load import pair_tokenizer
from kdwatts.models.served_folder import served_folder
from kdwatts.models.tokens_as_numbers import folder_of_numbers
from kdwatts.serving.engines import starting
from kdwatts.serving.engines.served_model import ServedModel
from kdwatts.serving.engines.server import Server
from kdwatts.stages.gpu_memory import release
from kdwatts.stages.started_engine import engine_key, model_to_serve, with_bits
from kdwatts.stages.work import Work, ends_of
from kdwatts.telemetry.nvml import list_gpus


@dataclass(frozen=True)
class EngineWriter:
    """A server that is up, and what its model's folder says of writing."""

    server: Server
    end_ids: list[int]
    settings: Any
    """transformers' GenerationConfig of the model."""
    silence_s: float
    """A server that shows no sign of work for so long has failed."""


def writer_key(config: Config, engine: str, subject: str, source: ModelSource) -> dict[str, Any]:
    """The engine as a key has it. Raises ValueError where it cannot be started."""
    settings = _settings(config, engine, source)
    return engine_key(settings, _served(config, settings, subject, source, place=subject))


def check_gpus(config: Config, engine: str) -> None:
    """Raise ValueError where the engine's flags ask for more GPUs than this job has."""
    if config.gpu.device != "cpu":
        settings = replace(config.eval.serving, engine=engine)
        starting.device_indices(settings, has_gpus=True, num_visible=len(list_gpus()))


@contextmanager
def engine_writer(
    work: Work, engine: str, subject: str, source: ModelSource, tokenizer_path: str
) -> Iterator[EngineWriter]:
    """A server of one model of the pair, for as long as the block runs.

    The GPU's memory that earlier work of this process had is given back first. Of the model only
    its folder is read here. Raises what `starting.running` raises.
    """
    config = work.config
    release(work.device)
    settings = _settings(config, engine, source)
    rows = source.architecture.vocab_size
    with served_folder(config.model, source, tokenizer_path) as folder:
        own = generation_settings(folder)
        ends = ends_of(pair_tokenizer(config.model, tokenizer_path), own)
        log_path = work.run_dir / f"writing_{subject}.log"

        def running(place: str) -> Any:
            model = _served(config, settings, subject, source, place=place)
            return starting.running(settings, model, log_path=log_path)

        silence_s = settings.request_timeout_s
        if engine == "transformers":
            with (
                folder_of_numbers(folder, rows=rows, end_ids=ends) as numbers,
                running(str(numbers)) as server,
            ):
                yield EngineWriter(server, ends, own, silence_s)
        else:
            with running(str(folder)) as server:
                yield EngineWriter(server, ends, own, silence_s)


def _settings(config: Config, engine: str, source: ModelSource) -> Serving:
    return with_bits(replace(config.eval.serving, engine=engine), source.quantization)


def _served(
    config: Config, settings: Serving, subject: str, source: ModelSource, *, place: str
) -> ServedModel:
    context = source.architecture.max_positions
    return model_to_serve(config, settings, subject, place=place, max_positions=context)
