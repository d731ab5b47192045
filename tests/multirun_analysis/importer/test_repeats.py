"""Sixteen folders as a study leaves them: repeats of one method are one setting, said once."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest

from kdwatts.records.files import read_json
from kdwatts.records.run_metrics import Metrics
from multirun_analysis.__main__ import main
from multirun_analysis.collect.collection import collect
from multirun_analysis.importer.repeats import Repeat, repeat_of, repeats_by_pattern
from multirun_analysis.narrative.caveats import caveat_passages, caveats
from multirun_analysis.report.page import exhibits_of, report_html
from multirun_analysis.report.readme_page import readme_text
from multirun_analysis.statistics.comparisons import against_baseline, every_pair
from multirun_analysis.statistics.seeds import draws_of, over_seeds
from multirun_analysis.values.rows import distinct_students, grouped, to_rows
from tests.multirun_analysis.page_words import own_html

NUM_SAMPLES = 40
"""Of a recorded trace: enough for its counter to be held against its power."""

TREE = {
    "feature_{}": ("feature_1", 5),
    "relation_{}": ("relation_1", 3),
    "RESPONSE/MODEL {}": ("response_1", 4),
    "more/sft {}": ("response_1", 2),
    "combined/run{}": ("relation_1", 2),
}
"""Folders to the recorded run that they are copies of, and how many."""


def copy_run(recorded: Path, folder: Path, *, scale: float) -> None:
    """A recorded run cut to its first samples, with power and counter times `scale`."""
    folder.mkdir(parents=True)
    with gzip.open(recorded / "telemetry.jsonl.gz", "rt") as file:
        samples = [json.loads(next(file)) for _ in range(NUM_SAMPLES)]
    for gpu in (gpu for sample in samples for gpu in sample["gpus"]):
        gpu["power_watts"] *= scale
        gpu["energy_mJ"] *= scale
    lines = "".join(json.dumps(sample) + "\n" for sample in samples)
    (folder / "telemetry.jsonl").write_text(lines)
    for name in ("eval.json.gz", "ept.json"):
        shutil.copy(recorded / name, folder / name)


@pytest.fixture(scope="module")
def study_dir(foreign, tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    for method, (pattern, (recorded, count)) in enumerate(TREE.items()):
        for i in range(1, count + 1):
            scale = 1 + method + i / 100  # No two are one student.
            copy_run(foreign.h100_dir / recorded, root / pattern.format(i), scale=scale)
    shutil.copytree(foreign.h100_dir / "teacher", root / "teacher")
    return root


@pytest.fixture(scope="module")
def study(study_dir, tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("imported")
    assert main(["import", str(study_dir), "--out", str(out_dir)]) == 0
    return collect([out_dir])


def test_sixteen_folders_are_five_settings_with_a_mean_and_an_interval_each(study):
    runs = distinct_students(study.runs)
    assert len(runs) == 16
    counts = {label: len(rows) for label, rows in grouped(runs, "group_label").items()}
    assert counts == {
        "feature · imported": 5,
        "relation · imported": 3,
        "RESPONSE/MODEL · imported": 4,
        "more/sft · imported": 2,
        "combined/run · imported": 2,
    }
    means = over_seeds(runs, "own_energy_j")
    assert sorted(mean.degrees + 1 for mean in means.values()) == [2, 2, 3, 4, 5]
    feature = means[next(run["group"] for run in runs if run["run"] == "feature_1")]
    joules = [run["own_energy_j"] for run in runs if run["paradigm"] == "feature"]
    assert feature.value == pytest.approx(sum(joules) / 5)
    # Copies 1 to 5 draw 1.01 to 1.05 times the first: sd 0.01581 of it, and t[4] is 2.776.
    base = joules[0] / 1.01
    assert feature.half_width == pytest.approx(2.776 * 0.015811 / 5**0.5 * base, rel=1e-3)


def test_labels_are_folder_names_and_no_hashes(study):
    labels = set(study.runs["label"])
    assert {"feature_3 · imported", "RESPONSE/MODEL 2 · imported", "more/sft 1 · imported"} < labels
    assert not [label for label in labels if re.search(r"[0-9a-f]{8}", label)]


def test_a_caveat_of_sixteen_runs_is_said_once_and_unfolds_to_them(study):
    parts = dict(caveat_passages(study))["Imported runs"]
    (rescaled,) = [part for part in parts if "rescaled by 0.001" in str(part)]
    assert len(rescaled.names) == 16
    text = dict(caveats(study))["Imported runs"]
    assert text.count("rescaled by 0.001: 16 runs (") == 1
    assert text.count("Slimming-Models-Saving-Watts telemetry: 16 runs (") == 1
    assert "feature (5)" in text and "RESPONSE/MODEL (4)" in text
    page = own_html(report_html(study))
    assert page.count("rescaled by 0.001: 16 runs</summary>") == 1
    assert page.count("Slimming-Models-Saving-Watts telemetry: 16 runs</summary>") == 1
    assert page.count("not measured)") == 1 and page.count("reported without a trace") == 1


def test_means_over_repeats_are_not_called_means_over_seeds(study):
    page = own_html(report_html(study))
    shown = exhibits_of(study)
    text = readme_text(study, shown, arguments="DIR")
    for words in (page, text, *(exhibit.note for exhibit in shown.values())):
        assert not re.search(r"(over|one|few|fewer than 3|of) (\d+ )?seeds?\b", words)
        assert "seeds it is narrower" not in words
    assert "means over repeats, with" in shown["idle_and_wait"].note
    assert "Numbers are means over repeats with 95 % intervals" in text and "| Repeats |" in text


def test_where_seeds_and_repeats_are_both_shown_both_are_named(study):
    students = distinct_students(study.runs)
    ours = [run | {"group": "ours", "repeat": None, "seed": i} for i, run in enumerate(students)]
    assert draws_of(students) == "repeats"
    assert draws_of(ours) == "seeds"
    assert draws_of([*students, *ours]) == "seeds or repeats"
    # A mean over one run is none.
    assert draws_of([*students, ours[0]]) == "repeats"


def test_repeats_of_two_methods_are_never_compared_in_pairs(study):
    assert against_baseline(study.runs) == every_pair(study.runs) == []


def test_the_record_says_setting_and_repeat_and_the_seed_stays_unknown(study):
    folder = next(Path(run["folder"]) for run in to_rows(study.runs)
                  if run["label"].startswith("RESPONSE/MODEL 2"))  # fmt: skip
    found = Metrics(**read_json(folder / "metrics.json"))
    assert found.own_energy_shared_sd_j and found.own_energy_random_sd_j is not None
    assert (found.setting_name, found.repeat, found.seed) == ("RESPONSE/MODEL", "2", None)


def test_the_five_students_at_chance_are_marked_and_no_other(study):
    # MMLU of the recorded feature student is 0.2465 ± 0.0036, of the others 0.63 and more.
    at_chance = {run["label"]: json.loads(run["student_at_chance"]) for run in to_rows(study.runs)}
    marked = {label: tasks for label, tasks in at_chance.items() if "mmlu" in tasks}
    assert set(marked) == {f"feature_{i} · imported" for i in range(1, 6)}
    page = own_html(report_html(study))
    assert page.count('0.247 ± 0.004 <a class="sign" href="#sign-chance">') == 5
    assert "mmlu (5 of 16 students)" in dict(caveats(study))["Accuracy"]


@pytest.mark.parametrize(
    ("name", "setting", "repeat"),
    [
        ("feature_1", "feature", "1"),
        ("RESPONSE/MODEL 5", "RESPONSE/MODEL", "5"),
        ("RESPONSE/2", "RESPONSE", "2"),
        ("runs/run12", "runs/run", "12"),
        ("feature3", "feature", "3"),
        ("feature", "feature", None),
        ("7", "7", None),  # Numbers alone say of no method that they are its.
        ("qwen2", "qwen2", None),
        ("llama-3.1", "llama-3.1", None),
        ("lr_1e-4", "lr_1e-4", None),
        ("alpha_0.5", "alpha_0.5", None),
        ("feature_seed3", "feature", None),
        ("RESPONSE/seed_3/deep/MODEL 1", "RESPONSE/deep/MODEL", "1"),
    ],
)
def test_the_number_at_the_end_of_a_folders_name_tells_repeats_and_no_other_number(
    name, setting, repeat
):
    assert repeat_of(name) == Repeat(setting, repeat)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"try([a-z])", Repeat("feature/try/llama", "a")),
        (r"_?try[a-z]", Repeat("feature/llama", "trya")),
    ],
)
def test_a_pattern_says_what_differs_by_its_group_or_as_a_whole(pattern, expected):
    found = repeats_by_pattern(["feature/trya/llama", "other_1"], pattern)
    assert found["feature/trya/llama"] == expected
    # The rule for numbers is not asked any more.
    assert found["other_1"] == Repeat("other_1", None)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "--repeat-pattern '(': no regular expression ("),
        ("(a)(b)", "has 2 groups, and one may say what differs"),
        ("try", "matches none of 16 folders, such as "),
    ],
)
def test_a_pattern_that_tells_nothing_is_refused_in_one_sentence(
    study_dir, tmp_path, capsys, pattern, message
):
    asked = ["import", str(study_dir), "--out", str(tmp_path / "out")]
    assert main([*asked, "--repeat-pattern", pattern]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert message in said
    assert not (tmp_path / "out").exists()


def test_another_pattern_is_another_import_and_an_older_importer_is_named(
    foreign, tmp_path, capsys
):
    foreign.run(tmp_path / "in" / "sft_1")
    asked = ["import", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(asked) == 0
    assert main([*asked, "--repeat-pattern", "sft"]) == 2
    assert "was imported with other repeats" in capsys.readouterr().err
    path = tmp_path / "out" / "sft_1" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["import"]["version"] = 1
    path.write_text(json.dumps(manifest))
    assert main(asked) == 2
    assert "was imported by another version of this importer" in capsys.readouterr().err


def test_older_imports_are_read_and_called_by_their_folders(foreign, tmp_path):
    """Records of before `repeat`: runs that only a number tells apart are settings of their own."""
    for i in (1, 2):
        foreign.run(tmp_path / "in" / f"sft_{i}", powers_w=(100.0 * i,))
    assert main(["import", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    for path in (tmp_path / "out").glob("*/metrics.json"):
        record = json.loads(path.read_text())
        del record["setting_name"], record["repeat"]
        path.write_text(json.dumps(record))
    runs = collect([tmp_path / "out"]).runs
    assert list(runs["group_label"]) == ["sft_1 · imported", "sft_2 · imported"]


def test_one_folder_imported_from_two_places_is_two_settings_called_by_their_paths(
    foreign, tmp_path
):
    for place, watts in (("a", 100.0), ("b", 300.0)):
        for i in (1, 2):
            foreign.run(tmp_path / place / f"sft_{i}", powers_w=(watts + i,))
        out_dir = tmp_path / "out" / place
        assert main(["import", str(tmp_path / place), "--out", str(out_dir)]) == 0
    runs = collect([tmp_path / "out"]).runs
    assert list(runs["label"]) == [
        "a/sft_1 · imported", "a/sft_2 · imported", "b/sft_1 · imported", "b/sft_2 · imported"
    ]  # fmt: skip
    assert set(runs["group_label"]) == {"a/sft · imported", "b/sft · imported"}
