"""What a program that we start sees of our environment."""

from __future__ import annotations

import pytest

from kdwatts.runtime.child_environment import child_environment


def test_the_child_sees_one_gpu_of_those_that_this_job_has_and_no_other_ranks(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5f0c,GPU-77aa")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    environment = child_environment((1,))
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-77aa"
    assert not {"WORLD_SIZE", "PYTHONPATH"} & set(environment)
    assert child_environment(None, cpu=True)["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert child_environment((3,))["CUDA_VISIBLE_DEVICES"] == "3"


def test_a_child_sees_the_gpus_that_it_is_given_in_the_names_that_this_job_has(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-77aa,5,7")
    assert child_environment((0, 1, 2))["CUDA_VISIBLE_DEVICES"] == "3,GPU-77aa,5"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert child_environment((0, 1))["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_a_child_of_the_same_interpreter_keeps_its_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert child_environment(None, same_python=True)["PYTHONPATH"] == "/somewhere"
