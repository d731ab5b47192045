"""Models and tokenizers that cannot be read, refused in one sentence; no network is used."""

from __future__ import annotations

import importlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.utils.hub
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.cli.attempt import run_in
from kdwatts.cli.preflight import compose
from kdwatts.config.pair import Architecture, ModelSource
from kdwatts.models import access
from kdwatts.models.load import check_readable, load_model, load_tokenizer, read_architecture

SHAPE = Architecture("llama", 2, 16, 32, 4, 2, 4, 40, True, 64)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = ModelSource("org/model", COMMIT, SHAPE)
LICENCE = "Llama 3.1 Community License"


def answer(code: int) -> Any:
    # The hub's library speaks through httpx2, before its release 2 through httpx.
    httpx = importlib.import_module(HTTPError.__module__.partition(".")[0])
    return httpx.Response(code, request=httpx.Request("GET", "https://huggingface.co/org/model"))


ERRORS = {
    "gated": (
        GatedRepoError("Access to model org/model is restricted.", response=answer(403)),
        f"model org/model is gated: accept its licence ({LICENCE}) at {constants.ENDPOINT}"
        "/org/model, give your account's token (HF_TOKEN, or `hf auth login`), and run this "
        "again; for a node without a network, run until=prefetch first",
    ),
    "unknown": (
        RepositoryNotFoundError("Repository Not Found", response=answer(401)),
        f"model org/model is not at {constants.ENDPOINT}, or this account may not read it; check "
        "its name, or give the token of an account that may (HF_TOKEN, or `hf auth login`)",
    ),
    "revision": (
        RevisionNotFoundError("Revision Not Found", response=answer(404)),
        f"model org/model has no revision {COMMIT} at {constants.ENDPOINT}; correct the revision "
        "in the pair's file in conf/model",
    ),
    "not here": (
        LocalEntryNotFoundError("Cannot find the requested files in the disk cache"),
        f"model org/model is not in HF_HOME={constants.HF_HOME}, and HF_HUB_OFFLINE forbids to "
        "fetch it; run the command with until=prefetch where there is a network, with the same "
        "HF_HOME",
    ),
}


@pytest.fixture
def hub_raises(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the hub's client raise where transformers asks it for a file."""

    def arrange(error: Exception) -> None:
        def download(*where: Any, **options: Any) -> str:
            raise error

        monkeypatch.setattr(transformers.utils.hub, "hf_hub_download", download)

    return arrange


@pytest.fixture
def saved(tmp_path: Path) -> ModelSource:
    model: Any = load_model(ModelSource(None, None, SHAPE), dtype=torch.float32)
    model.save_pretrained(tmp_path)
    return ModelSource(str(tmp_path), None, SHAPE)


@pytest.mark.parametrize("name", ERRORS)
def test_what_the_hub_refuses_is_told_in_one_sentence_with_what_to_do(name: str, hub_raises: Any):
    error, said = ERRORS[name]
    hub_raises(error)
    with pytest.raises(RuntimeError) as caught:
        check_readable(SOURCE, licence=LICENCE)
    assert str(caught.value) == said


@pytest.mark.parametrize("name", ERRORS)
def test_a_load_that_the_check_let_pass_says_the_same_without_the_licence(
    name: str, hub_raises: Any
):
    error, said = ERRORS[name]
    hub_raises(error)
    with pytest.raises(RuntimeError) as caught:
        load_model(SOURCE, dtype=torch.float32)
    assert str(caught.value) == said.replace(f" ({LICENCE})", "")


def test_a_tokenizer_that_is_not_on_this_disk_is_told_without_asking_a_hub():
    with pytest.raises(RuntimeError, match=r"^tokenizer org/none is not in HF_HOME=.* and HF_HUB_"):
        load_tokenizer("org/none", revision=COMMIT)


def cache(folder: Path, files: dict[str, str]) -> None:
    """A hub's cache as huggingface_hub lays it out, of one repository at one commit."""
    snapshot = folder / "models--org--model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name, text in files.items():
        (snapshot / name).write_text(text)


def test_the_first_missing_file_of_weights_that_were_fetched_in_part_is_named(
    saved: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"weight_map": {"model.norm.weight": parts[1], "lm_head.weight": parts[0]}}
    config = (tmp_path / "config.json").read_text()
    files = {"config.json": config, access.INDEX: json.dumps(index), parts[0]: ""}
    cache(tmp_path / "hub", files)
    said = re.escape(f"model org/model, {parts[1]}, is not in HF_HOME={constants.HF_HOME}, and ")
    with pytest.raises(RuntimeError, match=f"^{said}HF_HUB_OFFLINE forbids"):
        check_readable(SOURCE)
    (tmp_path / "hub" / "models--org--model" / "snapshots" / COMMIT / parts[1]).touch()
    check_readable(SOURCE)


def test_pickled_weights_are_refused_before_and_while_they_are_read(saved: ModelSource):
    assert saved.path
    check_readable(saved)
    (Path(saved.path) / "model.safetensors").unlink()
    weights = load_model(ModelSource(None, None, SHAPE), dtype=torch.float32).state_dict()
    torch.save(weights, Path(saved.path) / "pytorch_model.bin")
    said = (
        f"model {saved.path} has no weights as safetensors, and pickled weights are refused, since "
    )
    with pytest.raises(ValueError, match=f"^{said}"):
        check_readable(saved)
    with pytest.raises(ValueError, match=f"^{said}"):
        load_model(saved, dtype=torch.float32)


def test_a_repository_that_lists_no_safetensors_is_refused(
    saved: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cache(tmp_path / "hub", {"config.json": (tmp_path / "config.json").read_text()})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    names = ["config.json", "pytorch_model.bin"]
    monkeypatch.setattr(HfApi, "list_repo_files", lambda *where, **options: names)
    with pytest.raises(ValueError, match=r"^model org/model has no weights as safetensors, and"):
        check_readable(SOURCE)


def test_code_of_a_model_s_own_is_neither_run_nor_asked_about(saved: ModelSource):
    assert saved.path
    path = Path(saved.path) / "config.json"
    config = json.loads(path.read_text())
    config |= {"model_type": "of_its_own", "auto_map": {"AutoConfig": "own.Config"}}
    path.write_text(json.dumps(config))
    (Path(saved.path) / "own.py").write_text("raise SystemExit('this was run')")
    with pytest.raises(ValueError) as caught:
        read_architecture(saved)
    assert str(caught.value) == (
        f"model {saved.path} needs code of its own (trust_remote_code), which is never run here; "
        "choose a model whose code is in transformers"
    )


def test_what_a_hub_may_change_is_warned_of_once(hub_raises: Any, caplog: pytest.LogCaptureFixture):
    hub_raises(ERRORS["not here"][0])
    path = "org/said-once"
    with caplog.at_level(logging.WARNING, logger="kdwatts.models.load"):
        for _ in range(2):
            for revision in (None, COMMIT):
                with pytest.raises(RuntimeError):
                    read_architecture(ModelSource(path, revision, SHAPE))
                with pytest.raises(RuntimeError):
                    load_tokenizer(path, revision=revision)
    assert caplog.messages == [
        f"{kind} {path} has no revision, so the hub may serve other bytes tomorrow under the same "
        "key; give the commit in the pair's file"
        for kind in ("model", "tokenizer")
    ]


def test_a_run_ends_before_anything_is_measured_where_a_teacher_cannot_be_read(tmp_path: Path):
    overrides = ["gpu=cpu", "training=smoke", "model.teacher.path=org/teacher"]
    tree = resolve_gpu(compose([f"store_dir={tmp_path}/store", *overrides]), [])
    with pytest.raises(RuntimeError, match=r"^model org/teacher is not in HF_HOME="):
        run_in(tmp_path, tree)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "failed" and "until=prefetch" in status["error"]
    assert not (tmp_path / "stages.jsonl").exists()
