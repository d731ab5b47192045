"""A model is read once a node: four ranks stand for two nodes of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from kdwatts.config.experiment import Config
from kdwatts.config.pair import Architecture, ModelSource
from kdwatts.config.training import PARALLELS
from kdwatts.models.load import load_model, without_weights
from kdwatts.models.read_once import read_once
from kdwatts.models.sharding import whole_state
from kdwatts.models.sharing import Sharing, check_blocks
from kdwatts.stages.assembly import fresh_student
from tests.gloo_ranks import on_ranks

NODES = ((0, 1), (2, 3))
READERS = [0, 2]
CPU = torch.device("cpu")
UNTIED = Architecture("llama", 2, 16, 24, 4, 2, 4, 39, False, 32)
"""39 rows are cut into unequal shards."""
STUDENTS = {
    "random": ("model=tiny",),
    "cut from its teacher": ("model=tiny_half",),
    "with adapters": ("model=tiny_half", "training=lora", "training.sequence_length=64"),
}
CASES = [(name, parallel) for name in (*STUDENTS, "untied") for parallel in PARALLELS]


def found_of(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Any]:
    """All that a rank gets of a model: buffers that no state holds, ties and settings, too."""
    settings: Any = model.generation_config
    return {
        "state": state,
        "buffers": {name: buffer.clone() for name, buffer in model.named_buffers()},
        "trained": [name for name, one in model.named_parameters() if one.requires_grad],
        "tied": model.lm_head.weight is model.model.embed_tokens.weight,  # pyright: ignore
        "ends": settings.eos_token_id,
        "is_training": model.training,
    }


def makers(config: Config | None, source: ModelSource) -> tuple[Callable[[], Any], ...]:
    """What loads a student, or a teacher without its configuration, and what outlines it."""
    if config:
        return (lambda: fresh_student(config)), (lambda: fresh_student(config, weights=False))
    return (
        lambda: load_model(source, dtype=torch.float32),
        lambda: without_weights(source, dtype=torch.float32),
    )


def read_all(students: dict[str, Config | None], source: ModelSource) -> dict[Any, Any]:
    """What this rank got, and whether it read, for every case."""
    found: dict[Any, Any] = {}
    for name, parallel in CASES:
        load, outline = makers(students[name], source)
        reads: list[str] = []

        def counted(load: Any = load, reads: list[str] = reads) -> nn.Module:
            reads.append("read")
            return load()

        model = read_once(counted, outline, CPU, Sharing(parallel, "fp32", NODES))
        if parallel == "ddp":
            state = {key: value.clone() for key, value in model.state_dict().items()}
        else:
            state = whole_state(model)
        found[name, parallel] = found_of(model, state) | {"reads": len(reads)}
    found["broken"] = [broken(reader) for reader in READERS]
    return found


def broken(reader: int) -> str:
    """What this rank raises when one reader cannot read."""

    def load() -> nn.Module:
        if distributed.get_rank() == reader:
            raise OSError("the file is torn")
        return load_model(ModelSource(architecture=UNTIED), dtype=torch.float32)

    def outline() -> nn.Module:
        return without_weights(ModelSource(architecture=UNTIED), dtype=torch.float32)

    try:
        read_once(load, outline, CPU, Sharing("fsdp", "fp32", NODES))
    except (OSError, RuntimeError) as error:
        return str(error)
    return "nothing"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder = tmp_path_factory.mktemp("untied")
    model: Any = load_model(ModelSource(architecture=UNTIED), dtype=torch.float32, seed=7)
    model.generation_config.eos_token_id = [3, 5]
    model.save_pretrained(folder)
    return ModelSource(str(folder), None, UNTIED)


@pytest.fixture(scope="module")
def students(configure: Callable[..., Config]) -> dict[str, Config | None]:
    return {**{name: configure(*words) for name, words in STUDENTS.items()}, "untied": None}


@pytest.fixture(scope="module")
def ranks(
    students: dict[str, Config | None],
    source: ModelSource,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[Any, Any]]:
    return on_ranks(4, tmp_path_factory.mktemp("ranks"), read_all, students, source)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_every_rank_has_the_model_that_one_rank_of_its_node_read(
    case: tuple[str, str],
    ranks: list[dict[Any, Any]],
    students: dict[str, Config | None],
    source: ModelSource,
):
    load, _ = makers(students[case[0]], source)
    alone = load()
    expected = found_of(alone, alone.state_dict())
    for number, rank in enumerate(ranks):
        found = rank[case]
        assert found["reads"] == (number in READERS)
        if number and case[1] != "ddp":
            assert found["state"] == {}  # The first rank puts shards together.
        else:
            assert_equal(found["state"], expected["state"])
        assert_equal(found["buffers"], expected["buffers"])
        for name in ("trained", "tied", "ends", "is_training"):
            assert found[name] == expected[name], name
    assert expected["tied"] == (case[0] != "untied")
    assert len(expected["buffers"]) > 0


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_a_reader_that_fails_says_why_and_no_other_rank_waits_for_it(ranks: list[dict[Any, Any]]):
    for index, reader in enumerate(READERS):
        said = [rank["broken"][index] for rank in ranks]
        assert said.pop(reader) == "the file is torn"
        assert {one.split(":")[0] for one in said} == {"the model was not read"}


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        (((0, 2), (1, 3)), "ranks 0, 2 are on the first node; launch with srun --distribution"),
        (((0, 1, 2), (3,)), "nodes have 3, 1 ranks; launch equally many on each node"),
    ],
)
def test_hsdp_refuses_ranks_that_are_no_blocks_of_one_size(nodes: Any, found: str):
    with pytest.raises(RuntimeError, match=found):
        check_blocks(nodes)
    check_blocks(((0, 1), (2, 3)))


def test_a_process_alone_loads_and_outlines_nothing():
    source = ModelSource(architecture=UNTIED)
    model = read_once(
        lambda: load_model(source, dtype=torch.float32), lambda: 1 / 0, CPU, Sharing("hsdp")
    )
    assert next(model.parameters()).device == CPU
