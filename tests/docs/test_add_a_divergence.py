"""What docs/tutorials/add_a_divergence.md shows works as shown: package, functions, command."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from kdwatts.records.files import read_jsonl
from tests.plugin_package import install

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/tutorials/add_a_divergence.md").read_text("utf-8")

Run = Callable[..., subprocess.CompletedProcess[str]]


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the page's command, where its package is installed, with other values or more words."""
    project = tomllib.loads(block("toml"))["project"]
    site = tmp_path / "site"
    site.mkdir()
    install(site, project["name"], project["entry-points"], {"my_losses": block("python")})
    _, command = block("bash").replace("\\\n", "").splitlines()
    python, *words = shlex.split(command)
    assert python == "python"

    def result(*more: str) -> subprocess.CompletedProcess[str]:
        others = {word.partition("=")[0] for word in more}
        kept = [word for word in words if word.partition("=")[0] not in others]
        return subprocess.run(
            [sys.executable, *kept, f"store_dir={tmp_path}/store", *more],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
        )

    return result


def test_functions_of_a_package_teach_as_those_do_that_ship(run: Run, tmp_path: Path):
    shipped = (
        *("paradigm.response.divergence=forward_kl", "paradigm.feature.distance=mse"),
        "paradigm.feature.layers=last",
    )
    logged = []
    for name, words in (("own", ()), ("shipped", shipped)):
        done = run("paradigm.response.temperature=2", f"hydra.run.dir={tmp_path}/{name}", *words)
        assert done.returncode == 0, done.stderr
        logged.append(list(read_jsonl(tmp_path / name / "train.jsonl")))
    own, theirs = logged
    assert len(own) == len(theirs) > 1
    for mine, expected in zip(own, theirs, strict=True):
        for term in ("loss", "ce_nats", "response_nats", "feature"):
            assert mine[term] == pytest.approx(expected[term], rel=1e-6)
    assert own[0]["response_nats"] > 0 and own[0]["feature"] > 0


def test_a_mistyped_name_is_refused_with_the_names_of_the_package(run: Run):
    done = run("paradigm.response.divergence=my_lk")
    assert done.returncode == 2
    assert re.search(
        r"^kdwatts: paradigm\.response\.divergence=my_lk is unknown; choose one of forward_kl, .*, "
        r"universal, my_kl$",
        done.stderr,
        re.MULTILINE,
    )
