"""A model and its tokenizer in one folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdwatts.config.pair import ModelSource, Pair
from kdwatts.models.served_folder import served_folder
from kdwatts.runtime.paths import TINY_DIR


@pytest.fixture
def pair(configure: Callable[..., Any]) -> Pair:
    return configure("gpu=cpu").model


@pytest.fixture
def source(make_llama: Callable[..., Any], tmp_path: Path, pair: Pair) -> ModelSource:
    """A model that was saved without a tokenizer."""
    make_llama().save_pretrained(tmp_path / "model")
    return ModelSource(str(tmp_path / "model"), None, pair.student.architecture)


def test_a_model_without_a_tokenizer_is_linked_beside_the_pair_s(source: ModelSource, pair: Pair):
    assert source.path
    with served_folder(pair, source, pair.tokenizer) as folder:
        assert folder != Path(source.path)
        assert all(path.is_symlink() for path in folder.iterdir())
        expected = AutoModelForCausalLM.from_pretrained(source.path)
        assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == (
            expected.config.vocab_size
        )
        found = AutoTokenizer.from_pretrained(folder)("To be, or not to be")
        assert found == AutoTokenizer.from_pretrained(TINY_DIR / "tokenizer")("To be, or not to be")
    assert not folder.exists()
    assert (Path(source.path) / "config.json").is_file()


def test_a_model_with_a_tokenizer_is_served_from_its_own_folder(source: ModelSource, pair: Pair):
    assert source.path
    for path in (TINY_DIR / "tokenizer").iterdir():
        shutil.copy(path, source.path)
    with served_folder(pair, source, pair.tokenizer) as folder:
        assert folder == Path(source.path).resolve()
    assert folder.is_dir()
