import numpy as np
import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.devices_over_time import MAX_POINTS, devices_over_time
from tests.multirun_analysis.written_nodes import BUSY_W, IDLE_W, node_ticks, write_nodes_run
from tests.multirun_analysis.written_runs import append_all


@pytest.fixture(scope="module")
def imported(imported_dir):
    return collect([imported_dir])


def ticks_of(collected, run):
    return collected.telemetry.of(run)


def panels(fig):
    """Title of each panel to the names of the devices in it."""
    found = {}
    for trace in fig.data:
        if trace.type == "scatter":
            axis = fig.layout[f"yaxis{trace.yaxis[1:]}"]
            found.setdefault(axis.title.text, []).append(trace.name)
    return found


def test_devices_share_the_time_axis_and_are_in_the_panels_they_have_columns_for(imported):
    fig = devices_over_time(
        ticks_of(imported, "feature_1"), imported.stages, run="feature_1"
    ).figure
    gpus = [f"gpu {i}" for i in range(4)]
    assert panels(fig) == {
        "Power, W": gpus,
        "Util., %": [*gpus, "host"],
        "Temp., °C": gpus,
        "Energy, kJ": gpus,
    }
    assert all(t.meta == {"run": "feature_1"} for t in fig.data if t.type == "scatter")
    matched = {fig.layout[name].matches for name in ("xaxis", "xaxis2", "xaxis3", "xaxis4")}
    assert matched == {"x5"}


def test_joules_so_far_end_at_the_energy_of_the_run(imported):
    runs = imported.runs.set_index("run")
    for name in runs.index:
        ticks = ticks_of(imported, name)
        table = devices_over_time(ticks, imported.stages, run=name).table
        last = table.dropna(subset=["energy_j"]).groupby("device_index")["energy_j"].last()
        assert last.sum() == pytest.approx(runs.loc[name, "own_energy_j"])
        fig = devices_over_time(ticks, imported.stages, run=name).figure
        drawn = [t.y[-1] for t in fig.data if t.yaxis == "y4"]
        assert sum(drawn) * 1000 == pytest.approx(last.sum(), rel=1e-6)


def test_a_panel_has_no_more_points_than_its_limit_and_joules_never_fall(imported):
    ticks = ticks_of(imported, "feature_1")
    fig = devices_over_time(ticks, imported.stages, run="feature_1").figure
    energies = [t for t in fig.data if t.yaxis == "y4"]
    assert sum(len(t.y) for t in energies) <= MAX_POINTS < len(ticks)
    assert all((np.diff(t.y) >= 0).all() for t in energies)
    assert all(t.y.dtype == np.float32 for t in energies)


def test_attempts_follow_one_another_in_time_and_in_joules(make, tmp_path):
    folder = make.run(tmp_path / "0")
    common = {"window": "run/distill", "device_kind": "gpu", "device_index": 0, "schema": 1}
    common |= {"time_utc": "", "method": "nvml_counter"}
    ticks = [(1, 1000, 70.0), (1, 1001, 170.0), (2, 5, 9000.0), (2, 6, 9050.0)]
    rows = [common | {"attempt": a, "monotonic_s": float(s), "energy_counter_j": j}
            for a, s, j in ticks]  # fmt: skip
    make.append(folder / "telemetry.jsonl", rows)
    found = collect([tmp_path])
    table = devices_over_time(found.telemetry.of("0"), found.stages, run="0").table
    assert list(table["active_s"]) == [0, 1, 1, 2]
    assert list(table["energy_j"]) == [0, 100, 100, 150]


def test_an_estimated_device_is_dotted_and_says_so(make, tmp_path):
    folder = make.run(tmp_path / "0")
    row = {"window": "run/distill", "device_kind": "cpu", "device_index": None, "schema": 1}
    row |= {"time_utc": "", "attempt": 1, "method": "tdp_model", "power_w": 15.0}
    make.append(folder / "telemetry.jsonl", [row | {"monotonic_s": float(s)} for s in range(3)])
    found = collect([tmp_path])
    fig = devices_over_time(found.telemetry.of("0"), found.stages, run="0").figure
    assert panels(fig) == {
        "Power, W": ["cpu (estimated from TDP)"],
        "Energy, J": ["cpu (estimated from TDP)"],
    }
    assert {t.line.dash for t in fig.data} == {"dot"}
    assert [t.showlegend for t in fig.data] == [True, False]


def test_stages_are_bands_behind_every_panel(imported):
    fig = devices_over_time(
        ticks_of(imported, "feature_1"), imported.stages, run="feature_1"
    ).figure
    assert len(fig.layout.shapes) == 4
    (strip,) = [t for t in fig.data if t.type == "bar"]
    assert list(strip.customdata) == ["feature_1"]


def test_a_run_without_ticks_is_an_empty_figure(make, tmp_path):
    make.run(tmp_path / "0", metrics=None)
    found = collect([tmp_path])
    assert not devices_over_time(found.telemetry.of("0"), found.stages, run="0").figure.data


def test_power_of_a_long_run_is_thinned_without_changing_its_energy(sweep_dir):
    collected = collect([sweep_dir])
    ticks = collected.telemetry.of("2-response-tiny")
    fig = devices_over_time(ticks, collected.stages, run="2-response-tiny").figure
    curve = next(trace for trace in fig.data if trace.name == "gpu 0" and trace.yaxis == "y")
    assert len(curve.y) <= 1200
    assert sum(curve.y) / len(curve.y) == pytest.approx(ticks["power_w"].mean(), rel=0.02)


def test_attempts_follow_one_another_without_the_wait_between_them(make, tmp_path):
    folder = make.run(tmp_path / "0")
    make.append(
        folder / "stages.jsonl",
        [
            make.stage("distill", start_s=1000, duration_s=50, outcome="preempted"),
            make.stage("distill", start_s=90, duration_s=30, attempt=2),
        ],
    )
    collected = collect([tmp_path])
    fig = devices_over_time(collected.telemetry.of("0"), collected.stages, run="0").figure
    assert list(fig.data[0].base) == [0, 50]
    assert list(fig.data[0].x) == [50, 30]


def test_gpu_0_of_two_nodes_is_two_curves_with_their_hosts_on_one_axis(tmp_path):
    write_nodes_run(tmp_path / "0")
    found = collect([tmp_path])
    exhibit = devices_over_time(found.telemetry.of("0"), found.stages, run="0")
    gpus = [f"gpu {index} · {host}" for host in ("n1", "n2") for index in (0, 1)]
    hosts = ["host · n1", "host · n2"]
    assert {name: sorted(devices) for name, devices in panels(exhibit.figure).items()} == {
        "Power, W": sorted(gpus),
        "Util., %": sorted([*gpus, *hosts]),
        "Temp., °C": sorted(gpus),
        "Energy, kJ": sorted(gpus),
    }
    # The clocks lie a thousand seconds apart; the run took 150 s.
    assert exhibit.table["active_s"].max() == 149
    spans = [t for t in exhibit.figure.data if t.type == "bar"]
    assert [list(span.base) for span in spans] == [[0], [20], [120]]
    power = {t.name: t for t in exhibit.figure.data if t.type == "scatter" and t.yaxis == "y"}
    assert power[gpus[2]].y[5] == IDLE_W and power[gpus[0]].y[5] == BUSY_W
    colors = {name.partition(" · ")[2]: trace.line.color for name, trace in power.items()}
    assert len(set(colors.values())) == 2
    assert all("n2" in power[name].hovertemplate for name in gpus[2:])
    last = exhibit.table.dropna(subset=["energy_j"]).groupby(["host", "device_index"])["energy_j"]
    assert (
        last.last().tolist() == [BUSY_W * 149] * 2 + [IDLE_W * 19 + BUSY_W * 100 + IDLE_W * 30] * 2
    )


def test_a_node_whose_attempts_had_two_hosts_is_one_curve_with_its_number(tmp_path):
    folder = write_nodes_run(tmp_path / "0")
    rows = [vars(row) | {"host": "n7"} for row in node_ticks(2, attempt=2)]
    append_all(folder / "telemetry.n2.jsonl", rows)
    found = collect([tmp_path])
    fig = devices_over_time(found.telemetry.of("0"), found.stages, run="0").figure
    assert panels(fig)["Power, W"] == [
        "gpu 0 · n1", "gpu 1 · n1", "gpu 0 · node 2", "gpu 1 · node 2",
    ]  # fmt: skip


def test_a_run_on_one_node_names_no_host(tmp_path):
    write_nodes_run(tmp_path / "0", num_nodes=1)
    found = collect([tmp_path])
    fig = devices_over_time(found.telemetry.of("0"), found.stages, run="0").figure
    assert panels(fig)["Util., %"] == ["gpu 0", "gpu 1", "host"]
