"""Runs whose text or answers an engine writes: the same text, keys, joules, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from kdwatts.config.serving import Serving, Vllm
from kdwatts.data.prompts import corpus_prompts
from kdwatts.data.shards import NO_TARGET, TokenShards
from kdwatts.models.load import load_model
from kdwatts.models.served_folder import served_folder
from kdwatts.models.tokens_as_numbers import folder_of_numbers
from kdwatts.records.files import read_json, read_jsonl
from kdwatts.runtime.paths import TINY_DIR
from kdwatts.serving.engines.served_model import ServedModel
from kdwatts.serving.engines.starting import running
from kdwatts.serving.text_requests import Sampling, TextRequest
from kdwatts.serving.writing import write_texts
from kdwatts.stages import distill, evaluate, generate
from kdwatts.teacher.decoding import write_text
from tests import whole_runs
from tests.whole_runs import artifact_of, keys_of

SMALL = (
    *("training=smoke", "gpu=cpu", "eval=none", "until=generate", "paradigm=sequence"),
    *("data.num_documents=12", "training.target_tokens=2000", "paradigm.generate.batch_size=16"),
)
GREEDY = "paradigm.generate.temperature=0"


@pytest.fixture
def stand_in(stand_in_python: str) -> tuple[str, ...]:
    """The tiny teacher's text, written by the server in the place of vLLM."""
    python = f"eval.serving.vllm.python={stand_in_python}"
    return (*SMALL, "paradigm.generate.engine=vllm", python)


def text_of(folder: Path, *overrides: str) -> np.ndarray:
    """All tokens of the text that a run in this folder made."""
    whole_runs.run(folder, f"store_dir={folder.parent / 'store'}", *overrides)
    shards = TokenShards(artifact_of(folder.parent / "store", "generate", *overrides))
    return shards.read(0, shards.num_tokens)


def documents_of(shards: TokenShards) -> set[tuple[int, ...]]:
    starts = shards.starts_between(0, shards.num_tokens)
    stops = [*starts[1:], shards.num_tokens]
    return {tuple(shards.read(int(a), int(b))) for a, b in zip(starts, stops, strict=True)}


def row_of(folder: Path, window: str) -> dict[str, Any]:
    rows = [row for row in read_jsonl(folder / "stages.jsonl") if row["window"] == window]
    return rows[-1]


def test_the_text_is_what_the_server_wrote_and_this_process_never_loads_the_teacher(
    stand_in: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(generate, "load_model", None)
    found = text_of(tmp_path / "run", *stand_in)
    shards = TokenShards(artifact_of(tmp_path / "store", "generate", *stand_in))
    corpus = TokenShards(artifact_of(tmp_path / "store", "shards", *stand_in))
    prompts = corpus_prompts(corpus, prompt_tokens=16, piece_tokens=64, num_prompts=43)
    expected, written = [], 0
    for prompt in prompts.values():
        # As the stand-in has it: 1 to 47 tokens, the last one 0 where there are fewer than 47.
        total = int(prompt.sum())
        length = 1 + total % 47
        words = [100 + (total + index) % 50 for index in range(length)]
        words = words if length == 47 else [*words[:-1], 0]
        end = [] if words[-1] == 0 else [0 | NO_TARGET]
        expected += [*(prompt | NO_TARGET), *words, *end]
        written += length
    assert found.tolist() == [int(token) for token in expected]
    row = row_of(tmp_path / "run", "run/generate")
    assert row["tokens"] == shards.num_targets == written
    assert row["energy_j"]["cpu"] > 0
    assert row_of(tmp_path / "run", "run/generate/load")["duration_s"] < row["duration_s"]
    assert shards.index["source"]["written_with"] == "vllm 9.9.0"
    assert (tmp_path / "run" / "writing_teacher.log").is_file()


def test_a_run_whose_server_died_keeps_what_was_written_and_goes_on_to_the_same_text(
    stand_in: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STAND_IN_POST", "dies:30")
    words = r"generate: vllm ended with exit code 3, .* run the same command to go on"
    with pytest.raises(RuntimeError, match=words):
        text_of(tmp_path / "run", *stand_in)
    monkeypatch.delenv("STAND_IN_POST")
    first = row_of(tmp_path / "run", "run/generate")
    assert first["outcome"] == "failed" and first["tokens"] > 0
    found = text_of(tmp_path / "run", *stand_in)
    second = row_of(tmp_path / "run", "run/generate")
    (tmp_path / "whole").mkdir()
    whole = text_of(tmp_path / "whole" / "run", *stand_in)
    assert found.tolist() == whole.tolist()
    tokens = row_of(tmp_path / "whole" / "run", "run/generate")["tokens"]
    assert first["tokens"] + second["tokens"] == tokens > second["tokens"]
    directory = artifact_of(tmp_path / "store", "generate", *stand_in)
    attempts = read_json(directory / "artifact.json")["attempts"]
    assert [row["energy_j"]["cpu"] for row in attempts] == [
        first["energy_j"]["cpu"],
        second["energy_j"]["cpu"],
    ]


def test_engine_version_and_flags_are_in_the_key_of_the_text_and_the_way_to_them_is_not(
    stand_in: tuple[str, ...],
):
    def key(*more: str) -> str:
        return keys_of(*stand_in, *more)["generate"]

    mine = key()
    assert key("paradigm.generate.batch_size=5") == mine
    assert key("eval.serving.request_timeout_s=7", "eval.serving.start_timeout_s=7") == mine
    assert key("eval.serving.vllm.flags=['--max-num-seqs=8']") != mine
    assert key("training.precision=bf16") != mine
    others = {
        keys_of(*SMALL, f"paradigm.generate.engine={engine}")["generate"]
        for engine in ("loop", "transformers")
    }
    assert mine not in others and len(others) == 2


def test_a_text_of_our_own_loop_has_no_engine_in_any_key_as_before_there_was_one(
    configure: Callable[..., Any],
):
    config = configure("gpu=cpu", "eval=tiny", "paradigm=on_policy")
    assert "engine" not in distill.settings(config)["paradigm"]["generate"]
    assert "engine" not in evaluate.settings(config, "teacher")
    assert "engine" not in generate.settings(configure("gpu=cpu", "paradigm=sequence"))
    asked = ("gpu=cpu", "eval=tiny", "paradigm=sft", "eval.engine=transformers")
    engine = evaluate.settings(configure(*asked), "teacher")["engine"]
    assert engine["name"] == "transformers" and "--dtype=float32" in engine["flags"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["paradigm=on_policy", "paradigm.generate.engine=vllm"],
            r"paradigm\.generate\.engine=vllm with paradigm\.text=student is not supported: the "
            r"weights of the student that writes change while it trains, .* set "
            r"paradigm\.generate\.engine=loop",
        ),
        (
            ["paradigm=sequence", "paradigm.generate.engine=url"],
            r"paradigm\.generate\.engine=url is unknown; choose one of loop, transformers, vllm",
        ),
        (
            ["paradigm=sft", "eval=tiny", "eval.engine=vllm"],
            r"eval\.engine=vllm needs heads at least 32 wide, and the student of model=tiny has "
            r"heads 12 wide; choose transformers, loop or another pair",
        ),
        (
            [
                *("paradigm=sequence", "paradigm.generate.engine=transformers"),
                "eval.serving.transformers.flags=[--continuous-batching]",
            ],
            r"--continuous-batching .* is not supported: transformers serve then writes all texts "
            r"with the settings of the first; leave the flag out, or choose vllm",
        ),
    ],
)
def test_what_an_engine_cannot_write_is_refused_in_a_sentence(
    overrides: list[str], words: str, configure: Callable[..., Any]
):
    with pytest.raises(ValueError, match=words):
        configure("gpu=cpu", *overrides)


def test_a_plan_says_which_engine_writes(
    stand_in: tuple[str, ...], kdwatts: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    asked = [one for one in stand_in if one != "until=generate"]
    assert kdwatts("until=plan", *asked) == 0
    assert "by vllm 9.9.0" in capsys.readouterr().out
    assert kdwatts("until=plan", *[one for one in SMALL if one != "until=generate"]) == 0
    assert "by our own loop" in capsys.readouterr().out


@pytest.mark.slow
def test_transformers_serve_writes_the_greedy_text_of_our_own_loop(tmp_path: Path):
    ours, theirs = (
        text_of(tmp_path / engine, *SMALL, GREEDY, f"paradigm.generate.engine={engine}")
        for engine in ("loop", "transformers")
    )
    assert theirs.tolist() == ours.tolist()


@pytest.mark.slow
def test_a_drawn_text_of_transformers_serve_is_the_same_again_and_other_prompts_do_not_change_it(
    tmp_path: Path,
):
    asked = (*SMALL, "paradigm.generate.engine=transformers", "paradigm.generate.num_prompts=12")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, other = (text_of(tmp_path / name / "run", *asked) for name in ("one", "other"))
    assert one.tolist() == other.tolist()
    few = (*asked[:-1], "paradigm.generate.num_prompts=3")
    text_of(tmp_path / "few", *few)
    documents = [
        documents_of(TokenShards(artifact_of(store, "generate", *overrides)))
        for store, overrides in ((tmp_path / "one" / "store", asked), (tmp_path / "store", few))
    ]
    assert (len(documents[0]), len(documents[1])) == (12, 3) and documents[1] < documents[0]
    greedy = text_of(tmp_path / "greedy", *asked, GREEDY)
    assert greedy.tolist() != one.tolist()


@pytest.fixture
def vllm() -> str:
    python = os.environ.get("KDWATTS_VLLM_PYTHON")
    if not python:
        pytest.skip("set KDWATTS_VLLM_PYTHON to a Python interpreter that has vLLM")
    return f"eval.serving.vllm.python={python}"


@pytest.mark.slow
def test_vllm_writes_the_greedy_text_of_our_own_loop_and_draws_the_same_text_again(
    tmp_path: Path, vllm: str
):
    asked = (*SMALL, vllm, "paradigm.generate.engine=vllm")
    ours = text_of(tmp_path / "loop", *SMALL, GREEDY)
    assert text_of(tmp_path / "vllm", *asked, GREEDY).tolist() == ours.tolist()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one = text_of(tmp_path / "one" / "run", *asked)
    other = text_of(tmp_path / "other" / "run", *asked, "paradigm.generate.batch_size=3")
    assert one.tolist() == other.tolist() != ours.tolist()


def bounded_text(settings: Serving, folder: Path, log_path: Path) -> list[list[int]]:
    """The likeliest texts of the tiny teacher after three prompts, in tokens below 300 alone."""
    model = ServedModel(str(folder), "teacher", "float32", None, 128)
    requests = [TextRequest(place, PROMPTS[place], 20, seed=0) for place in range(3)]
    sampling = Sampling(end_ids=[3], vocabulary=300, rows=1024, temperature=0.0)
    texts: dict[int, list[int]] = {}
    with running(settings, model, log_path=log_path) as server:
        write_texts(
            server,
            requests,
            sampling,
            at_once=3,
            silence_s=100.0,
            take=lambda request, ids: texts.update({request.place: ids}),
            look=lambda: None,
        )
    return [texts[place] for place in range(3)]


PROMPTS = [[17, 523, 9, 44], [900, 12], [268, 635, 12, 199, 335]]


@pytest.fixture
def bounded(configure: Callable[..., Any]) -> list[list[int]]:
    """The same by our own loop."""
    teacher = load_model(configure("gpu=cpu").model.teacher, dtype=torch.float32)
    texts = write_text(
        teacher,
        [np.array(prompt) for prompt in PROMPTS],
        [np.zeros(20)] * 3,
        end_ids=[3],
        vocabulary=300,
        temperature=0.0,
    )
    return [text.tolist() for text in texts]


@pytest.mark.slow
def test_transformers_serve_keeps_to_the_shared_vocabulary_as_our_own_loop_does(
    bounded: list[list[int]], tmp_path: Path
):
    settings = Serving(engine="transformers")
    with folder_of_numbers(TINY_DIR / "teacher", rows=1024, end_ids=[3]) as folder:
        assert bounded_text(settings, folder, tmp_path / "log") == bounded


@pytest.mark.slow
def test_vllm_keeps_to_the_shared_vocabulary_as_our_own_loop_does(
    bounded: list[list[int]], tmp_path: Path, vllm: str, configure: Callable[..., Any]
):
    settings = Serving(engine="vllm", vllm=Vllm(python=vllm.partition("=")[2]))
    pair = configure("gpu=cpu").model
    with served_folder(pair, pair.teacher, pair.tokenizer) as folder:
        assert bounded_text(settings, folder, tmp_path / "log") == bounded


SAY = {
    "task": "say",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "say.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "generation_kwargs": {"until": [",", "\n"], "max_gen_toks": 24},
}
QUESTIONS = ("The king said unto the", "And when he came", "To be or not to be that", "Thou art a")


@pytest.mark.slow
def test_answers_behind_transformers_serve_score_as_those_of_our_own_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The answers themselves are compared, each cut at its first `until`."""
    from lm_eval.models import huggingface

    cut, answers = huggingface.postprocess_generated_text, list[str]()

    def listen(**asked: Any) -> str:
        answers.append(cut(**asked))
        return answers[-1]

    monkeypatch.setattr(huggingface, "postprocess_generated_text", listen)
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "say.yaml").write_text(yaml.safe_dump(SAY))
    rows = [json.dumps({"question": question, "answer": "king"}) for question in QUESTIONS]
    (tasks / "say.jsonl").write_text("\n".join(rows) + "\n")
    asked = (
        *SMALL[:3],
        *("eval=tiny", "until=evaluate", "paradigm=sft", *SMALL[5:7], f"eval.tasks_dir={tasks}"),
        "eval.tasks=[{name: say, primary_metric: exact_match}, "
        "{name: 'tiny:word_order', primary_metric: acc, chance: 0.25, limit: 12}]",
    )
    found: dict[str, Any] = {}
    for engine in ("loop", "transformers"):
        folder, store = tmp_path / engine, tmp_path / "store"
        whole_runs.run(folder, f"store_dir={store}", *asked, f"eval.engine={engine}")
        scores = read_json(folder / "eval.json")
        found[engine] = (
            [(row["subject"], row["task"], row["metric"], row["value"]) for row in scores],
            answers.copy(),
        )
        answers.clear()
        assert all(row["energy_j"] > 0 and row["tokens"] > 0 for row in scores)
    assert found["loop"] == found["transformers"]
    assert len(found["loop"][1]) == 2 * len(QUESTIONS)
    assert any(found["loop"][1]) and not any("," in answer for answer in found["loop"][1])
    window = "run/evaluate_teacher/say"
    assert row_of(tmp_path / "transformers", window)["energy_j"]["cpu"] > 0
