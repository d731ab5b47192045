from pathlib import Path

import pytest
import yaml

from multirun_analysis.importer.known import (
    BENCHMARKS,
    GPUS,
    PAIRS,
    PARADIGMS,
    Benchmark,
    paradigm_of,
    seed_of,
)

CONF = Path(__file__).parents[3] / "conf"


def options(group):
    return {path.stem: yaml.safe_load(path.read_text()) for path in CONF.glob(f"{group}/*.yaml")}


def test_benchmarks_have_the_primary_metric_and_chance_of_conf_eval():
    tasks = [task for name in ("paper", "tiny") for task in options("eval")[name]["tasks"]]
    assert {
        task["name"].replace(":", "_"): Benchmark(task["primary_metric"], task.get("chance"))
        for task in tasks
        if task["primary_metric"] != "bits_per_byte"
    } == BENCHMARKS


def test_gpus_have_the_options_of_conf_gpu():
    found = options("gpu").items()
    assert {name: key for key, gpu in found for name in gpu.get("nvml_names") or ()} == GPUS


def test_pairs_of_published_models_have_the_options_of_conf_model():
    found = {
        (pair["teacher"]["path"], pair["student"]["path"]): name
        for name, pair in options("model").items()
        if pair.get("teacher") and "/" in str(pair["student"]["path"])
    }
    assert found == PAIRS


def test_paradigms_are_those_of_conf_paradigm():
    assert set(PARADIGMS.values()) == set(options("paradigm"))


@pytest.mark.parametrize(
    ("name", "paradigm", "seed"),
    [
        ("feature_1", "feature", None),
        ("relation_1", "relational", None),
        ("relational_token_1", "relational_token", None),
        ("On-Policy-seed2", "on_policy", 2),
        ("Response-seed12", "response", 12),
        ("sft_seed_3", "sft", 3),
        ("mystery_2", None, None),
        ("7", None, None),
    ],
)
def test_a_folders_name_says_the_paradigm_and_a_seed_only_where_it_is_called_so(
    name, paradigm, seed
):
    assert (paradigm_of(name), seed_of(name)) == (paradigm, seed)
