import json
import math
import re

import pytest

from kdwatts.records.files import read_json, read_jsonl
from kdwatts.telemetry.integration import integrate_power_j
from multirun_analysis.__main__ import main
from multirun_analysis.importer.foreign import Source, load
from multirun_analysis.importer.trace import (
    counter_over_samples,
    read_trace,
    telemetry_rows,
    unit_correction,
)


def trace_of(folder):
    source = load(folder, "telemetry.jsonl")
    assert source
    return read_trace(source)


def correction_of(folder):
    trace = trace_of(folder)
    return unit_correction(counter_over_samples(trace), trace.source)


@pytest.mark.parametrize(
    ("run", "energy_kj"), [("feature_1", 513.3), ("relation_1", 416.3), ("response_1", 305.9)]
)
def test_the_real_runs_drew_what_their_counters_say_in_microjoules(imported_dir, run, energy_kj):
    metrics = read_json(imported_dir / run / "metrics.json")
    assert metrics["own_energy_j"] == pytest.approx(energy_kj * 1e3, rel=1e-3)
    assert metrics["unit_correction"] == 1e-3
    assert metrics["own_energy_quality"] == "measured"


@pytest.mark.parametrize("run", ["feature_1", "relation_1", "response_1"])
def test_energy_is_first_to_last_counter_and_close_to_the_area_under_the_power(imported_dir, run):
    rows = [r for r in read_jsonl(imported_dir / run / "telemetry.jsonl")]
    (stage,) = read_jsonl(imported_dir / run / "stages.jsonl")
    devices = [[r for r in rows if r["device_index"] == index] for index in range(4)]
    ends_j = sum(
        device[-1]["energy_counter_j"] - device[0]["energy_counter_j"] for device in devices
    )
    area_j = sum(
        integrate_power_j([r["monotonic_s"] for r in device], [r["power_w"] for r in device])
        for device in devices
    )
    assert stage["energy_j"]["gpu"] == pytest.approx(ends_j, rel=1e-9)
    assert stage["sampled_energy_j"]["gpu"] == pytest.approx(area_j, rel=1e-9)
    assert stage["energy_j"]["gpu"] == pytest.approx(area_j, rel=1.5e-3)
    assert stage["coverage"]["gpu"] == 1


def test_100_w_and_200_w_for_10_s_are_3_kj_and_their_uncertainty_is_150_j(foreign, tmp_path):
    # u^2 = (100^2 + 200^2) 0.1^2 / 6 + (5 % of 3000 J)^2 = 83.3 + 22500.
    foreign.run(tmp_path / "in" / "feature_1")
    assert main(["import", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    metrics = read_json(tmp_path / "out" / "feature_1" / "metrics.json")
    assert metrics["own_energy_j"] == pytest.approx(3000)
    assert metrics["own_energy_uncertainty_j"] == pytest.approx(math.sqrt(22500 + 500 / 6))


@pytest.mark.parametrize(
    ("per_joule", "correction"), [(1e3, None), (1.015e3, None), (1e6, 1e-3), (0.985e6, 1e-3)]
)
def test_a_counter_is_taken_as_it_is_or_a_thousandth_of_it(
    foreign, tmp_path, per_joule, correction
):
    folder = foreign.run(tmp_path / "r", per_joule=per_joule)
    assert correction_of(folder) == correction


@pytest.mark.parametrize("per_joule", [1.03e3, 0.97e3, 1.03e6, 1.0, 2e3, 1e9, 0.0])
def test_any_other_ratio_is_refused_with_what_was_found(foreign, tmp_path, per_joule):
    folder = foreign.run(tmp_path / "r", per_joule=per_joule)
    with pytest.raises(ValueError, match=re.escape(f"{per_joule / 1e3:.4g} times as fast")):
        correction_of(folder)


def test_one_device_in_another_unit_than_the_rest_is_refused(foreign, tmp_path):
    trace = trace_of(foreign.run(tmp_path / "r"))
    with pytest.raises(ValueError, match="some GPUs is in millijoules"):
        unit_correction({0: 1.0, 1: 1000.0}, trace.source)


def test_a_counter_that_starts_anew_is_compared_over_the_other_intervals(foreign, tmp_path):
    folder = foreign.run(tmp_path / "r", powers_w=(100.0,))
    lines = (folder / "telemetry.jsonl").read_text().splitlines()
    for number in range(6, 11):
        record = json.loads(lines[number])
        record["gpus"][0]["energy_mJ"] -= 5e12 - 7
        lines[number] = json.dumps(record)
    (folder / "telemetry.jsonl").write_text("\n".join(lines) + "\n")
    assert counter_over_samples(trace_of(folder)) == {0: pytest.approx(1000)}


def test_a_device_without_a_counter_has_its_power_integrated(foreign, tmp_path):
    folder = foreign.run(tmp_path / "r")
    text = (folder / "telemetry.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        for gpu in line["gpus"]:
            gpu["energy_mJ"] = None
    (folder / "telemetry.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    trace = trace_of(folder)
    assert counter_over_samples(trace) == {0: None, 1: None}
    assert unit_correction({0: None, 1: None}, trace.source) is None
    methods = {r.method for r in telemetry_rows(trace, None) if r.device_kind == "gpu"}
    assert methods == {"nvml_samples"}


def test_a_counter_without_power_beside_it_cannot_be_checked(foreign, tmp_path):
    folder = foreign.run(tmp_path / "r")
    path = folder / "telemetry.jsonl"
    path.write_text(path.read_text().replace('"power_watts": 100.0', '"power_watts": null'))
    with pytest.raises(ValueError, match="gpu 0 has energy_mJ and no power_watts"):
        correction_of(folder)


def test_rows_are_in_our_units_and_in_utc(foreign, tmp_path):
    first, _, host, second, *_ = telemetry_rows(trace_of(foreign.run(tmp_path / "r")), 1e-3)
    assert first.time_utc == "2025-11-14T05:59:00.500+00:00"
    assert (first.monotonic_s, second.monotonic_s) == (0, 1)
    assert second.energy_counter_j - first.energy_counter_j == pytest.approx(100)
    assert (first.power_w, first.util_pct, first.memory_used_gib) == (100, 40, 2)
    assert (host.device_kind, host.util_pct, host.memory_used_gib) == ("host", 5, 1)


def test_no_row_and_no_number_stands_for_the_unmeasured_cpu(imported_dir):
    rows = list(read_jsonl(imported_dir / "response_1" / "telemetry.jsonl"))
    assert {row["device_kind"] for row in rows} == {"gpu", "host"}
    (stage,) = read_jsonl(imported_dir / "response_1" / "stages.jsonl")
    assert (stage["energy_j"]["cpu"], stage["quality"]["cpu"]) == (None, "missing")
    assert stage["reason"]["cpu"] == "cpu_energy_uj is null throughout: not measured"
    assert read_json(imported_dir / "response_1" / "metrics.json")["cpu_energy_j"] is None


def test_the_recorded_interval_drifts_between_1_02_s_and_1_4_s(imported_dir):
    record = read_json(imported_dir / "feature_1" / "manifest.json")["import"]
    # 1139 samples over 1162.402 s.
    assert record["mean_interval_s"] == pytest.approx(1162.402 / 1138, rel=1e-6)
    assert record["longest_interval_s"] == pytest.approx(1.39, abs=0.005)
    assert set(record["counter_over_samples"]) == {"gpu 0", "gpu 1", "gpu 2", "gpu 3"}
    assert all(ratio == pytest.approx(1000, rel=0.02) for ratio in
               record["counter_over_samples"].values())  # fmt: skip


def test_a_torn_last_line_is_passed_over_and_remembered(foreign, tmp_path):
    folder = foreign.run(tmp_path / "r")
    with (folder / "telemetry.jsonl").open("a") as file:
        file.write('{"timestamp": "2025-11-1')
    trace = trace_of(folder)
    assert (len(trace.ticks), trace.is_torn) == (11, True)


def broken(line, **changes):
    record = json.loads(line)
    gpu = {key[4:]: changes.pop(key) for key in list(changes) if key.startswith("gpu_")}
    record["gpus"][0] |= gpu
    return json.dumps(record | changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestamp": None}, r":3: timestamp is None, expected an ISO 8601 time"),
        ({"timestamp": "2025-11-13T23:59:02"}, r":3: timestamp .* has no offset from UTC"),
        ({"timestamp": "2025-11-13T23:59:01.5-06:00"}, r":3: timestamp .* is not after"),
        ({"gpus": None}, r":3: gpus is None, expected a list"),
        ({"gpu_power_watts": "60"}, r":3: power_watts is '60', expected a number"),
        ({"gpu_power_watts": -1}, r":3: power_watts is -1"),
        ({"gpu_energy_mJ": math.nan}, r":3: energy_mJ is nan"),
        ({"gpu_gpu_index": 1}, r":3: one gpu_index stands on two GPUs"),
        ({"gpu_gpu_name": 5}, r":3: gpu_name is 5, expected a text"),
        ({"cpu": 3}, r":3: cpu: holds int"),
    ],
)
def test_a_sample_that_is_not_as_agreed_is_refused_by_file_and_line(
    foreign, tmp_path, change, message
):
    folder = foreign.run(tmp_path / "r")
    lines = (folder / "telemetry.jsonl").read_text().splitlines()
    lines[2] = broken(lines[2], **change)
    (folder / "telemetry.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"telemetry\.jsonl" + message) as refusal:
        trace_of(folder)
    assert re.search("; (correct it, or leave this run out|add it|sort .*)$", str(refusal.value))


def test_a_broken_line_that_is_not_the_last_is_refused_by_file_and_line(foreign, tmp_path):
    folder = foreign.run(tmp_path / "r")
    lines = (folder / "telemetry.jsonl").read_text().splitlines()
    lines[4] = lines[4][:40]
    (folder / "telemetry.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(
        ValueError,
        match=r"telemetry\.jsonl:5: not JSON .* a torn last line is passed over; correct",
    ):
        trace_of(folder)


def test_one_sample_is_no_energy(foreign, tmp_path):
    with pytest.raises(ValueError, match="1 samples of 2 GPUs"):
        trace_of(foreign.run(tmp_path / "r", num_samples=1))


def test_a_cut_off_gzip_file_is_refused_by_name(foreign, tmp_path):
    packed = (foreign.h100_dir / "response_1" / "telemetry.jsonl.gz").read_bytes()
    (tmp_path / "telemetry.jsonl.gz").write_bytes(packed[:-500])
    with pytest.raises(ValueError, match=r"telemetry\.jsonl\.gz: not a whole gzip file"):
        load(tmp_path, "telemetry.jsonl")


def test_a_file_and_its_gz_are_one_record_and_both_at_once_are_refused(foreign, tmp_path):
    source = load(foreign.h100_dir / "response_1", "ept.json")
    assert isinstance(source, Source)
    (tmp_path / "ept.json").write_bytes(source.data)
    (tmp_path / "ept.json.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds ept\.json and ept\.json\.gz"):
        load(tmp_path, "ept.json")


def altered(folder, change):
    """Change the samples of the first GPU, by the second of each."""
    path = folder / "telemetry.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for second, line in enumerate(lines):
        change(second, line["gpus"][0])
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


@pytest.mark.parametrize("wrong_w", [4294967.295, 0.0])
def test_one_power_that_no_device_draws_costs_its_neighbourhood_and_is_named(
    foreign, tmp_path, wrong_w
):
    def change(second, device):
        device["energy_mJ"] = None
        device["power_watts"] = wrong_w if second == 5 else device["power_watts"]

    altered(foreign.run(tmp_path / "in" / "feature_1", powers_w=(100.0,)), change)
    assert main(["import", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    run_dir = tmp_path / "out" / "feature_1"
    assert read_json(run_dir / "metrics.json")["own_energy_j"] == pytest.approx(1000)
    (stage,) = read_jsonl(run_dir / "stages.jsonl")
    assert "1 power sample of gpu 0 refused" in stage["reason"]["gpu"]
    rows = [r for r in read_jsonl(run_dir / "telemetry.jsonl") if r["device_kind"] == "gpu"]
    assert (rows[5]["power_w"], rows[5]["refused_power_w"]) == (None, wrong_w)


def test_one_misread_counter_costs_no_run_its_import(foreign, tmp_path):
    def change(second, device):
        device["energy_mJ"] = 2.0**64 if second == 5 else device["energy_mJ"]

    folder = altered(foreign.run(tmp_path / "in" / "feature_1"), change)
    assert correction_of(folder) == 1e-3
    assert main(["import", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    metrics = read_json(tmp_path / "out" / "feature_1" / "metrics.json")
    assert metrics["own_energy_j"] == pytest.approx(3000)


@pytest.mark.parametrize("stuck_mj", [0.0, 5e12])
def test_a_counter_that_never_moves_is_refused_with_what_was_found(foreign, tmp_path, stuck_mj):
    folder = altered(
        foreign.run(tmp_path / "run"), lambda _, device: device.update(energy_mJ=stuck_mj)
    )
    with pytest.raises(ValueError, match="rises 0 times as fast"):
        correction_of(folder)
