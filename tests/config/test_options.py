"""The menu: every option file composes, is what its name says, and yields to the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from kdwatts.cli.preflight import VERSION_BASE, compose, preflight
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config, to_dict
from kdwatts.config.machine import Cluster, Gpu
from kdwatts.planning.fits import check_memory
from kdwatts.runtime.fingerprint import fingerprint
from kdwatts.runtime.paths import conf_dir
from kdwatts.stages.graph import plan

GROUPS = ("paradigm", "model", "data", "gpu", "training", "eval", "telemetry", "site")


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


OPTIONS = [(group, option) for group in GROUPS for option in _options(group)]


def test_the_groups_of_the_menu_are_those_of_the_schema():
    folders = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    assert folders - {"hydra", "experiment", "local"} == set(GROUPS)
    sections = {"until", "store_dir", "cluster", "launch", "store"}
    assert set(GROUPS) == set(vars(Config())) - sections


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=[f"{g}={o}" for g, o in OPTIONS])
def test_every_option_composes_and_bears_the_name_of_its_file(group: str, option: str):
    # A pair whose context is long enough for every training and evaluation option.
    pair = [] if group == "model" else ["model=llama31_8b_to_1b"]
    teacherless = ["paradigm=sft"] if option == "tiny_teacher" else []
    config = to_config(compose([*pair, *teacherless, f"{group}={option}"]))
    if group not in ("training", "telemetry"):  # Their files hold numbers alone.
        assert getattr(config, group).name == option


@pytest.mark.parametrize("option", _options("experiment"))
def test_every_experiment_composes_and_names_its_own_command(option: str):
    to_config(compose([f"experiment={option}"]))
    first, second, *_ = (conf_dir() / "experiment" / f"{option}.yaml").read_text().splitlines()
    assert first == "# @package _global_"
    assert second.startswith("# python -m kdwatts ")
    assert second.endswith(f"experiment={option}")


@pytest.mark.parametrize(("option", "num_runs"), [("family", 12), ("sizes", 18)])
def test_a_study_of_real_pairs_is_a_sweep_whose_runs_fit_the_gpu_of_its_command(
    option: str, num_runs: int
):
    command = (conf_dir() / "experiment" / f"{option}.yaml").read_text().splitlines()[1]
    words = command.removeprefix("# python -m kdwatts ").replace("-m ", "").split()
    configs = preflight([word for word in words if "launcher" not in word], multirun=True)
    assert len({fingerprint(to_dict(config)) for config in configs}) == num_runs
    for config in configs:
        assert config.gpu.name == "h100"
        check_memory(config)


FILES = sorted(path for path in conf_dir().rglob("*.yaml") if path.parent.name != "local")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_option_file_says_first_what_choosing_it_means(path: Path):
    assert path.read_text().startswith("# ")


def test_the_slurm_launcher_takes_partition_and_gpu_from_the_gpu_option():
    with hydra.initialize_config_dir(str(conf_dir()), **VERSION_BASE):
        tree = hydra.compose(
            "config", overrides=["gpu=a100_80", "hydra/launcher=slurm"], return_hydra_config=True
        )
    launcher = tree.hydra.launcher
    assert (launcher.partition, launcher.gres) == ("a100_80", "gpu:a100_80:1")
    assert launcher.max_num_timeout >= 1  # Submitit's own default never requeues.
    assert launcher.additional_parameters == {"requeue": True}


def test_a_site_s_own_file_fills_all_that_the_launcher_asks_for_and_the_command_line_wins():
    overrides = ["local=example", "hydra/launcher=slurm", "cluster.qos=dev"]
    with hydra.initialize_config_dir(str(conf_dir()), **VERSION_BASE):
        tree = hydra.compose("config", overrides=overrides, return_hydra_config=True)
    asked = {field.name: tree.cluster[field.name] for field in fields(Cluster)}
    assert asked["account"] == "abc@h100" and asked["qos"] == "dev"
    names = {
        "timeout_min": "timeout_min",
        "max_requeues": "max_num_timeout",
        "concurrent": "array_parallelism",
    }
    assert asked.pop("extra") == {"hint": "nomultithread"} and asked.pop("setup") == []
    for name, value in asked.items():
        assert tree.hydra.launcher[names.get(name, name)] == value, name
    assert to_config(compose(["local=example"])).site.name == "france"


def test_a_real_pair_brings_data_and_evaluation_and_the_command_line_still_wins():
    brought = compose(["model=llama31_8b_to_1b"])
    assert (brought.data.name, brought.eval.name) == ("tulu3", "quick")
    assert brought.training.sequence_length == 2048
    for overrides in (["data=dolly", "eval=none"], ["eval=none", "data=dolly"]):
        for order in (
            ["model=llama31_8b_to_1b", *overrides],
            [*overrides, "model=qwen25_7b_to_0b5"],
        ):
            chosen = compose(order)
            assert (chosen.data.name, chosen.eval.name) == ("dolly", "none")


def test_the_tiny_pair_brings_a_training_that_fits_it_and_the_command_line_still_wins():
    assert compose([]).training.target_tokens == 300_000
    assert compose(["training=smoke"]).training.target_tokens == 8_192
    assert compose(["training=smoke", "model=tiny"]).training.target_tokens == 8_192
    assert compose(["training.target_tokens=7"]).training.target_tokens == 7


@pytest.mark.parametrize(
    "option", [name for name in _options("gpu") if name not in ("auto", "cpu")]
)
def test_every_gpu_has_its_figures_their_source_and_where_slurm_finds_it(option: str):
    gpu = OmegaConf.to_object(
        OmegaConf.merge(Gpu, OmegaConf.load(conf_dir() / "gpu" / f"{option}.yaml"))
    )
    assert isinstance(gpu, Gpu)
    assert gpu.device == "cuda"
    assert gpu.nvml_names and gpu.source
    assert (gpu.partition, gpu.gres) == (option, f"gpu:{option}:1")
    # Orders of magnitude of GPUs from 2020 on: a slip of units is a factor of a thousand.
    figures = (gpu.memory_gib, gpu.tdp_w, gpu.bf16_dense_tflops, gpu.memory_bandwidth_gb_s)
    for figure, (low, high) in zip(
        (*figures, gpu.fp32_dense_tflops),
        ((20, 200), (200, 1500), (100, 3000), (500, 10_000), (15, 150)),
        strict=True,
    ):
        assert figure is not None and low < figure < high


def test_no_two_options_claim_one_gpu():
    options: list[Any] = [OmegaConf.load(p) for p in (conf_dir() / "gpu").glob("*.yaml")]
    names = [name for option in options for name in option.get("nvml_names", [])]
    assert len(names) == len(set(names)) >= 9


@pytest.mark.parametrize("option", _options("site"))
def test_a_site_s_figures_have_their_sources(option: str, configure: Callable[..., Any]):
    site = configure(f"site={option}").site
    assert all((site.grid_source, site.pue_source, site.price_source))
    assert 10 < site.grid_gco2e_per_kwh < 1000
    assert 1 < site.pue < 2
    assert 0.02 < site.price_usd_per_kwh < 1


@pytest.mark.parametrize("option", _options("site"))
def test_a_shipped_site_states_what_its_grid_factor_counts_and_of_which_year(
    option: str, configure: Callable[..., Any]
):
    site = configure(f"site={option}").site
    counts = (site.grid_boundary, site.grid_basis, site.grid_kind, site.grid_gases)
    boundary = "combustion" if option == "texas" else "lifecycle"
    assert counts == (boundary, "generation", "average", "co2e")
    assert str(site.grid_year) in site.grid_source
    assert site.grid_release != "unstated"


def test_the_life_cycle_twin_of_texas_is_the_same_building(configure: Callable[..., Any]):
    texas, twin = (configure(f"site={name}").site for name in ("texas", "usa"))
    assert (twin.grid_boundary, twin.grid_gco2e_per_kwh) == ("lifecycle", 384)
    for figure in ("pue", "pue_source", "price_usd_per_kwh", "price_source", "wue_l_per_kwh"):
        assert getattr(twin, figure) == getattr(texas, figure)


def test_a_site_of_one_s_own_may_leave_unstated_what_its_factor_counts(
    configure: Callable[..., Any],
):
    own = ["site.grid_boundary=unstated", "site.grid_year=null", "site.grid_licence=unstated"]
    site = configure("site=france", *own).site
    assert (site.grid_boundary, site.grid_year, site.grid_gases) == ("unstated", None, "co2e")


def test_nothing_of_a_site_is_in_a_key(configure: Callable[..., Any]):
    asked = ("paradigm=response", "model=tiny", "gpu=cpu")
    places = (["site=world"], ["site=texas"], ["site=world", "site.grid_boundary=unstated"])
    keys = [[planned.key for planned in plan(configure(*asked, *place), [])] for place in places]
    assert len(keys[0]) > 4 and keys[0] == keys[1] == keys[2]


def test_a_pair_whose_teacher_has_to_be_made_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"smollm2_135m_to_81m: its .* not made yet, .*; `make smollm2` makes it"
    ):
        preflight(["model=smollm2_135m_to_81m"], multirun=False)
    (planned,) = preflight(["model=smollm2_135m_to_81m", "until=plan"], multirun=False)
    assert (
        planned.model.teacher and planned.model.teacher.path == "runs/models/smollm2-135m-instruct"
    )
