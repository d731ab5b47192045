"""What a run's tokenizer must have, and the rows its models must have, before anything is built."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdwatts.runtime.paths import TINY_DIR
from kdwatts.stages.graph import plan
from kdwatts.stages.vocabulary import check
from kdwatts.stages.work import compared_rows, shared_rows
from tests.conftest import CHAT_TEMPLATE

Configure = Callable[..., Any]
WIDE = "model.student.architecture.vocab_size=1088"
TALKS = ("data.source.text_field=null", "data.source.messages_field=messages")


@pytest.fixture
def marked(tokenizer: Any, tmp_path: Path) -> str:
    """A tokenizer with a mark for which the shipped models have no row."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    tokenizer.chat_template = "<turn>" + CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path / "marked")
    return f"model.tokenizer={tmp_path}/marked"


def test_the_student_needs_rows_for_its_own_text_whatever_is_trained(
    configure: Configure, marked: str
):
    for paradigm in ("sft", "response"):
        config = configure("eval=none", f"paradigm={paradigm}", marked, *TALKS)
        with pytest.raises(
            ValueError, match=r"'<turn>' with id 1024, but model.student has 1024 rows"
        ):
            check(config, {"shards", "distill"})
        check(config, {"shards"})  # Shards are of no model.
        check(configure("eval=none", f"paradigm={paradigm}", marked), {"shards", "distill"})


def test_a_teacher_needs_rows_for_what_it_is_asked_and_none_where_it_is_not(
    configure: Configure, marked: str
):
    asked = ("eval=none", marked, WIDE, *TALKS)
    check(configure("paradigm=sft", *asked), {"shards", "distill"})
    for paradigm, stages in (
        ("response", {"distill"}),
        ("response", {"shards", "teacher", "distill"}),
        ("sft", {"distill", "inference_teacher"}),
    ):
        with pytest.raises(
            ValueError, match=r"'<turn>' with id 1024, but model.teacher has 1024 rows"
        ):
            check(configure(f"paradigm={paradigm}", *asked), stages)


def test_a_templated_benchmark_needs_rows_for_the_template_s_marks(
    configure: Configure, marked: str
):
    asked = ("paradigm=sft", "eval=mmlu_dev", marked, WIDE)
    stages = {"evaluate_student", "evaluate_teacher"}
    check(configure(*asked), stages)
    with pytest.raises(ValueError, match=r"'<turn>' with id 1024, but model.teacher has 1024 rows"):
        check(configure(*asked, "eval.apply_chat_template=true"), stages)


def test_what_a_tokenizer_lacks_is_told_before_any_stage(
    configure: Configure, tokenizer: Any, tmp_path: Path
):
    with pytest.raises(ValueError, match=r"tiny:tokenizer has no chat template, but the corpus ho"):
        check(configure(*TALKS), {"shards"})
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    for paradigm in ("sft", "response"):
        config = configure(f"model.tokenizer={tmp_path}", f"paradigm={paradigm}")
        with pytest.raises(ValueError, match=r"has no end token, which marks the end of documents"):
            check(config, {"shards"})
        check(config, set())  # All is in the store.


def test_a_teacher_of_other_tokens_is_refused_before_the_corpus_is_built(
    configure: Configure, tokenizer: Any, tmp_path: Path
):
    shutil.copytree(TINY_DIR / "teacher", tmp_path / "teacher")
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = backend["model"]["vocab"]
    vocabulary["e"], vocabulary["t"] = vocabulary["t"], vocabulary["e"]
    tokenizer.save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "tokenizer.json").write_text(json.dumps(backend))
    for how, stages in (("cached", {"shards", "teacher"}), ("online", {"shards", "distill"})):
        config = configure(
            *("eval=none", "paradigm=response", f"paradigm.teacher={how}"),
            f"model.teacher.path={tmp_path}/teacher",
        )
        with pytest.raises(ValueError, match=r"the vocabularies do not match: token '.' has id"):
            check(config, stages)
        check(config, {"shards"})


def test_a_student_of_more_rows_than_its_teacher_has_is_trained_whole_where_none_is_asked(
    configure: Configure,
):
    assert compared_rows(configure("paradigm=sft", WIDE)) == (1088, 1024)
    assert compared_rows(configure("paradigm=response", WIDE)) == (1024, 1024)
    assert shared_rows(configure("paradigm=sft", WIDE)) == 1024

    def keyed_rows(*overrides: str) -> int:
        (found,) = (n for n in plan(configure(*overrides, "gpu=cpu"), []) if n.name == "distill")
        return found.settings.get("head_rows", 0)

    # Only where the head was cut before is there a new key.
    assert (keyed_rows("paradigm=sft", WIDE), keyed_rows("paradigm=response", WIDE)) == (1088, 0)
    assert keyed_rows("paradigm=sft") == 0
