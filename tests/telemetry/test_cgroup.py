from collections.abc import Mapping
from pathlib import Path

import pytest

from kdwatts.telemetry.cgroup import memory_left_gib, quota_cpus


def within(tmp_path: Path, lines: str, files: dict[str, str]) -> float | None:
    tmp_path.mkdir(exist_ok=True)
    membership = tmp_path / "membership"
    membership.write_text(lines)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return quota_cpus(tmp_path / "cgroup", membership)


def test_a_group_s_quota_is_its_time_over_the_period(tmp_path):
    assert within(tmp_path, "0::/job\n", {"job/cpu.max": "150000 100000\n"}) == 1.5


def test_the_least_of_a_group_and_those_above_it_holds(tmp_path):
    files = {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n", "cpu.max": "max 100000"}
    assert within(tmp_path, "0::/a/b\n", files) == 2


def test_a_container_s_own_root_holds_its_quota_wherever_the_host_has_it(tmp_path):
    files = {"cpu.max": "50000 100000\n"}
    assert within(tmp_path, "0::/../../docker/abc\n", files) == 0.5


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_the_first_version_of_control_groups_has_quota_and_period_apart(folder, tmp_path):
    files = {
        f"{folder}/job/cpu.cfs_quota_us": "300000\n",
        f"{folder}/job/cpu.cfs_period_us": "100000\n",
    }
    assert within(tmp_path, f"4:{folder}:/job\n0::/\n", files) == 3


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cpu.max": "max 100000\n"},
        {"cpu.max": ""},
        {"cpu.max": "100000 0\n"},
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
    ],
)
def test_without_a_quota_there_is_none(files, tmp_path):
    assert within(tmp_path, "1:cpu:/\n0::/\n", files) is None
    assert quota_cpus(tmp_path / "cgroup", tmp_path / "nowhere") is None


def left_within(tmp_path: Path, lines: str, files: Mapping[str, int | str]) -> float | None:
    within(tmp_path, lines, {name: f"{value}\n" for name, value in files.items()})
    return memory_left_gib(tmp_path / "cgroup", tmp_path / "membership")


def test_memory_left_is_the_limit_less_what_is_used_and_not_cached(tmp_path):
    files = {
        "a/memory.max": 8 << 30,
        "a/memory.current": 5 << 30,
        "a/memory.stat": f"anon 1\ninactive_file {1 << 30}",
        "memory.max": "max",
        "memory.current": 9 << 30,
    }
    assert left_within(tmp_path, "0::/a\n", files) == 4


def test_the_first_version_states_its_memory_under_other_names(tmp_path):
    files = {
        "memory/job/memory.limit_in_bytes": 3 << 30,
        "memory/job/memory.usage_in_bytes": 1 << 30,
        "memory/memory.limit_in_bytes": 2**63 - 4096,
        "memory/memory.usage_in_bytes": 1 << 30,
    }
    assert left_within(tmp_path, "7:memory:/job\n", files) == 2
    assert left_within(tmp_path / "none", "0::/\n", {}) is None
