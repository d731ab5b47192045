from pathlib import Path

import pytest

from kdwatts.telemetry.cgroup import quota_cpus


def within(tmp_path: Path, lines: str, files: dict[str, str]) -> float | None:
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
