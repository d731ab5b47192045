"""The generated pages of the reference name all that there is, each with words of its own."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.generate import (
    command_lines,
    groups,
    options,
    plain_records,
    records,
    table_words,
    tables,
)
from docs.generate.option_files import CONF, content_of, head_and_rest
from docs.generate.units_of_names import unit_of
from docs.generate.value_ranges import ranges_of
from kdwatts.artifacts.artifact import make_record
from kdwatts.artifacts.manifest import add_to_manifest, write_manifest, write_status
from kdwatts.config.data import Decontaminate
from kdwatts.config.evaluation import InferenceGrid
from kdwatts.config.machine import Site
from kdwatts.config.paradigm import Response
from kdwatts.config.training import Training
from kdwatts.data.overlap import Tally, TaskText, describe, index_texts
from kdwatts.records.files import read_json, read_jsonl
from kdwatts.telemetry.node_facts import facts_of_this_node
from multirun_analysis.collect.collection import collect
from tests.multirun_analysis.written_runs import write_sweep
from tests.whole_runs import run

REPOSITORY = Path(__file__).parents[2]

ALL_OPTIONS = [option for section in options.sections() for option in options.options_of(section)]

PARSERS = [
    command_lines.report_parser,
    command_lines.choose_parser,
    command_lines.status_parser,
    command_lines.import_parser,
    command_lines.telemetry_parser,
    command_lines.serving_parser,
    command_lines.build_tiny_parser,
    command_lines.gguf_parser,
    command_lines.get_args_parser,
]


def keys_of(tree: Any, above: str) -> Iterator[str]:
    """The dotted names of all values in a file of conf/."""
    for name, value in tree.items():
        below = value[0] if isinstance(value, list) and value else value
        if isinstance(below, dict) and name not in ("rope_scaling", "extra"):
            yield from keys_of(below, f"{above}{name}{'[]' if below is not value else ''}.")
        else:
            yield f"{above}{name}"


# Options and groups.


def test_every_option_says_in_a_sentence_what_it_sets():
    assert len(ALL_OPTIONS) > 180
    assert [one.key for one in ALL_OPTIONS if not re.search(r"\w{2,}.*\.", one.meaning)] == []


def test_every_section_says_in_a_sentence_what_it_is():
    page = options.page()
    for section in options.sections():
        heading = f"{{#{options.anchor_of(section.key) or 'run'}}}\n\n"
        assert page.split(heading)[1].split("\n")[0].endswith("."), section.key


def test_every_key_that_a_file_of_conf_sets_is_an_option_of_the_page():
    known = {one.key for one in ALL_OPTIONS}
    unknown = [
        f"{file.relative_to(CONF)}: {key}"
        for group in groups.groups()
        if group not in ("experiment", "local", "hydra/launcher")
        for file in sorted((CONF / group).glob("*.yaml"))
        for key in keys_of(content_of(f"{group}/{file.name}"), f"{group}.")
        if key not in known and not key.startswith(f"{group}.defaults")
    ]
    assert unknown == []


def test_every_option_can_be_linked_to_and_none_twice():
    page = options.page()
    anchors = [*re.findall(r'<code id="([^"]+)">', page), *re.findall(r"\{#([^}]+)\}", page)]
    assert len(set(anchors)) == len(anchors)
    assert {options.anchor_of(one.key) for one in ALL_OPTIONS} <= set(anchors)
    assert set(re.findall(r"\(#([^)]+)\)", page)) <= set(anchors)


@pytest.mark.parametrize(
    ("settings", "field", "sentence"),
    [
        (Training, "seed", "At least 0."),
        (Training, "learning_rate", "Above 0."),
        (Training, "warmup_ratio", "From 0 to 1."),
        (Training, "precision", "One of `fp32`, `bf16`."),
        (InferenceGrid, "batch_sizes", "At least 1."),
        (InferenceGrid, "min_window_s", "At least 2."),
        (Site, "grid_boundary", "One of `combustion`, `lifecycle`, `unstated`."),
        (Decontaminate, "mode", "One of `off`, `report`, `drop`."),
        (Response, "teacher_temperatures", "Above 0."),
    ],
)
def test_a_range_is_the_one_that_the_class_checks(settings: type, field: str, sentence: str):
    assert ranges_of(settings)[field] == [sentence]


def test_a_choice_that_a_package_may_add_to_says_by_which_entry_points():
    (sentence,) = ranges_of(Response)["divergence"]
    assert sentence.startswith("One of `forward_kl`, ")
    assert sentence.endswith(
        "or a name of an installed package (entry points `kdwatts.divergences`)."
    )


def test_a_default_is_that_of_the_class_and_that_of_the_default_choice():
    defaults = {one.key: one.default for one in ALL_OPTIONS}
    assert defaults["telemetry.idle_s"] == "`0.0`<br>`10.0` with `telemetry=default`"
    assert defaults["training.betas"] == "`[0.9, 0.95]`"
    assert defaults["training.target_tokens"] == "`100000000` with `training=default`"
    assert defaults["training.budget_kj"] == "`null`"
    assert defaults["cluster.gres"] == "`null`<br>`${gpu.gres}` with `conf/config.yaml`"
    assert defaults["data.sources[].weight"] == "set by each option"


def test_every_file_of_conf_is_on_the_page_with_its_first_sentence_and_all_that_it_sets():
    page = groups.page()
    for group, names in groups.groups().items():
        for name in names:
            head, rest = head_and_rest(f"{group}/{name}.yaml")
            words = [line for line in head if not line.startswith("python")]
            assert words and words[-1].endswith((".", "?")), f"{group}/{name}"
            assert f"### {group}={name} " in page
            assert " ".join(words) in page and rest.strip() in page


def test_a_group_says_which_pairs_and_experiments_choose_its_options():
    page = groups.page()
    assert "Default: `training=default`.\n\n`laptop` is chosen by `model=smollm2_135m_to" in page
    assert "`sft` is chosen by `experiment=tiny_teacher`." in page


# Records and tables.


def test_every_field_of_every_record_has_words():
    silent = [
        f"{record.title}: {field.name}"
        for record in records.records()
        for field in record.fields
        if not records.words_of(record, field)
    ]
    assert silent == []


def test_a_record_in_serving_json_that_is_of_a_type_of_its_own_leads_to_what_the_type_holds():
    page = records.page()
    links = set(re.findall(r"\]\(#([\w-]+)\)", page))
    assert {"figure", "percentiles", "engine", "load", "capacity", "quantized"} <= links
    assert [link for link in links if f"{{#{link}}}" not in page] == []


def test_a_unit_is_read_off_the_end_of_a_name():
    found = {name: unit_of(name, "float") for name in ("power_w", "gpu_power_w_mean", "loss")}
    assert found == {"power_w": "W", "gpu_power_w_mean": "W", "loss": None}
    assert unit_of("student_total_j_per_token_least", "float") == "J/token"
    assert unit_of("own_energy_quality", "str") is None
    assert unit_of("j_per_good_request", "Figure") == "J/request"
    assert unit_of("requests_per_s", "Figure") == "requests/s"
    assert unit_of("output_tokens_per_s", "Figure") == "tokens/s"


def test_the_fields_of_status_and_manifest_are_those_that_are_written(tmp_path: Path, configure):
    write_status(tmp_path, state="running", stage="distill", attempt=1)
    assert read_json(tmp_path / "status.json").keys() == plain_records.STATUS.keys()
    write_manifest(tmp_path, configure(), [facts_of_this_node([])], attempt=1, overrides=[])
    add_to_manifest(tmp_path, stopped_by="target_tokens", feature_pairs=[], serving_engine={})
    assert read_json(tmp_path / "manifest.json").keys() == plain_records.MANIFEST.keys()


def test_the_fields_of_an_artifact_are_those_that_are_written():
    identity = ("stage", "key", "parents", "reads", "settings", "code")
    record = make_record(dict.fromkeys(identity), attempts=[], run="run", gpus=[])
    assert record.keys() == plain_records.ARTIFACT.keys()


def test_the_fields_of_the_meter_s_summary_are_those_that_are_written(tmp_path: Path):
    command = ["--out", str(tmp_path), "--", sys.executable, "-c", "pass"]
    code = "import sys; from kdwatts.telemetry.__main__ import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, *command], capture_output=True, check=True)
    assert read_json(tmp_path / "summary.json").keys() == plain_records.SUMMARY.keys()


def test_the_fields_of_a_task_in_contamination_are_those_that_are_written():
    grams = index_texts([TaskText("task", ("one two three four five six seven eight",))], ngram=8)
    found = describe(Tally(), grams, {"other": "it cannot be read"})
    assert found["task"].keys() == found["other"].keys() == plain_records.GRAMS.keys()


def test_the_columns_of_every_table_are_those_that_are_written(tmp_path: Path):
    collected = collect([write_sweep(tmp_path, seeds=1)], tmp_path / "out")
    metrics = {field.name for field in records.records()[0].fields} - {"schema"}
    assert set(collected.runs.columns) == metrics | table_words.RUN_COLUMNS.keys()
    assert not metrics & table_words.RUN_COLUMNS.keys() - {"run"}
    for name, columns in tables.tables().items():
        written = collected.telemetry.of("0-response-tiny") if name == "telemetry" else None
        written = getattr(collected, name) if written is None else written
        known = {column for column, _, _ in columns}
        assert set(written.columns) <= known, name


def test_the_files_of_tables_are_those_of_the_catalogue():
    source = (REPOSITORY / "multirun_analysis/figures/catalogue.py").read_text("utf-8")
    named = set(re.findall(r'"(\w+)": \w+\(', source)) - {"loss_curves-", ""}
    named.add("serving_under_load")  # One for each engine, which their own file names.
    against = {name for name in table_words.EXHIBITS if "_against_" in name and "_kept_" in name}
    against |= {name for name in table_words.EXHIBITS if name.startswith("student_bits_per_byte_")}
    assert len(against) == 6
    assert table_words.EXHIBITS.keys() - against == named


# Command lines.


@pytest.mark.parametrize("parser", PARSERS)
def test_every_option_of_every_command_is_on_the_page(parser):
    page = command_lines.page()
    for action in parser()._actions:
        if isinstance(action, argparse._HelpAction) or not action.option_strings:
            continue
        assert any(f"`{name}" in page for name in action.option_strings), action.option_strings


def test_every_target_of_make_is_on_the_page():
    page = command_lines.page()
    assert "demo" in command_lines.targets()
    assert all(f"| `make {name}` |" in page for name in command_lines.targets())


# The site.


def test_the_pages_are_generated_without_torch():
    script = (
        "import sys; from docs.generate import command_lines, groups, options, records, tables; "
        "[part.page() for part in (command_lines, groups, options, records, tables)]; "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_a_run_leaves_the_files_that_the_page_lists_and_records_have_the_fields_of_theirs(
    tmp_path: Path,
):
    folder = run(
        tmp_path / "run",
        f"store_dir={tmp_path / 'store'}",
        "paradigm=combined",
        "training=smoke",
        "training.heldout_every=4",
        "training.heldout_tokens=2048",
        "eval.inference=null",
        "data.decontaminate.mode=report",
    )
    page = (REPOSITORY / "docs/reference/run_folder.md").read_text("utf-8")
    unlisted = [path.name for path in folder.iterdir() if f"`{path.name}" not in page]
    assert unlisted == []
    train = {key for row in read_jsonl(folder / "train.jsonl") for key in row}
    assert train <= plain_records.TRAIN.keys()
    contamination = read_json(folder / "contamination.json")
    assert contamination.keys() == plain_records.CONTAMINATION.keys()
    (energy,) = (tmp_path / "store").glob("distill/*/student/energy.json")
    assert json.loads(energy.read_text("utf-8")).keys() == plain_records.ENERGY.keys()


def test_every_generated_page_is_in_the_contents_and_in_no_file():
    # As text: the hooks themselves need MkDocs, which only `make docs` installs.
    hooks = (REPOSITORY / "docs/generate/hooks.py").read_text("utf-8")
    paths = re.findall(r'"(reference/\w+\.md)"', hooks)
    contents = (REPOSITORY / "mkdocs.yml").read_text("utf-8")
    assert len(paths) == 5
    assert [path for path in paths if f": {path}\n" not in contents] == []
    assert [path for path in paths if (REPOSITORY / "docs" / path).exists()] == []
