"""Every pair of conf/model at reduced width, taught by every paradigm through the real stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdwatts.config.experiment import Config
from kdwatts.config.machine import Telemetry
from kdwatts.config.pair import Architecture, ModelSource, Pair
from kdwatts.models.initial import load_student
from kdwatts.models.load import load_model, load_tokenizer
from kdwatts.records.files import read_jsonl
from kdwatts.runtime.paths import conf_dir
from kdwatts.stages import generate, signal_readers, teacher
from kdwatts.telemetry.meter import Meter
from tests.models.reduced import Bench, reduced_pair, with_pair

PAIRS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
PARADIGMS = sorted(path.stem for path in (conf_dir() / "paradigm").glob("*.yaml"))
NUM_STEPS, NUM_ROWS, LENGTH = 2, 8, 40

SMALL = (
    "gpu=cpu",
    "training=smoke",
    "data.num_documents=12",
    "until=distill",
    "eval=none",
    f"training.sequence_length={LENGTH}",
    f"training.micro_batch={NUM_ROWS}",
    f"training.target_tokens={NUM_STEPS * NUM_ROWS * LENGTH}",
    "training.learning_rate=1.0e-3",
    "training.log_every=1",
)

TWO_VOCABULARIES = (
    "the models of model=llama31_8b_to_qwen25_1b5 have two vocabularies, and paradigm={name} with "
    "{found} needs one; set paradigm.{advice}, or choose a pair of one family"
)
UNIVERSAL = "response.divergence=universal and paradigm.response.support=dense"
FOUND = {
    "response": ("response.divergence=forward_kl", UNIVERSAL),
    "combined": ("response.divergence=forward_kl", UNIVERSAL),
    "on_policy": ("response.divergence=jsd", UNIVERSAL),
    "feature": ("a feature term", "feature=null"),
    "attention": ("relational.level=attention", "relational.level=sequence"),
    "relational_token": ("relational.level=token", "relational.level=sequence"),
    "sequence": ("text=teacher", "text=corpus"),
    "relational": ("teacher=cached", "teacher=online"),
}


def refusal(pair: str, paradigm: str) -> str | None:
    """The sentence with which a paradigm refuses a pair; None where it teaches it."""
    if pair == "tiny_teacher" and paradigm != "sft":
        return (
            f"paradigm={paradigm} needs a teacher, model=tiny_teacher has none; choose "
            "paradigm=sft or a pair with a teacher"
        )
    if pair == "llama31_8b_to_qwen25_1b5" and paradigm in FOUND:
        found, advice = FOUND[paradigm]
        return TWO_VOCABULARIES.format(name=paradigm, found=found, advice=advice)
    return None


@pytest.fixture(scope="module")
def pairs(configure: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The pair of a name, at reduced width."""
    made: dict[str, Pair] = {}

    def pair_of(name: str) -> Pair:
        if name not in made:
            whole = configure("gpu=cpu", f"model={name}", "paradigm=sft").model
            made[name] = reduced_pair(whole, tmp_path_factory.mktemp(name))
        return made[name]

    return pair_of


@pytest.fixture(scope="module")
def paradigms(configure: Callable[..., Any]) -> dict[str, Config]:
    return {name: configure(f"paradigm={name}", *SMALL) for name in PARADIGMS}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    with Meter(folder, Telemetry(idle_s=0.0), use_gpus=False) as meter:
        yield Bench(folder, meter)


@pytest.fixture
def teachers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ModelSource, Any]]:
    """The teachers that the stages load, as they are after them."""
    loaded: list[tuple[ModelSource, Any]] = []

    def load(source: ModelSource, **options: Any) -> Any:
        loaded.append((source, load_model(source, **options)))
        return loaded[-1][1]

    for stage in (generate, signal_readers, teacher):
        monkeypatch.setattr(stage, "load_model", load)
    return loaded


def same_weights(one: Any, other: Any) -> list[bool]:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    return [torch.equal(mine[name], theirs[name]) for name in mine]


def test_reduction_keeps_what_tells_the_pairs_apart(pairs: Callable[[str], Pair]):
    def shapes(name: str) -> list[Architecture]:
        pair = pairs(name)
        return [source.architecture for source in (pair.student, pair.teacher) if source]

    student, teacher = shapes("llama31_8b_to_1b")
    assert (student.num_layers, teacher.num_layers) == (2, 4)  # of 16 and 32
    assert (student.num_heads, student.num_kv_heads) == (8, 2)  # of 32 and 8
    assert (student.head_dim, teacher.head_dim) == (4, 8)  # of 64 and 128
    assert (student.tied_head, teacher.tied_head) == (True, False)
    assert student.rope_scaling and teacher.rope_scaling
    assert (student.rope_scaling["factor"], teacher.rope_scaling["factor"]) == (32.0, 8.0)
    student, teacher = shapes("qwen25_7b_to_0b5")
    assert (student.num_layers, teacher.num_layers) == (6, 7)  # of 24 and 28
    assert (student.vocab_size, teacher.vocab_size) == (2374, 2376)  # of 151,936 and 152,064
    assert len(load_tokenizer(pairs("qwen25_7b_to_0b5").tokenizer)) == 1025
    deep, wide = shapes("llama31_70b_to_8b")
    assert (deep.num_layers, wide.num_layers) == (2, 5)  # of 32 and 80


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_a_pair_is_taught_by_a_paradigm_or_refused_by_its_sentence(
    pair: str,
    paradigm: str,
    pairs: Callable[[str], Pair],
    paradigms: dict[str, Config],
    bench: Bench,
    teachers: list[tuple[ModelSource, Any]],
):
    if said := refusal(pair, paradigm):
        with pytest.raises(ValueError) as caught:
            with_pair(paradigms[paradigm], pairs(pair))
        assert str(caught.value) == said
        return
    config = with_pair(paradigms[paradigm], pairs(pair))
    _assert_taught(config, bench.student_of(config), teachers, torch.float32)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_is_taught_in_bfloat16_as_on_a_gpu(
    pair: str,
    pairs: Callable[[str], Pair],
    paradigms: dict[str, Config],
    bench: Bench,
    teachers: list[tuple[ModelSource, Any]],
):
    two_vocabularies = refusal(pair, "combined") and pair != "tiny_teacher"
    chosen = "universal" if two_vocabularies else "sft" if pair == "tiny_teacher" else "combined"
    plain = paradigms[chosen]
    training = replace(plain.training, precision="bf16")
    config = with_pair(replace(plain, training=training), pairs(pair))
    _assert_taught(config, bench.student_of(config), teachers, torch.bfloat16)


def _assert_taught(
    config: Config,
    artifact: Path,
    teachers: list[tuple[ModelSource, Any]],
    teacher_dtype: torch.dtype,
) -> None:
    """Finite losses, a student that changed and reads back whole, and teachers that did not."""
    rows = [row for row in read_jsonl(artifact / "train.jsonl") if row["split"] == "train"]
    assert [row["step"] for row in rows][:NUM_STEPS] == list(range(1, NUM_STEPS + 1))
    assert all(math.isfinite(row["loss"]) for row in rows)

    before = load_student(config.model, dtype=torch.float32, seed=config.training.seed)
    after, told = AutoModelForCausalLM.from_pretrained(
        artifact / "student", output_loading_info=True
    )
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not any(same_weights(before, after))
    assert after.config.tie_word_embeddings == config.model.student.architecture.tied_head
    saved, read = (
        AutoTokenizer.from_pretrained(artifact / "student"),
        load_tokenizer(config.model.tokenizer),
    )
    assert saved.get_vocab() == read.get_vocab()
    for source, used in teachers:
        assert all(same_weights(used, load_model(source, dtype=teacher_dtype)))
    assert teachers or not config.paradigm.needs_signals or config.paradigm.teacher == "cached"
