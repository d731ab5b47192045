"""The head of the pair beside other forms."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kdwatts.doctor.patient import Patient
from kdwatts.doctor.speed import response_head as check
from kdwatts.doctor.speed.head_forms import OTHERS, HeadTimes, dense, ours, random_sides, trl
from kdwatts.doctor.speed.response_head import response_head

CPU = torch.device("cpu")
SMALL = ("gpu=cpu", "model=tiny", "training.micro_batch=2")


def test_ours_agrees_with_dense_pytorch_and_what_is_absent_is_not_measured(
    patient: Callable[..., Patient],
):
    found = {verdict.name: verdict for verdict in response_head(patient(*SMALL), 1.0)}
    assert list(found) == ["response_head", "head_of_liger", "head_of_trl"]
    # On a busy machine the time may ask for attention.
    assert found["response_head"].verdict in ("right", "attention")
    assert found["response_head"].value and found["response_head"].unit == "ms"
    for name in ("head_of_liger", "head_of_trl"):
        assert (found[name].verdict, found[name].value) == (None, None)
        assert found[name].found.startswith("not measured: ")


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_a_head_that_computes_something_else_is_wrong(
    patient: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch, part: str
):
    def off(student: Any, teacher: Any, *, term: str, rows: int) -> Any:
        step = ours(student, teacher, term=term, rows=rows)
        if part == "loss":
            return lambda: step() + 0.1
        return lambda: step() * 1.1 - step().detach() * 0.1

    monkeypatch.setattr(check, "ours", off)
    found = next(iter(response_head(patient(*SMALL), 1.0)))
    assert (found.name, found.verdict) == ("response_head", "wrong")


@pytest.mark.parametrize("term", ["forward_kl", "jsd"])
def test_both_forms_have_one_loss_and_one_gradient(term: str):
    student, teacher = random_sides((40, 16, 64), CPU, torch.float32)
    heads = [ours(student, teacher, term=term, rows=16), dense(student, teacher, term=term)]
    losses, gradients = [], []
    for head in heads:
        times = HeadTimes(head, [])
        times.take(student)
        losses.append(times.loss)
        gradients.append([tensor.grad.clone() for tensor in student])
        assert len(times.times_ms) == 1 and times.peak_gib is None
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for mine, its in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-6)


def test_nothing_of_trl_s_stand_in_stays_where_trl_is_missing():
    before = {name for name in sys.modules if name.startswith("trl")}
    try:
        trl(*random_sides((4, 4, 8), CPU), term="jsd")
    except ImportError:
        assert {name for name in sys.modules if name.startswith("trl")} == before
    assert "trl" in OTHERS


def test_a_head_whose_weights_do_not_fit_is_not_begun(
    patient: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch
):
    # A group's limit would end the doctor, and not raise an error.
    monkeypatch.setattr(check, "free_bytes", lambda device: 2.6 * 2**30)
    monkeypatch.setattr(check, "random_sides", lambda *_: pytest.fail("it was begun"))
    (found,) = response_head(patient("gpu=cpu", "model=llama31_8b_to_1b"), 20.0)
    assert (found.name, found.verdict, found.value) == ("response_head", None, None)
    # 24 bytes of 128,256 x 2,048 weights, and 32 of each of 64 x 128,256 logits.
    assert found.found == "not measured: it needs 6.1 GiB, and 2.6 GiB are free"
