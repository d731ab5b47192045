"""What a reader must know before quoting a number."""

from multirun_analysis.collect.collection import collect
from multirun_analysis.narrative.caveats import caveats
from tests.multirun_analysis.written_nodes import write_nodes_run


def test_caveats_name_gpu_host_versions_coverage_and_what_is_not_counted(sweep):
    found = dict(caveats(sweep))
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
        "In 1 of 1 stages some reading was rejected or doubtful"
        in found["Uncertainty and coverage"]
    )
    assert found["Hardware"] == "1 x NVIDIA H100 80GB HBM3, driver 575.57."
    # The fixture's run inherits shards of 10 kJ and signals of 90 kJ, and has no stage of either.
    assert found["Inherited work"].endswith(
        " 2 artifacts (100 kJ in all) were made before these runs, for example by a teacher's "
        "training. The figure of stages does not show them."
    )
    assert found["Idle power"].endswith("before any of these runs, so nothing here is net.")


def test_an_estimate_is_said_to_lack_idle_power_and_a_measurement_is_not(run_in, tmp_path):
    run_in("0-response-tiny")
    lacking = "An estimate follows CPU time, so idle power is not in it."
    assert lacking not in dict(caveats(collect([tmp_path])))["Idle power"]
    run_in("1-sft-tiny", student_key="b", own_energy_quality="estimated")
    assert lacking in dict(caveats(collect([tmp_path])))["Idle power"]


def test_caveats_tell_the_share_of_idle_power_where_it_was_measured(run_in, tmp_path):
    run_in("0-response-tiny", own_energy_j=400e3, own_net_energy_j=300e3)
    run_in("1-sft-tiny", student_key="b", own_net_energy_j=None)
    text = dict(caveats(collect([tmp_path])))["Idle power"]
    assert "before the run for 1 of 2 students." in text
    assert "It is 25 % of their own energy." in text


def test_hardware_counts_nodes_and_the_gpus_of_all_of_them(tmp_path):
    write_nodes_run(tmp_path / "0")
    collected = collect([tmp_path])
    cards = "4 x NVIDIA H100 80GB HBM3, driver 575.57."
    assert dict(caveats(collected))["Hardware"] == f"2 nodes (n1, n2), {cards}"
    assert dict(caveats(collected, name_hosts=False))["Hardware"] == f"2 nodes, {cards}"
