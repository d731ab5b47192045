"""Energy counters of CPU packages and their memory, from the kernel's powercap tree (RAPL).

Top-level packages and their `dram` sub-zones count. `core` and `uncore` are inside the package, and
`psys` and `intel-rapl-mmio` repeat it. AMD's counters have the same names. Microjoules become
joules here and nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdwatts.telemetry.readings import UNKNOWN_LIMIT_W, Sensor

DELTA_S = 0.001
"""Counters are updated about every millisecond (Intel SDM vol. 3, section on RAPL)."""


@dataclass(frozen=True)
class Zone:
    """One counter of the powercap tree."""

    kind: str
    """cpu or dram."""
    package_index: int
    name: str
    """Zone and its own name, such as `intel-rapl:0 package-0`."""
    energy_path: Path
    range_j: float
    """Where the counter wraps to 0."""


def find_zones(root: Path) -> tuple[list[Zone], dict[str, str]]:
    """The readable zones, and the reason for each component that has none.

    When one zone of a component cannot be read, the whole component is dropped: the sum over the
    others would look like the whole machine.
    """
    zones: list[Zone] = []
    denied: dict[str, str] = {}
    for kind, folder, package_index in _folders(root):
        try:
            zone = Zone(
                kind=kind,
                package_index=package_index,
                name=f"{folder.name} {_text(folder / 'name')}",
                energy_path=folder / "energy_uj",
                range_j=_number(folder / "max_energy_range_uj") * 1e-6,
            )
            counter = Counter(zone)
            counter.read_j()
            counter.close()
        except OSError as error:
            denied.setdefault(kind, _reason(folder, error))
        else:
            zones.append(zone)
    for kind in ("cpu", "dram"):
        if not any(zone.kind == kind for zone in zones):
            what = "package" if kind == "cpu" else "dram"
            denied.setdefault(kind, f"no RAPL {what} zone under {root}")
    return [zone for zone in zones if zone.kind not in denied], denied


class Counter:
    """The counter of a zone, behind an open file: reading it must cost little.

    It goes on counting where the zone's own counter wraps to 0. After a silence that is long enough
    for two wraps it is wrong. `counter_step_j` recognises that by the time that passed.
    """

    def __init__(self, zone: Zone) -> None:
        self._path = zone.energy_path
        self._range_j = zone.range_j
        self._descriptor: int | None = None
        self._last_j: float | None = None
        self._drawn_j = 0.0

    def read_j(self) -> float:
        """Joules since the first reading. Raises OSError."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY)
        try:
            text = os.pread(self._descriptor, 32, 0)
            if not os.fstat(self._descriptor).st_nlink:
                raise OSError(f"{self._path} vanished")
        except OSError:
            # It may come back under the same name as another file.
            self.close()
            raise
        try:
            raw_j = int(text) * 1e-6
        except ValueError:
            found = text.decode(errors="replace").strip()
            raise OSError(f"{self._path} holds {found!r}, which is not a number") from None
        if not 0 <= raw_j <= self._range_j:
            raise OSError(
                f"{self._path} holds {raw_j:.6g} J, but its range is {self._range_j:.6g} J"
            )
        if self._last_j is not None:
            step_j = raw_j - self._last_j
            self._drawn_j += step_j if step_j >= 0 else step_j + self._range_j
        self._last_j = raw_j
        return self._drawn_j

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def sensor(zone: Zone, *, max_gap_s: float) -> Sensor:
    """The sensor of the zone, which says how its readings are judged.

    RAPL has no binding power limit, so a wide bound is used.
    """
    return Sensor(
        kind=zone.kind,
        label=zone.name,
        method="rapl",
        limit_w=UNKNOWN_LIMIT_W,
        delta_s=DELTA_S,
        max_gap_s=max_gap_s,
        range_j=zone.range_j,
    )


def _folders(root: Path) -> Iterator[tuple[str, Path, int]]:
    """Kind, folder and package number of every zone that counts, each once."""
    for package in sorted(root.glob("intel-rapl:*")):
        match = re.fullmatch(r"intel-rapl:(\d+)", package.name)
        if match is None or not _is_named(package, "package"):
            continue
        index = int(match[1])
        yield "cpu", package, index
        # The kernel lists sub-zones both inside the package and beside it.
        beside = {path.name: path for path in root.glob(f"{package.name}:*")}
        inside = {path.name: path for path in package.glob(f"{package.name}:*")}
        for _, folder in sorted({**beside, **inside}.items()):
            if _is_named(folder, "dram"):
                yield "dram", folder, index


def _is_named(folder: Path, prefix: str) -> bool:
    try:
        return _text(folder / "name").startswith(prefix)
    except OSError:
        return False


def _text(path: Path) -> str:
    return path.read_text("utf-8").strip()


def _number(path: Path) -> int:
    text = _text(path)
    if not text.isdecimal() or int(text) == 0:
        raise OSError(f"{path} holds {text!r}, which is not a number above 0")
    return int(text)


def _reason(folder: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return (
            f"{folder / 'energy_uj'}: permission denied (root only since CVE-2020-8694); ask for "
            "read access or set telemetry.cpu_estimate=tdp"
        )
    return f"{folder.name} cannot be read: {error}"
