"""What the plan suggests composes, keeps the optimizer's steps, and fits."""

import pytest

from kdwatts.cli.preflight import compose
from kdwatts.config.checks import to_config
from kdwatts.memory.budget import estimate
from kdwatts.planning.demands import available_gib, is_allowed, workload_of
from kdwatts.planning.suggest import FILLED, suggest
from kdwatts.runtime.paths import conf_dir
from kdwatts.runtime.ranks import Launch

PAIRS = ("qwen25_7b_to_1b5", "llama31_8b_to_1b", "llama31_70b_to_8b")


def config_of(*overrides):
    return to_config(compose(overrides))


@pytest.mark.parametrize("gpu", ["h100", "a100_40", "rtx4090"])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("paradigm", ["sft", "response", "feature", "relational"])
def test_a_suggestion_composes_keeps_the_steps_and_fits(pair, gpu, paradigm):
    asked = [f"model={pair}", f"gpu={gpu}", f"paradigm={paradigm}"]
    config = config_of(*asked)
    found = suggest(config)
    if found is None:
        return
    cut = config_of(*asked, *found.overrides)
    assert is_allowed(cut, Launch(1, found.ranks))
    for one in (config, cut):
        rows = one.training.micro_batch * one.training.accumulation
        assert rows == 32
    assert cut.training.accumulation % found.ranks == 0
    assert estimate(workload_of(cut), Launch(1, found.ranks)).total_gib <= FILLED * available_gib(
        config
    )


def test_one_gpu_without_recomputation_comes_first():
    found = suggest(config_of("model=qwen25_7b_to_1b5", "gpu=h100"))
    assert found is not None
    assert (found.ranks, found.gradient_checkpointing) == (1, False)


def test_a_student_too_large_for_one_gpu_is_cut_over_several():
    found = suggest(config_of("model=llama31_70b_to_8b", "gpu=h100", "paradigm=sft", "eval=none"))
    assert found is not None
    # 8.03 billion parameters in sixteen bytes are 120 GiB.
    assert found.ranks > 1 and "training.parallel=fsdp" in found.overrides


def test_a_gpu_without_a_figure_has_no_suggestion():
    assert suggest(config_of("model=tiny", "gpu=cpu")) is None


def test_groups_of_sequences_stay_whole_on_one_gpu_or_over_the_ranks():
    found = suggest(config_of("model=llama31_8b_to_1b", "gpu=a100_40", "paradigm=relational"))
    assert found is not None
    assert (found.ranks * found.micro_batch) % 8 == 0


def test_a_student_that_writes_is_whole_on_every_rank():
    found = suggest(config_of("model=qwen25_7b_to_3b", "gpu=a100_80", "paradigm=on_policy"))
    assert found is None or "training.parallel=fsdp" not in found.overrides


def test_every_shipped_gpu_has_a_memory_to_fill():
    names = {path.stem for path in (conf_dir() / "gpu").glob("*.yaml")} - {"auto", "cpu"}
    assert all(config_of(f"gpu={name}").gpu.memory_gib for name in names)
