import re
from html import escape
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from multirun_analysis.__main__ import main
from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.quality_kept import ABOVE_TEACHER
from multirun_analysis.importer.known import BENCHMARKS
from multirun_analysis.narrative.answer import answer
from multirun_analysis.narrative.caveats import caveats
from multirun_analysis.report.page import PROFILES, report_html, report_name
from multirun_analysis.report.page_tables import scores_section
from multirun_analysis.statistics.site import site_of


@pytest.fixture(scope="module")
def page(sweep_dir):
    return report_html(collect([sweep_dir]))


class Resources(HTMLParser):
    """Every address that a browser would fetch, and every element by name."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.elements = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]


def test_the_page_loads_nothing_from_outside_itself(page):
    own = page.replace(get_plotlyjs(), "")
    assert set(Resources(own).addresses) == {"#unfinished"}
    assert not re.search(r"https?://|@import|url\(", own)
    assert "default-src 'none'" in own and "connect-src" not in own
    assert page.count(get_plotlyjs()) == 1


def test_the_first_screen_answers_which_student_at_what_energy_how_sure(sweep_dir):
    found = answer(collect([sweep_dir]).runs)
    assert re.match(
        r"Combined keeps 9\d\.\d % \(9\d\.\d to \d+\.\d %\) of its teacher's accuracy above "
        r"chance for \d+ kJ",
        found.headline,
    )
    assert "%), 95 % over 2 seeds; the runner-up, " in found.sureness[0]
    assert found.sureness[1].startswith("Energy is measured, ± 4.8 % (one sigma)")
    assert found.warning is None
    assert [highlight.student for highlight in found.highlights] == ["combined", "sft", "combined"]


def test_a_single_seed_is_said_to_settle_nothing(make, tmp_path):
    make.run(tmp_path / "0", student_key="a", om_perf=0.95)
    make.run(tmp_path / "1", student_key="b", paradigm="sft", om_perf=0.90)
    found = answer(collect([tmp_path]).runs)
    assert "from a single seed" in found.sureness[0]
    assert "One seed cannot tell" in found.sureness[0]


def test_seeds_apart_settle_the_first_place_and_seeds_together_do_not(make, tmp_path):
    for seed in range(3):
        for name, value in (("response", 0.95), ("sft", 0.90), ("feature", 0.948)):
            # What one seed does to response it undoes to feature: their order is chance.
            moved = (seed - 1) / 100 * {"feature": -1, "response": 1, "sft": 0}[name]
            changes = {"paradigm": name, "om_perf": value + moved, "seed": seed}
            make.run(tmp_path / f"{name}{seed}", student_key=f"{name}{seed}", **changes)
    runs = collect([tmp_path]).runs
    sure = answer(runs).sureness[0]
    assert "It cannot be told apart from feature: what differs is within noise." in sure
    runs = runs[runs["paradigm"] != "feature"]
    assert "the first place holds" in answer(runs).sureness[0]


def test_estimated_energy_is_called_an_estimate_on_the_first_screen(make, tmp_path):
    changes = {"own_energy_quality": "estimated", "inherited_energy_quality": "estimated"}
    make.run(tmp_path / "0", gpu_energy_j=None, **changes)
    collected = collect([tmp_path])
    found = answer(collected.runs)
    assert "they are no measurement" in found.warning
    assert found.sureness[1].startswith("Energy is estimated")
    assert "1 of 1 estimated" in dict(caveats(collected))["How energy was obtained"]
    assert 'class="warn"' in report_html(collected)


def test_measured_students_are_ranked_without_the_estimated_ones(make, tmp_path):
    make.run(tmp_path / "0", student_key="a", om_perf=0.80)
    changes = {"own_energy_quality": "estimated", "inherited_energy_quality": "estimated"}
    make.run(tmp_path / "1", student_key="b", paradigm="sft", om_perf=0.99, **changes)
    found = answer(collect([tmp_path]).runs)
    assert found.headline.startswith("Response")
    assert "Left out of this ranking, as their energy is not measured: 1." in found.sureness


def test_without_benchmarks_held_out_text_decides_and_lower_wins(make, tmp_path):
    make.run(tmp_path / "0", student_key="a", om_perf=None, student_bits_per_byte=1.2)
    changes = {"paradigm": "sft", "om_perf": None, "student_bits_per_byte": 1.1}
    make.run(tmp_path / "1", student_key="b", **changes)
    assert answer(collect([tmp_path]).runs).headline.startswith("Sft predicts held-out text best")


def test_a_page_about_no_finished_run_says_so_and_lists_reasons(make, tmp_path):
    make.run(tmp_path / "0", metrics=None, state={"schema": 1, "state": "failed", "error": "boom"})
    text = report_html(collect([tmp_path]))
    assert "No run has finished yet." in text
    assert "boom" in text


def test_failed_and_unfinished_runs_are_on_the_page_with_their_reasons(page):
    for reason in (
        "CUDA error: device lost",
        "still running, or killed",
        "not resumed",
        "not JSON",
    ):
        assert reason in page


def test_text_from_run_folders_cannot_become_html(make, tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    error = {"schema": 1, "state": "failed", "error": evil, "stage": evil, "time_utc": evil}
    make.run(tmp_path / "0", paradigm=evil, model=evil, site=evil, gpu_name=evil, student_key="a")
    make.run(tmp_path / "1", metrics=None, state=error)
    own = report_html(collect([tmp_path])).replace(get_plotlyjs(), "")
    assert "<img" not in own and "<script>alert" not in own
    assert "&lt;img src=x onerror=alert(1)&gt;" in own
    assert "img" not in Resources(own).elements


def test_caveats_name_gpu_host_versions_coverage_and_what_is_not_counted(sweep_dir):
    found = dict(caveats(collect([sweep_dir])))
    assert found["Hardware"] == "node7, 1 x NVIDIA H100 80GB HBM3, driver 575.57."
    assert found["Software"].startswith(
        "Commit 4169609aa1b2 with uncommitted changes. kdwatts 0.1.0, torch 2.8.0."
    )
    assert "at least 99.8 %" in found["Uncertainty and coverage"]
    assert "DRAM in 10 of 10" in found["What is not counted"]
    assert "arc_easy (acc, 0-shot, 2376 samples, lm_eval 0.4.13)" in found["Accuracy"]
    assert "5 of 5 settings have fewer than 3 seeds" in found["Seeds"]


def test_a_component_without_a_figure_is_told_with_its_reason_and_no_host_is_published(
    make, tmp_path
):
    folder = make.run(tmp_path / "0", own_net_energy_j=None)
    why = "no RAPL dram zone under /sys/class/powercap"
    make.append(
        folder / "stages.jsonl", [make.stage("distill", reason={"dram": why, "gpu": "reset"})]
    )
    collected = collect([tmp_path])
    assert list(collected.stages["dram_reason"]) == [why]
    found = dict(caveats(collected, name_hosts=False))
    assert f"DRAM in 1 of 1 ({why})." in found["What is not counted"]
    assert (
        "In 1 of 1 stages some reading was refused or doubted" in found["Uncertainty and coverage"]
    )
    assert found["Hardware"] == "1 x NVIDIA H100 80GB HBM3, driver 575.57."
    # The fixture's run inherits shards of 10 kJ and signals of 90 kJ, and has no stage of either.
    assert found["Inherited work"].endswith(
        " 2 artifacts of 100 kJ in all, such as a teacher's training, are in no figure of stages: "
        "no stage of these runs made them."
    )
    assert found["Idle power"].endswith("before none of these runs, so nothing here is net.")


def test_the_command_prints_a_table_and_the_paths_it_wrote(make, tmp_path, capsys):
    make.run(tmp_path / "0-response")
    make.run(tmp_path / "1-response", metrics=None)
    assert main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "run",
        "paradigm",
        "seed",
        "own",
        "energy",
        "accuracy",
        "kept",
        "OM_perf",
        "bits/byte",
        "state",
    ]
    assert "400 ± 20 kJ measured" in lines[1] and "0.950 ± 0.008" in lines[1]
    assert lines[3].startswith("1-response: ")
    written = [tmp_path / "analysis" / name for name in ("runs.parquet", "runs.csv", "report.html")]
    assert lines[-3:] == [str(path) for path in written]
    assert all(path.is_file() for path in written)


def test_a_second_analysis_does_not_take_its_own_folder_for_a_run(make, tmp_path, capsys):
    make.run(tmp_path / "0-response")
    assert main([str(tmp_path)]) == main([str(tmp_path)]) == 0
    assert len(collect([tmp_path]).runs) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "no such directory"),
        (["."], "no run folder"),
        ([".", "absent"], "no --out"),
    ],
)
def test_what_cannot_be_read_ends_with_one_sentence_and_exit_code_2(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1 and not captured.out
    assert not list(tmp_path.iterdir())


def test_a_foreign_schema_ends_with_the_name_of_the_file(make, tmp_path, capsys):
    (make.run(tmp_path / "0") / "status.json").write_text('{"schema": 7}')
    assert main([str(tmp_path)]) == 2
    assert f"{tmp_path / '0' / 'status.json'}: schema is 7" in capsys.readouterr().err


def test_caveats_tell_the_share_of_idle_power_where_it_was_measured(run_in, tmp_path):
    run_in("0-response-tiny", own_energy_j=400e3, own_net_energy_j=300e3)
    run_in("1-sft-tiny", student_key="b", own_net_energy_j=None)
    text = dict(caveats(collect([tmp_path])))["Idle power"]
    assert "For 1 of 2 students" in text
    assert "it is 25 % of their own energy" in text


@pytest.mark.parametrize(
    ("profile", "first"),
    [
        ("research", "Accuracy against energy"),
        ("provider", "A year of"),
        ("esg", "Energy and emis"),
    ],
)
def test_a_profile_orders_the_page_for_its_reader_and_leaves_nothing_out(
    sweep_dir, page, profile, first
):
    text = report_html(collect([sweep_dir]), profile=profile, site=site_of("france"))
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles[0].startswith(first)
    assert set(re.findall("<h2>(.*?)</h2>", page)) <= set(titles)


def test_every_section_has_a_place_in_every_profile():
    own = {"provider": {"provider"}, "esg": {"esg"}}
    every = [set(names) - own.get(profile, set()) for profile, names in PROFILES.items()]
    assert all(names == every[0] for names in every)
    assert all(len(set(names)) == len(names) for names in PROFILES.values())


def test_each_profile_has_a_file_of_its_own(make, tmp_path, capsys):
    make.run(tmp_path / "0")
    for profile in PROFILES:
        assert main([str(tmp_path), "--profile", profile]) == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith(report_name(profile))
    pages = {path.name for path in (tmp_path / "analysis").glob("*.html")}
    assert pages == {"report.html", "report_provider.html", "report_esg.html"}


def test_every_figure_has_its_numbers_below_it_and_in_a_file(sweep_dir, tmp_path):
    assert main([str(sweep_dir), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text().replace(get_plotlyjs(), "")
    named = set(re.findall(r"tables/(\w+)\.csv", text))
    assert len(named) >= text.count('class="panel slot"') - 1  # Devices are in telemetry.parquet.
    assert named <= {path.stem for path in (tmp_path / "tables").glob("*.csv")}


def test_what_is_within_noise_is_called_so(make, tmp_path):
    for seed in range(3):
        for name, kept in (("sft", (0.90, 0.92, 0.91)), ("response", (0.92, 0.90, 0.91))):
            make.run(
                tmp_path / f"{name}{seed}", paradigm=name, om_perf=kept[seed], seed=seed,
                student_key=f"{name}{seed}",
            )  # fmt: skip
    text = report_html(collect([tmp_path]))
    assert '<span class="verdict within-noise">within noise</span>' in text
    assert "More than 50 seeds would settle it, if the true difference is the one observed." in text
    # 400 kJ in each run: nothing to test.
    assert "it cannot be said how many seeds would settle it." in text


def test_what_is_shown_to_be_the_same_is_called_so_with_its_margin(make, tmp_path):
    for seed in range(5):
        for name, kept in (("sft", [0.9] * 5), ("response", (0.9, 0.91, 0.89, 0.9, 0.905))):
            make.run(
                tmp_path / f"{name}{seed}", paradigm=name, om_perf=kept[seed], seed=seed,
                student_key=f"{name}{seed}",
            )  # fmt: skip
    text = report_html(collect([tmp_path]))
    # sd 0.0074, so t = 0.026 sqrt(5) / 0.0074 = 7.9 at 3 %, and 2.4 at 1 %: p 0.037.
    assert '<span class="verdict same">the same within 1 %</span>' in text
    assert "the smallest of 1, 3, 5 and 10 % (of accuracy and bits per byte 1 and 3 %)" in text


def test_a_score_that_is_no_number_is_an_empty_cell():
    run = {"run": "1", "finished": True, "label": "sft", "paradigm": "sft", "om_perf_reason": None}
    run |= {"om_perf": None, "om_perf_stderr": None, "accuracy_kept": None, "group": "sft"}
    run |= {"duplicate_of": None}
    score = {"run": "1", "task": "gsm8k", "metric": BENCHMARKS["gsm8k"].metric, "stderr": None}
    scores = [
        {**score, "subject": subject, "value": value}
        for subject, value in (("student", None), ("teacher", 0.25))
    ]
    section = scores_section([run], scores)
    assert "<td>-<small>teacher 0.250</small></td>" in section


def test_a_score_above_the_teachers_is_marked_with_its_ratio(imported_dir):
    text = report_html(collect([imported_dir]))
    # bbh: 0.657 and 0.662 beside the teacher's 0.358, paradigms in the order of legends.
    assert re.findall('class="above">(.*?)<', text) == [
        "teacher 0.358, 1.85 times it", "teacher 0.358, 1.83 times it",
    ]  # fmt: skip
    assert escape(ABOVE_TEACHER, quote=False) in text


def test_the_page_says_in_words_why_the_feature_run_was_expensive(imported_dir):
    text = report_html(collect([imported_dir]))
    assert "its GPUs ran a kernel 33 % of the time, and 56 % of its energy" in text


@pytest.mark.parametrize("number", ["0", "-1", "nan", "inf"])
def test_tokens_a_day_are_above_0(make, tmp_path, capsys, number):
    make.run(tmp_path / "0")
    assert main([str(tmp_path), f"--tokens-per-day={number}"]) == 2
    assert "give a number above 0" in capsys.readouterr().err
    assert not (tmp_path / "analysis").exists()
