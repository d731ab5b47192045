"""Checkpoints of which every rank writes its shards: four ranks stand for two nodes of two."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.multiprocessing import ProcessExitedException

from kdwatts.models.sharding import gathered
from kdwatts.records.files import read_json
from kdwatts.training import checkpoint, checkpoint_files
from kdwatts.training.checkpoint import Progress
from kdwatts.training.parallel import rank
from tests.gloo_ranks import on_ranks
from tests.training.test_ranks import Pair, optimizer_of, taken

FRESH = Progress()


class Trained:
    """A pair with its optimizer, and all that a checkpoint keeps of them."""

    def __init__(self, parallel: str) -> None:
        self.pair = Pair("combined", parallel=parallel)
        self.optimizer = optimizer_of(self.pair)

    def state(self) -> dict[str, Tensor]:
        """In whole tensors, of which other ranks have the same."""
        found: dict[str, Tensor] = {}
        for prefix, module in self.pair.learner.modules.items():
            for name, parameter in module.named_parameters():
                found[f"{prefix}.{name}"] = gathered(parameter.detach()).clone()
                for key, value in self.optimizer.state[parameter].items():
                    found[f"{prefix}.{name}.{key}"] = gathered(value).clone()
        return found

    def saved(self, folder: Path, step: int) -> None:
        modules = self.pair.learner.modules
        checkpoint.save(folder, modules, self.optimizer, Progress(step=step))

    def resumed(self, folder: Path) -> Progress:
        return checkpoint.load_latest(folder, self.pair.learner.modules, self.optimizer)


def trained_and_saved(folder: Path, parallel: str) -> dict[str, Any]:
    """The state after a step, which is saved, and this rank's next random number."""
    trained = Trained(parallel)
    taken(trained.pair, trained.optimizer, 1)
    torch.manual_seed(100 + rank())
    trained.saved(folder, 1)
    return {"state": trained.state(), "drawn": torch.rand(3)}


def resumed_and_saved(folder: Path, then: Path, parallel: str) -> dict[str, Any]:
    trained = Trained(parallel)
    assert trained.resumed(folder).step == 1
    drawn = torch.rand(3)
    trained.saved(then, 1)
    return {"state": trained.state(), "drawn": drawn}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def four(folder: Path) -> list[dict[str, Any]]:
    """What four ranks on two nodes saved in `folder / "four"`."""
    return on_ranks(4, folder / "4", trained_and_saved, folder / "four", "hsdp")


@pytest.fixture(scope="module")
def two(four: Any, folder: Path) -> list[dict[str, Any]]:
    """What two ranks read of it, and saved in `folder / "two"`."""
    return on_ranks(2, folder / "2", resumed_and_saved, folder / "four", folder / "two", "fsdp")


def test_each_rank_writes_a_part_and_all_parts_are_the_whole_once(
    folder: Path, four: list[dict[str, Any]]
):
    paths = sorted((folder / "four" / "step-00000001").glob("*.safetensors"))
    assert len(paths) == 4
    sizes, elements = [path.stat().st_size for path in paths], 0
    for path in paths:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if not name.startswith("rng.")]  # noqa: SIM118
            elements += sum(file.get_tensor(name).numel() for name in names)
    assert elements == sum(value.numel() for value in four[0]["state"].values())
    assert max(sizes) < 0.6 * sum(sizes)


def test_nothing_in_it_is_pickled(folder: Path, four: Any):
    names = [path.name for path in (folder / "four" / "step-00000001").iterdir()]
    assert {Path(name).suffix for name in names} == {".safetensors", ".json"}
    assert read_json(folder / "four" / "step-00000001" / "progress.json")["step"] == 1


def test_four_ranks_two_ranks_and_one_process_hold_the_same_bits(
    folder: Path, four: list[dict[str, Any]], two: list[dict[str, Any]]
):
    assert_equal(two[0]["state"], four[0]["state"])
    for name in ("four", "two"):
        alone = Trained("ddp")
        assert alone.resumed(folder / name) == Progress(step=1)
        assert_equal(alone.state(), four[0]["state"])


def test_every_rank_goes_on_with_its_own_random_numbers(
    folder: Path, four: list[dict[str, Any]], two: list[dict[str, Any]]
):
    drawn = [one["drawn"] for one in four]
    assert len({tuple(one.tolist()) for one in drawn}) == 4
    for before, after in zip(four, two, strict=False):
        assert torch.equal(before["drawn"], after["drawn"])
    Trained("ddp").resumed(folder / "four")
    assert torch.equal(torch.rand(3), four[0]["drawn"])


def killed_while_saving(folder: Path, victim: int, place: str) -> None:
    """Save step 1, and in the saving of step 2 kill one rank."""
    trained = Trained("fsdp")
    taken(trained.pair, trained.optimizer, 1)
    trained.saved(folder, 1)
    taken(trained.pair, trained.optimizer, 1)
    if rank() == victim:
        owner, name = PLACES[place]
        setattr(owner, name, after(getattr(owner, name), kills=place != "before it writes"))
    trained.saved(folder, 2)


def after(function: Callable[..., Any], *, kills: bool) -> Callable[..., Any]:
    """The function, after which, or else before which, this process is killed."""

    def killing(*arguments: Any, **options: Any) -> Any:
        if kills:
            function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    return killing


PLACES: dict[str, tuple[Any, str]] = {
    "before it writes": (HuggingFaceStorageWriter, "write_data"),
    "once it has written": (HuggingFaceStorageWriter, "write_data"),
    "once all have written": (checkpoint_files, "write"),
    "before the rename": (checkpoint, "flush"),
}


@pytest.mark.parametrize(
    ("victim", "place"),
    [
        (1, "before it writes"),
        (1, "once it has written"),
        (0, "once it has written"),
        (0, "once all have written"),
        (0, "before the rename"),
    ],
)
def test_a_rank_killed_while_it_saves_leaves_the_checkpoint_before(
    victim: int, place: str, tmp_path: Path
):
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        on_ranks(2, tmp_path / "ranks", killed_while_saving, tmp_path, victim, place)
    alone = Trained("ddp")
    assert alone.resumed(tmp_path).step == 1
    # What the kill left is in nobody's way.
    alone.saved(tmp_path, 2)
    assert Trained("ddp").resumed(tmp_path).step == 2
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000002"]


def failing_to_write(folder: Path) -> str:
    """A file is in the way of the second rank's shards."""
    trained = Trained("fsdp")
    taken(trained.pair, trained.optimizer, 1)
    if rank() == 1:

        def refuse(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        HuggingFaceStorageWriter.write_data = refuse  # pyright: ignore
    try:
        trained.saved(folder, 1)
    except OSError as error:
        return str(error)
    return "nothing"


def test_ranks_that_cannot_write_say_which_and_leave_nothing(tmp_path: Path):
    said = on_ranks(2, tmp_path / "ranks", failing_to_write, tmp_path / "kept")
    assert len(set(said)) == 1
    assert "rank 1 says OSError: [Errno 28] No space left on device; free space in" in said[0]
    assert not list((tmp_path / "kept").glob("step-*"))
