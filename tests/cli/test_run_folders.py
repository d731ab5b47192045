"""A run's folder is nobody else's before anything is written into it."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from kdwatts.artifacts import manifest
from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.cli import guards, sweep
from kdwatts.cli.overrides import parsed
from kdwatts.cli.preflight import compose
from kdwatts.cli.run_folders import (
    claimed,
    folder_of,
    fresh_dir,
    keep_first_command,
    settings_of_first_start,
)

REPOSITORY = Path(__file__).parents[2]


def asked(*words: str) -> DictConfig:
    return compose(words, with_hydra=True)


def named(overrides: list[str]) -> Path:
    (item,) = parsed(overrides)
    return Path(str(item.value()))


@pytest.mark.parametrize("is_sweep", [False, True])
def test_two_that_start_in_the_same_second_have_two_folders(
    is_sweep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    command = asked()  # Its ${now:} is resolved once: the clock stands still.
    with (
        claimed(command, is_sweep=is_sweep) as first,
        claimed(command, is_sweep=is_sweep) as second,
    ):
        folders = [named(first), named(second)]
        assert all(folder.is_dir() for folder in folders)
        assert folders[1] == folders[0].with_name(f"{folders[0].name}-2")
        (folders[0] / "written").touch()
    assert folders[0].is_dir() and not folders[1].exists()  # An empty one is of no use to anybody.
    datetime.strptime(folders[0].name, "%H-%M-%S")


def test_a_command_that_names_its_folder_is_not_told_it_twice(tmp_path: Path):
    """The manifest tells what was typed, and a page prints it."""
    with claimed(asked(f"hydra.sweep.dir={tmp_path}/study"), is_sweep=True) as overrides:
        assert overrides == []


def test_a_folder_that_is_named_is_taken_as_it_is_with_home_and_variables_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KDWATTS_PLACE", str(tmp_path))
    command = asked("hydra.run.dir='$KDWATTS_PLACE/100% a=b, it\\'s'")
    for _ in range(2):
        with claimed(command, is_sweep=False) as overrides:
            assert named(overrides) == tmp_path / "100% a=b, it's"
    assert list(tmp_path.iterdir()) == []
    assert (
        folder_of(asked("hydra.run.dir=runs/${hydra:job.name}"), is_sweep=False) == "runs/kdwatts"
    )
    with pytest.raises(ValueError, match=r"^hydra\.run\.dir= is empty"):
        folder_of(asked("hydra.run.dir="), is_sweep=False)


def test_a_folder_in_which_a_run_is_at_work_is_refused_before_anything_is_written(tmp_path: Path):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        manifest.write_status(tmp_path, state="running", stage="distill", attempt=1)
        manifest.amend_status(tmp_path, pid=other.pid)
        command = asked(f"hydra.run.dir={tmp_path}")
        with (
            pytest.raises(RuntimeError, match=f"is in use by pid {other.pid}"),
            claimed(command, is_sweep=False),
        ):
            pass
    finally:
        other.communicate(b"\n")


def test_a_folder_is_refused_to_other_settings_and_open_to_its_own(tmp_path: Path):
    folder = f"hydra.run.dir={tmp_path}"
    first = compose(["training.seed=1"])
    OmegaConf.save(first, tmp_path / manifest.CONFIG_NAME, resolve=True)
    for again in ([], ["training.seed=1"], ["training.seed=1", "cluster.partition=other"]):
        with claimed(asked(folder, *again), is_sweep=False):
            pass
    sentence = (
        f"{tmp_path} holds a run with training.seed=1, and this command asks for 2; give another "
        "hydra.run.dir, or the settings that the run has"
    )
    with (
        pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"),
        claimed(asked(folder, "training.seed=2"), is_sweep=False),
    ):
        pass


def test_a_folder_is_open_to_a_command_that_goes_further_and_refused_to_one_that_ends_before(
    tmp_path: Path,
):
    folder = f"hydra.run.dir={tmp_path}"
    OmegaConf.save(compose(["until=distill"]), tmp_path / manifest.CONFIG_NAME, resolve=True)
    for words in (["training.seed=0"], ["until=evaluate"]):
        with claimed(asked(folder, *words), is_sweep=False):
            pass
    sentence = "holds a run with until=distill, and this command asks for teacher; give another"
    with (
        pytest.raises(ValueError, match=sentence),
        claimed(asked(folder, "until=teacher"), is_sweep=False),
    ):
        pass
    # A sweep does not look again at a run that is done, and takes one that has gone further.
    sweep.check_same(tmp_path, compose(["until=teacher"]))
    with pytest.raises(ValueError, match="holds a run with until=distill, and this command asks"):
        sweep.check_same(tmp_path, compose([]))


@pytest.mark.parametrize(
    "text", ["a: [1, 2", "", "- 1\n", "hello\n", "\xff", "training:\n  old: 3\n", "training: 3\n"]
)
def test_settings_that_are_torn_or_of_another_version_are_refused_by_the_name_of_their_file(
    text: str, tmp_path: Path
):
    path = tmp_path / manifest.CONFIG_NAME
    path.write_bytes(text.encode("latin-1"))
    sentence = rf"^{re.escape(str(path))} is torn or of another version of kdwatts \([^;]+\); give"
    command = asked(f"hydra.run.dir={tmp_path}", "training.seed=1")
    with pytest.raises(ValueError, match=sentence), claimed(command, is_sweep=False):
        pass
    with pytest.raises(ValueError, match=sentence):
        settings_of_first_start(tmp_path, compose([]), [])
    assert path.read_bytes() == text.encode("latin-1")


def test_many_names_are_tried_until_one_is_free(tmp_path: Path):
    folders = [fresh_dir(tmp_path / "day" / "12-00-00").name for _ in range(3)]
    assert folders == ["12-00-00", "12-00-00-2", "12-00-00-3"]


HOLD = """
import sys
from pathlib import Path
from kdwatts.cli.guards import sole_worker
with sole_worker(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_a_folder_is_held_from_before_its_status_says_so_until_its_process_ends(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    link = tmp_path.with_name(f"{tmp_path.name}-link")
    link.symlink_to(tmp_path)
    with (
        pytest.raises(RuntimeError, match=f"is in use by pid {process.pid} "),
        guards.sole_worker(link),
    ):
        pass
    process.kill()
    process.communicate()
    with guards.sole_worker(tmp_path):
        pass


def test_what_the_first_start_was_asked_stays_whatever_a_later_one_asks(tmp_path: Path):
    before = HydraConfig.instance().cfg
    for seed in (1, 2):
        HydraConfig.instance().set_config(asked(f"training.seed={seed}"))
        hydra: Any = HydraConfig.instance().cfg
        HydraConfig.instance().cfg = before
        tree = compose([f"training.seed={seed}"])
        keep_first_command(tmp_path, tree, hydra)
        OmegaConf.save(tree, tmp_path / "config.yaml")
    told = {path.stem: OmegaConf.load(path) for path in (tmp_path / ".hydra").iterdir()}
    assert told["overrides"] == ["training.seed=1"]
    assert told["config"].training.seed == 1
    assert told["hydra"].hydra.job.name == "kdwatts"
    assert set(told) == {"config", "hydra", "overrides"}


def test_a_sweep_is_not_put_into_the_folder_of_a_single_run(tmp_path: Path):
    OmegaConf.save(compose([]), tmp_path / manifest.CONFIG_NAME, resolve=True)
    command = asked(f"hydra.sweep.dir={tmp_path}")
    sentence = r"is the folder of a single run; give another, or go on with the run by hydra\.run"
    with pytest.raises(ValueError, match=sentence), claimed(command, is_sweep=True):
        pass
    (tmp_path / "multirun.yaml").touch()  # Of a version that put one there.
    with claimed(command, is_sweep=True):
        pass


def test_a_run_is_not_put_on_top_of_a_sweep(tmp_path: Path):
    (tmp_path / "multirun.yaml").touch()
    command = asked(f"hydra.run.dir={tmp_path}")
    with (
        pytest.raises(ValueError, match="is the folder of a sweep; give another, or go on with"),
        claimed(command, is_sweep=False),
    ):
        pass


def test_a_folder_from_before_serving_under_load_holds_the_run_that_is_asked_for_now():
    """It knows no engine, and its last stage is inference."""
    now = resolve_gpu(compose(["gpu=cpu"]), [])
    before = OmegaConf.create(OmegaConf.to_container(now, resolve=True))
    del before.eval["serving"]
    before.until = "inference"
    assert sweep.differences(before, now) == {}
    behind = resolve_gpu(compose(["gpu=cpu", "eval.serving.engine=transformers"]), [])
    found = sweep.differences(before, behind)
    assert next(iter(found.items())) == ("eval.serving.engine", ("loop", "transformers"))


def test_a_folder_from_before_the_device_decided_holds_the_run_that_is_asked_for_now(
    tmp_path: Path,
):
    """It says what was the default then, and goes on with it."""
    before = resolve_gpu(
        compose(["gpu=cpu", "training.compile=false", "training.chunk_rows=256"]), []
    )
    settings_of_first_start(tmp_path, before, [])
    now = resolve_gpu(compose(["gpu=cpu"]), [])
    assert sweep.differences(before, now) == {}
    training = settings_of_first_start(tmp_path, now, ["gpu=cpu"]).training
    assert (training.compile, training.chunk_rows) == (False, 256)
    other = resolve_gpu(compose(["gpu=cpu", "training.chunk_rows=512"]), [])
    assert sweep.differences(before, other) == {"training.chunk_rows": (256, 512)}
    # A value that somebody chose is no default.
    assert sweep.differences(other, now) == {"training.chunk_rows": (512, None)}
