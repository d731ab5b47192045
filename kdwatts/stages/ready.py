"""What a process does once, before its meter opens a window.

Importing a library and using it for the first time draws joules. In a sweep, the first run would
pay them and later runs would not. A run by itself would pay all of them. So the same run would cost
more or less by its place in a sweep.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kdwatts.config.evaluation import EvalTask
from kdwatts.config.experiment import Config
from kdwatts.config.pair import Architecture, ModelSource
from kdwatts.config.training import Lora
from kdwatts.data.local_rows import kind_of, local_files
from kdwatts.evaluation.lm_eval import fetch_data
from kdwatts.evaluation.lm_tasks import harness
from kdwatts.evaluation.task_needs import check_known
from kdwatts.models.load import load_model, pair_tokenizer
from kdwatts.models.rounding_to_bits import load_rounded, save_rounded
from kdwatts.stages.evaluate import task_sources
from kdwatts.stages.shards import parts_of
from kdwatts.training.autocast import autocast
from kdwatts.training.lora import add_adapters, merge_adapters
from kdwatts.training.optim import make_optimizer
from kdwatts.training.parallel import rank


def get_ready(config: Config, stages: Collection[str]) -> None:
    """Use once, on almost nothing, what building these stages uses. It runs on the CPU alone.

    Where the pair's tokenizer cannot be read, it raises what `load_tokenizer` raises.
    """
    if not stages:
        return
    teacher, training = config.model.teacher, config.training
    pair_tokenizer(config.model)
    if "shards" in stages:
        _import_readers(config)
    if set(stages) - {"shards", "contamination"}:
        for source in [config.model.student, *([teacher] if teacher else [])]:
            _rehearse(source.architecture.family, training.precision)
        if teacher and teacher.path:
            with suppress(OSError, ValueError, KeyError):  # Told by who cannot do without it.
                pair_tokenizer(config.model, teacher.path)
    if config.eval.serving.quantizations and {"quantize", "evaluate"} & set(stages):
        _rehearse_rounding(config.model.student.architecture.family)
    if "distill" in stages:
        # With a GPU nothing is computed: it is the meter's before it is anybody's.
        if config.gpu.device == "cpu":
            _rehearse_training(config.model.student.architecture.family, training.precision)
        if training.lora:
            _rehearse_adapters()
    if {"teacher", "distill"} & set(stages) and training.is_compiled:
        import_module("torch._inductor.compile_fx")
    if config.paradigm.generate and config.gpu.device != "cpu":
        import_module("torch._dynamo")  # The static cache of our own text loop imports it.
    is_dropping = "shards" in stages and config.data.decontaminate.mode == "drop"
    if is_dropping or {"contamination", "evaluate"} & set(stages):
        tasks = [task for task in config.eval.tasks if task.harness == "lm_eval"]
        if tasks:
            _rehearse_harness()
            with suppress(ValueError):  # As above.
                check_known(tasks, task_sources(config))


def _import_readers(config: Config) -> None:
    for part in parts_of(config.data):
        files = local_files(part.source.path)
        if files is None:
            import_module("datasets")
        elif kind_of(files[0]) == "parquet":
            import_module("pyarrow.parquet")


def _smallest(family: str) -> ModelSource:
    return ModelSource(
        architecture=Architecture(
            family=family,
            num_layers=1,
            hidden_size=16,
            intermediate_size=16,
            num_heads=1,
            num_kv_heads=1,
            head_dim=16,
            vocab_size=32,
            tied_head=True,
            max_positions=32,
        )
    )


@cache
def _rehearse(family: str, precision: str) -> None:
    """Make a model of the family, write it, read it again and have it go on with a text."""
    source, device = _smallest(family), torch.device("cpu")
    prompt_BT = torch.ones(1, 4, dtype=torch.int64)
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        made: Any = load_model(source, dtype=torch.float32)
        made.save_pretrained(folder)
        if rank() > 0:  # Of several ranks the library has the first one write alone.
            made.config.save_pretrained(folder)
            weights = {n: t for n, t in made.state_dict().items() if n != "lm_head.weight"}
            save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        read = load_model(replace(source, path=folder), dtype=torch.float32)
        with torch.no_grad(), autocast(precision, device):
            said = read(input_ids=prompt_BT, use_cache=True)
            read(input_ids=prompt_BT[:, :1], past_key_values=said.past_key_values, use_cache=True)


@cache
def _rehearse_training(family: str, precision: str) -> None:
    """One step of a model of the family."""
    with torch.random.fork_rng(devices=[]):
        model = load_model(_smallest(family), dtype=torch.float32).train()
        optimizer = make_optimizer([model], weight_decay=0.0, betas=(0.9, 0.95))
        ids_BT = torch.ones(1, 4, dtype=torch.int64)
        with autocast(precision, torch.device("cpu")):
            loss = model(input_ids=ids_BT, labels=ids_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@cache
def _rehearse_rounding(family: str) -> None:
    """Round a model of the family, write it and read it again."""
    source, dtype = _smallest(family), torch.float32
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        model = load_model(source, dtype=dtype)
        save_rounded(model, "int8", Path(folder), inputs_per_scale=None)
        load_rounded(replace(source, path=folder), dtype=dtype, device=torch.device("cpu"))


@cache
def _rehearse_adapters() -> None:
    with torch.random.fork_rng(devices=[]):
        model = load_model(_smallest("llama"), dtype=torch.float32)
        add_adapters(model, Lora(), seed=0)
        merge_adapters(model)


@cache
def _rehearse_harness() -> None:
    """Import the harness and have it read a task that ships with the package."""
    for module in ("lm_eval", "lm_eval.evaluator", "lm_eval.models.huggingface"):
        harness(module)
    fetch_data(EvalTask("tiny:word_order", primary_metric="acc"))
