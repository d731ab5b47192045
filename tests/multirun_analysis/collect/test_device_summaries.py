import pyarrow as pa
import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.collect.device_summaries import SUMMARIES, summarise
from multirun_analysis.collect.tick_blocks import PART_SCHEMA
from tests.multirun_analysis.ticking import at, ticks_of


def stages_of(*rows, **common):
    """What is told of each stage in ticks of one run."""
    ticks = ticks_of(*rows, **common).drop(columns="schema").assign(run="0")
    table = pa.Table.from_pandas(ticks, PART_SCHEMA, preserve_index=False)
    return {row["stage"]: row for row in summarise("0", table).to_pylist()}


def test_utilisation_is_a_mean_over_time_and_over_gpus_of_each_stage():
    found = stages_of(
        at(0, util_pct=100.0), at(1, util_pct=0.0), at(3, util_pct=50.0),
        at(0, util_pct=20.0, device_index=1), at(1, util_pct=20.0, device_index=1),
        at(9, util_pct=7.0, window="run/evaluate_student"),
    )  # fmt: skip
    # 100 % for 1 s, 0 % for 2 s, 50 % for the usual step of 1.5 s: 175 / 4.5; the other GPU 20 %.
    assert found["distill"]["gpu_util_pct_mean"] == pytest.approx((175 / 4.5 + 20) / 2)
    assert found["distill"]["num_ticks"] == 5
    assert found["evaluate_student"]["gpu_util_pct_mean"] == 7
    assert found["distill"]["host_util_pct_mean"] is None


def test_a_stage_and_not_its_inner_windows_is_what_a_row_is_about():
    found = stages_of(
        at(0, None, 100.0, window="run/distill/train"),
        at(1, None, 300.0, window="run/distill/checkpoint"),
        at(2, None, 500.0, window="run"),
    )
    assert list(found) == ["distill"]
    assert found["distill"]["gpu_power_w_mean"] == 200


def test_power_of_gpus_adds_up_and_their_memory_does_not():
    found = stages_of(
        at(0, None, 100.0, memory_used_gib=40.0, temperature_c=50.0),
        at(0, None, 150.0, memory_used_gib=30.0, temperature_c=61.0, device_index=1),
        at(0, util_pct=80.0, device_kind="host", device_index=None),
    )["distill"]
    assert found["gpu_power_w_mean"] == 250
    assert (found["gpu_memory_used_gib_max"], found["gpu_temperature_c_max"]) == (40, 61)
    assert (found["host_util_pct_mean"], found["gpu_util_pct_mean"]) == (80, None)


def test_a_gap_between_ticks_and_the_wait_between_attempts_are_nobodys():
    rows = [at(second, util_pct=100.0) for second in (0, 1, 2)]
    rows += [at(3, util_pct=0.0), at(1000, util_pct=100.0)]
    rows += [at(5, util_pct=100.0, attempt=2), at(6, util_pct=100.0, attempt=2)]
    # Steps of 1 s are usual: 0 % stands for 3 s of the 997, the last of each attempt for 1 s.
    found = stages_of(*rows)["distill"]
    assert found["gpu_util_pct_mean"] == pytest.approx(100 * 6 / 9)


def test_the_floor_is_the_least_power_of_each_gpu_at_no_load_and_none_where_one_never_rests():
    busy = [at(0, None, 300.0, util_pct=90.0), at(1, None, 20.0, util_pct=1.0)]
    rests = [at(2, None, 90.0, util_pct=0.0), at(3, None, 60.0, util_pct=0.0)]
    other = [at(0, None, 55.0, util_pct=0.0, device_index=1)]
    assert stages_of(*busy, *rests, *other)["distill"]["gpu_floor_w"] == 115
    assert stages_of(*busy, *other)["distill"]["gpu_floor_w"] is None


def test_a_throttled_share_counts_what_slows_a_gpu_down_not_what_its_user_set():
    bits = [0x0, 0x1, 0x2, 0x4]  # None, idle, clocks set by an application, power cap.
    ticks = [at(i, throttle_reasons=bit) for i, bit in enumerate(bits)]
    assert stages_of(*ticks)["distill"]["gpu_throttled_share"] == 0.25


def test_no_ticks_are_no_rows():
    assert summarise("0", PART_SCHEMA.empty_table()).num_rows == 0


def test_summaries_are_alike_whether_kept_or_read_anew(imported_dir, tmp_path):
    fresh = collect([imported_dir]).summaries
    kept = collect([imported_dir], tmp_path / "out").summaries
    again = collect([imported_dir], tmp_path / "out").summaries
    assert list(fresh.columns) == SUMMARIES.names and len(fresh)
    assert fresh.equals(kept) and kept.equals(again)
    assert (tmp_path / "out" / "summaries.parquet").is_file()
