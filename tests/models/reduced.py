"""The pairs of conf/model at reduced width, saved as folders, and their stages run in this process.

Kept of each pair: family, ratio of depths, queries per key and value, tied or own head, scaling of
positions, and which vocabulary is the larger. Reduced: widths, depths by their common factor, rows.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kdwatts.config.checks import check
from kdwatts.config.experiment import Config
from kdwatts.config.pair import Architecture, ModelSource, Pair
from kdwatts.models.load import load_model, load_tokenizer
from kdwatts.stages.graph import PlannedStage, plan
from kdwatts.stages.work import Work
from kdwatts.telemetry.meter import Meter

WIDTH_FACTOR, HEAD_FACTOR, ROWS_FACTOR = 64, 16, 64
SHIPPED_ROWS = 1024
"""Tokens of the shipped tokenizer, which the reduced pairs read."""
OTHER_ROWS = 400
"""Tokens of the second tokenizer, of a teacher with a vocabulary of its own."""


def other_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that spells otherwise than the shipped one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=OTHER_ROWS,
        special_tokens=["<s>", "</s>"],  # pyright: ignore[reportArgumentType]
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["What light through yonder window breaks? Speak again."], trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def save_other_teacher(folder: Path) -> dict[str, int]:
    """The shape of a random Llama of two blocks, saved with a tokenizer of its own."""
    other_tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=OTHER_ROWS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return {
        "num_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 16,
        "vocab_size": OTHER_ROWS,
        "max_positions": 512,
    }


def reduced(shape: Architecture, *, num_layers: int) -> Architecture:
    """A shape of the same kind, small enough for a step in milliseconds."""
    num_heads = 2 * shape.num_heads // shape.num_kv_heads
    # Qwen2 and Llama configurations want a width that heads divide.
    return replace(
        shape,
        num_layers=num_layers,
        hidden_size=num_heads * math.ceil(shape.hidden_size / WIDTH_FACTOR / num_heads),
        intermediate_size=max(32, shape.intermediate_size // WIDTH_FACTOR),
        num_heads=num_heads,
        num_kv_heads=2,
        head_dim=max(4, shape.head_dim // HEAD_FACTOR),
        vocab_size=max(SHIPPED_ROWS, shape.vocab_size // ROWS_FACTOR),
    )


def reduced_depths(pair: Pair) -> list[int]:
    """Blocks of student and teacher in the ratio of the pair's, two at least."""
    depths = [source.architecture.num_layers for source in (pair.student, pair.teacher) if source]
    common = math.gcd(*depths)
    smallest = min(depths) // common
    return [depth // common * (2 if smallest < 2 else 1) for depth in depths]


def reduced_pair(pair: Pair, folder: Path) -> Pair:
    """The pair at reduced width; sources that have a path are saved with random weights."""
    pair = deepcopy(pair)
    depths = reduced_depths(pair)
    for seed, (source, depth) in enumerate(
        zip([pair.student, *filter(None, [pair.teacher])], depths, strict=True)
    ):
        source.architecture = reduced(source.architecture, num_layers=depth)
        if source.path is not None:
            directory = folder / ("student" if source is pair.student else "teacher")
            _save(source, directory, seed=seed)
            tokenizer: Any = load_tokenizer("tiny:tokenizer")
            if source is pair.teacher and not pair.one_vocabulary:
                tokenizer = other_tokenizer()
            tokenizer.save_pretrained(directory)
            source.path, source.revision = str(directory), None
    # As published, a student brings the tokenizer, and its family decides how that is read.
    pair.tokenizer = pair.student.path or "tiny:tokenizer"
    return pair


def _save(source: ModelSource, directory: Path, *, seed: int) -> None:
    model: Any = load_model(replace(source, path=None), dtype=torch.float32, seed=seed)
    model.save_pretrained(directory)


def with_pair(config: Config, pair: Pair) -> Config:
    """The configuration with another pair. Raises ValueError as for any other."""
    config = replace(config, model=pair)
    check(config)
    return config


@dataclass
class Bench:
    """Runs stages up to the student; what was built before is used again, as in the store."""

    folder: Path
    meter: Meter
    built: dict[str, Path] = field(default_factory=dict)

    def student_of(self, config: Config) -> Path:
        """The artifact of the distilled student, with the log of its training in `run`."""
        inputs: dict[str, Path] = {}
        for planned in plan(config, []):
            if planned.key not in self.built:
                parents = {name: inputs[name] for name in planned.parents}
                self.built[planned.key] = self._build(config, planned, parents)
            inputs[planned.name] = self.built[planned.key]
        return inputs["distill"]

    def _build(self, config: Config, planned: PlannedStage, inputs: dict[str, Path]) -> Path:
        folder = self.folder / planned.key
        places = [folder / name for name in ("out", "scratch", "run")]
        for place in places:
            place.mkdir(parents=True)
        with self.meter.window(planned.name, key=planned.key) as window:
            planned.build(Work(config, inputs, *places, 1, self.meter, window, torch.device("cpu")))
        return places[0]
