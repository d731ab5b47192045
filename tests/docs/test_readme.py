"""README is short, its links lead somewhere, and it explains our words."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT

README = (ROOT / "README.md").read_text("utf-8")


def test_it_has_fewer_than_150_lines():
    assert len(README.splitlines()) < 150


def test_every_link_leads_to_a_file_of_the_repository():
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert len(targets) > 15
    missing = [path for path in targets if "://" not in path and not (ROOT / path).exists()]
    assert not missing


def test_it_leads_to_every_tutorial():
    for path in (ROOT / "docs/tutorials").glob("*.md"):
        assert f"(docs/tutorials/{path.name})" in README


@pytest.mark.parametrize(
    "word", ["OM_perf", "key", "window", "signals", "shards", "bits per byte", "accuracy kept"]
)
def test_it_explains_a_word_of_ours(word: str):
    assert re.search(rf"^\| {word} \| \w.{{20,}} \|$", README, re.MULTILINE)
