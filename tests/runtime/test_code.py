"""A key of code changes with what is computed, and with nothing else."""

from __future__ import annotations

import functools
import importlib
import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

from kdwatts.losses.feature import DISTANCES
from kdwatts.losses.plain import plain
from kdwatts.losses.response import DIVERGENCES
from kdwatts.runtime.code import code_key
from kdwatts.teacher.signals import compute_signals

LOSS = '''
from __future__ import annotations

from PACKAGE.scale import SCALE, half


def loss(gap: float, *, factor: float = 2.0) -> float:
    """The loss."""
    if gap < 0:
        raise ValueError("loss: the gap is below 0")
    return factor * half(gap) * SCALE
'''
SCALE = """
SCALE = 3.0


def half(value):
    return value / 2
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a package of files given by name, anew each time, and gives one of its modules."""
    monkeypatch.syspath_prepend(tmp_path)
    numbers = itertools.count()

    def make(module: str = "loss", **files: str) -> Any:
        package = f"kdwatts_code_{next(numbers)}"
        (tmp_path / package).mkdir()
        for name, text in {"__init__": "", "loss": LOSS, "scale": SCALE, **files}.items():
            path = tmp_path / package / f"{name}.py"
            path.write_text(text.replace("PACKAGE", package))
        importlib.invalidate_caches()
        return importlib.import_module(f"{package}.{module}")

    yield make
    for name in [name for name in sys.modules if name.startswith("kdwatts_code_")]:
        del sys.modules[name]


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("factor * half", "factor + half"),
        ("factor: float = 2.0", "factor: float = 3.0"),
        ("if gap < 0", "if gap <= 0"),
    ],
)
def test_another_statement_or_default_is_another_key(old: str, new: str, make: Any):
    other = make(loss=changed(LOSS, old, new))
    assert code_key(make().loss) != code_key(other.loss)


@pytest.mark.parametrize(("old", "new"), [("value / 2", "value / 3"), ("SCALE = 3.0", "SCALE = 4")])
def test_what_it_calls_and_the_constants_it_reads_are_in_the_key(old: str, new: str, make: Any):
    other = make(scale=changed(SCALE, old, new))
    assert code_key(make().loss) != code_key(other.loss)


def test_comments_layout_docstrings_annotations_and_messages_are_not_in_the_key(make: Any):
    other = '''
"""A module that says more."""
from __future__ import annotations
import math  # Not used by it.
from PACKAGE.scale import (
    SCALE,
    half,
)


def unrelated(): return math.pi

def loss(gap, *, factor=2.0):
    """The loss,
    at length."""
    # Below 0 it means nothing.
    if (gap < 0):
        raise ValueError(f"a gap of {gap} is below 0")
    return (factor *
            half(gap) * SCALE)
'''
    assert code_key(make().loss) == code_key(make(loss=other).loss)


def test_a_function_that_is_moved_with_what_it_calls_keeps_its_key(make: Any):
    elsewhere = changed(LOSS, "from PACKAGE.scale import SCALE, half\n", SCALE)
    moved = make("elsewhere", elsewhere=f"# Below other lines.\n\n\n{elsewhere}", loss="", scale="")
    assert code_key(make().loss) == code_key(moved.loss)


def test_a_name_taken_from_a_module_means_what_it_does_imported(make: Any):
    text = changed(LOSS, "from PACKAGE.scale import SCALE, half", "from PACKAGE import scale")
    text = changed(text, "half(gap) * SCALE", "scale.half(gap) * scale.SCALE")
    found = [
        code_key(make(loss=text, scale=each).loss)
        for each in (SCALE, SCALE, changed(SCALE, "value / 2", "value / 3"))
    ]
    assert found[0] == found[1] != found[2]


def test_an_import_inside_a_function_is_followed_and_its_path_is_no_part_of_the_key(make: Any):
    text = changed(LOSS, "from PACKAGE.scale import SCALE, half\n", "")
    text = changed(text, "    if gap", "    from PACKAGE.scale import SCALE, half\n\n    if gap")
    moved = changed(text, "from PACKAGE.scale", "from PACKAGE.moved")
    found = [
        code_key(make(loss=text, scale=SCALE).loss),
        code_key(make(loss=moved, scale="", moved=SCALE).loss),
        code_key(make(loss=text, scale=changed(SCALE, "value / 2", "value / 3")).loss),
    ]
    assert found[0] == found[1] != found[2]


def test_a_class_that_an_annotation_names_is_in_the_key_with_its_methods(make: Any):
    text = '''
class Block:
    """Rows."""

    size: int
    """How many."""

    def rows(self):
        return half(self.size)


def half(value):
    return value / 2


def loss(block: Block):
    return block.rows()
'''
    found = [
        code_key(make(loss=each).loss)
        for each in (
            text,
            text.replace('    """How many."""\n', ""),
            text.replace("value / 2", "value / 3"),
            text.replace("half(self.size)", "self.size"),
        )
    ]
    assert found[0] == found[1] and len(set(found)) == 3


def test_functions_that_call_each_other_have_a_key(make: Any):
    text = "def loss(n):\n    return n and other(n - 1)\n\n\ndef other(n):\n    return loss(n)\n"
    found = [
        code_key(make(loss=each).loss) for each in (text, text, text.replace("n - 1", "n - 2"))
    ]
    assert found[0] == found[1] != found[2]


def test_a_lambda_a_partial_function_and_a_wrapped_one_are_followed(make: Any):
    text = LOSS + "\n\nTABLE = {\n    'a': lambda x: loss(x),\n    'b': lambda x: loss(x) + 1,\n}\n"
    ours, other = make(loss=text), make(loss=text.replace("+ 1", "+ 2"))
    assert code_key(ours.TABLE["a"]) == code_key(other.TABLE["a"])
    assert code_key(ours.TABLE["b"]) != code_key(other.TABLE["b"]) is not None
    bound = [code_key(functools.partial(ours.loss, factor=factor)) for factor in (1.0, 1.0, 2.0)]
    assert bound[0] == bound[1] != bound[2] != code_key(ours.loss)
    assert code_key(functools.partial(other.TABLE.get, "b")) is None  # Not a function of Python.
    assert code_key(functools.cache(ours.loss)) == code_key(make().loss)


def test_a_plain_divergence_is_known_by_its_function_and_by_plain(make: Any):
    first, second = make(), make(loss=changed(LOSS, "factor * half", "factor + half"))
    keys = {code_key(plain(first.loss)), code_key(plain(second.loss)), code_key(first.loss)}
    assert len(keys) == 3 and None not in keys
    assert code_key(plain(first.loss)) == code_key(plain(make().loss))


def test_an_entry_of_a_dictionary_by_its_name_is_followed(make: Any):
    text = LOSS + "\n\nTABLE = {'a': loss}\n\n\ndef other(gap):\n    return TABLE['a'](gap)\n"
    found = [
        code_key(make(loss=each).other) for each in (text, text.replace("factor *", "factor +"))
    ]
    assert found[0] != found[1]


def test_another_divergence_beside_it_changes_no_key(make: Any):
    text = (
        LOSS + "\n\ndef other(gap):\n    return gap\n\n\nTABLE = {'loss': loss, 'other': other}\n"
    )
    assert code_key(make().loss) == code_key(make(loss=text).TABLE["loss"])


def test_code_without_a_file_has_no_key(make: Any):
    space: dict[str, Any] = {"__name__": "nowhere"}
    exec("def loss(gap):\n    return gap\n", space)
    assert code_key(space["loss"]) is None
    assert code_key(make().loss, space["loss"]) is None


def test_every_shipped_divergence_and_distance_has_a_key_of_its_own():
    functions = [*DIVERGENCES.values(), *DISTANCES.values(), compute_signals]
    keys = {code_key(function) for function in functions}
    assert None not in keys and len(keys) == len(functions)


def test_a_constant_far_below_a_divergence_is_in_its_key(monkeypatch: pytest.MonkeyPatch):
    from kdwatts.losses import rounding

    names = ("total_variation", "forward_kl")
    before = [code_key(DIVERGENCES[name]) for name in names]
    monkeypatch.setattr(rounding, "TIED_EPSILONS", 65)
    after = [code_key(DIVERGENCES[name]) for name in names]
    assert before[0] != after[0] and before[1] == after[1]
