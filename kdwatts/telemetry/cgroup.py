"""CPU quota and memory of this process's control groups.

A container may see all CPUs and all memory of a node, but use only a part of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
"""Lines of hierarchy, controllers and path; cgroup v2 is hierarchy 0 and names no controller."""


def quota_cpus(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """The CPU time that the groups around this process allow, in CPUs. None without a quota.

    It is the least quota of the process's own group and all groups above. Inside a container the
    path may be the host's while the tree is the container's. Then the tree's root holds the quota.
    """
    quotas = [_v2(root / "unified"), _v2(root), _v1(root / "cpu"), _v1(root / "cpu,cpuacct")]
    for controllers, folder in _groups(membership):
        if not controllers:
            quotas += [_v2(root / folder), _v2(root / "unified" / folder)]
        elif "cpu" in controllers.split(","):
            quotas += [_v1(root / controllers / folder), _v1(root / "cpu" / folder)]
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_left_gib(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """The memory in GiB that the groups around this process still allow. None without a limit.

    Files in the page cache count as free: the kernel drops them when a group is full.
    """
    left = [_memory_left(root, 2), _memory_left(root / "memory", 1)]
    for controllers, folder in _groups(membership):
        if not controllers:
            left += [_memory_left(root / folder, 2), _memory_left(root / "unified" / folder, 2)]
        elif "memory" in controllers.split(","):
            left.append(_memory_left(root / controllers / folder, 1))
    return min((gib for gib in left if gib is not None), default=None)


def _groups(membership: Path) -> Iterator[tuple[str, str]]:
    """Controllers and path of each group of the process, and of all groups above."""
    try:
        lines = membership.read_text("utf-8", "replace").split("\n")
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        yield from ((controllers, folder) for folder in _upwards(path))


def _memory_left(folder: Path, version: int) -> float | None:
    """Of one group; version 1 writes a number near 2^63 where there is no limit."""
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    limit, used = _words(folder / names[0]), _words(folder / names[1])
    if not (limit and used and limit[0].isdecimal() and used[0].isdecimal()):
        return None
    stat = _words(folder / "memory.stat")
    cached = int(stat[stat.index(names[2]) + 1]) if names[2] in stat else 0
    return None if int(limit[0]) >= 2**60 else (int(limit[0]) - int(used[0]) + cached) / 2**30


def _upwards(path: str) -> Iterator[str]:
    relative = PurePosixPath(path.lstrip("/"))
    yield from (str(folder) for folder in (relative, *relative.parents) if ".." not in folder.parts)


def _v2(folder: Path) -> float | None:
    """Of `cpu.max`, such as `150000 100000`; the first word is `max` where there is no quota."""
    words = _words(folder / "cpu.max")
    return _ratio(*words) if len(words) == 2 else None


def _v1(folder: Path) -> float | None:
    """Of the completely fair scheduler's files; a quota of -1 is none."""
    words = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
    return _ratio(*words) if len(words) == 2 else None


def _ratio(quota_us: str, period_us: str) -> float | None:
    if not (quota_us.isdecimal() and period_us.isdecimal()):
        return None
    return int(quota_us) / int(period_us) if int(quota_us) and int(period_us) else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").split()
    except OSError:
        return []
