"""Names that installed packages offer, and the functions that they stand for."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from kdwatts.config.paradigm import Feature, Response
from kdwatts.runtime import plugins
from tests.plugin_package import install

LOSSES = """
number = 1
def gap(student_nV, teacher_nV):
    return (student_nV - teacher_nV).square().mean(-1)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of `sys.path`; what is imported of it is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("own_losses", "others"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def offer(site: Path, name: str, value: str, package: str = "own-losses") -> None:
    groups = {plugins.DIVERGENCES: {name: value}}
    install(site, package, groups, {"own_losses": LOSSES, "broken": "import nowhere_to_be_had\n"})


def dense(divergence: str) -> Response:
    return Response(divergence=divergence, support="dense")


def test_a_name_of_a_package_is_accepted_without_importing_it(site: Path):
    offer(site, "gap", "own_losses:gap")
    assert plugins.names(plugins.DIVERGENCES) == ["gap"]
    assert dense("gap").divergence == "gap"
    assert "own_losses" not in sys.modules
    assert plugins.load(plugins.DIVERGENCES, "gap").__module__ == "own_losses"


def test_a_mistyped_name_is_refused_with_those_of_ours_and_of_packages(site: Path):
    offer(site, "gap", "own_losses:gap")
    with pytest.raises(ValueError) as refusal:
        dense("gab")
    assert str(refusal.value) == (
        "paradigm.response.divergence=gab is unknown; choose one of forward_kl, reverse_kl, jsd, "
        "skew_kl, skew_reverse_kl, total_variation, universal, gap"
    )


def test_a_name_of_another_group_is_unknown(site: Path):
    offer(site, "gap", "own_losses:gap")
    with pytest.raises(ValueError, match=r"distance=gap is unknown; choose one of .*, cosine$"):
        Feature(distance="gap")
    with pytest.raises(ValueError, match=r"layers=gap is unknown; choose one of .*, cka$"):
        Feature(layers="gap")


def test_a_name_that_is_ours_too_is_refused_where_it_is_asked_for(site: Path):
    offer(site, "forward_kl", "own_losses:gap")
    assert dense("reverse_kl").divergence == "reverse_kl"
    with pytest.raises(ValueError) as refusal:
        dense("forward_kl")
    assert str(refusal.value) == (
        "paradigm.response.divergence=forward_kl names two functions, one of kdwatts and one "
        "of package own-losses; rename the latter in its entry points (kdwatts.divergences)"
    )


def test_a_name_of_two_packages_is_refused_before_either_is_imported(site: Path):
    offer(site, "gap", "own_losses:gap")
    offer(site, "gap", "own_losses:gap", package="others")
    with pytest.raises(ValueError, match=r"=gap is offered by the packages others and own-losses;"):
        dense("gap")
    with pytest.raises(ValueError, match=r"gap is offered by others and own-losses, and exac"):
        plugins.load(plugins.DIVERGENCES, "gap")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("broken:gap", "cannot be imported (ModuleNotFoundError: No module named 'nowhere_to_be_h"),
        ("own_losses:lost", "cannot be imported (AttributeError: module 'own_losses' has no attri"),
        ("own_losses:number", "is of type int and no function; have its entry point name one"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_its_package(value: str, said: str, site: Path):
    offer(site, "gap", value)
    found = re.escape(f"kdwatts.divergences: gap of package own-losses, {value}, {said}")
    with pytest.raises(ValueError, match=f"^{found}"):
        plugins.load(plugins.DIVERGENCES, "gap")


@pytest.mark.parametrize(
    ("logits", "said"),
    [
        ((1.0,), "TypeError: gap() missing 1 required positional argument: 'teacher_nV'"),
        ((1.0, 2.0), "AttributeError: 'float' object has no attribute 'square'"),
    ],
)
def test_an_error_inside_a_function_is_one_sentence_with_its_name(
    logits: tuple[float, ...], said: str, site: Path
):
    offer(site, "gap", "own_losses:gap")
    with pytest.raises(ValueError) as refusal:
        plugins.load(plugins.DIVERGENCES, "gap")(*logits)
    assert str(refusal.value) == (
        f"kdwatts.divergences: gap of package own-losses, own_losses:gap, fails ({said}); correct "
        "the function or choose another name"
    )


def test_a_name_of_nobody_is_refused():
    with pytest.raises(ValueError, match=r"^kdwatts.distances: gap is offered by no installed pac"):
        plugins.load(plugins.DISTANCES, "gap")
