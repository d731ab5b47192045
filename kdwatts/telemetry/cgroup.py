"""The CPU quota of this process's control groups: a container may see all CPUs but use only two."""

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
    try:
        lines = membership.read_text("utf-8", "replace").split("\n")
    except OSError:
        lines = []
    quotas = [_v2(root / "unified"), _v2(root), _v1(root / "cpu"), _v1(root / "cpu,cpuacct")]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for folder in _upwards(path):
            if not controllers:
                quotas += [_v2(root / folder), _v2(root / "unified" / folder)]
            elif "cpu" in controllers.split(","):
                quotas += [_v1(root / controllers / folder), _v1(root / "cpu" / folder)]
    return min((quota for quota in quotas if quota is not None), default=None)


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
