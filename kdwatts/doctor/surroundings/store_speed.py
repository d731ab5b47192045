"""Speed and room of the store's file system, beside what the pair's plan asks of it."""

from __future__ import annotations

import mmap
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from kdwatts.artifacts.store import Store
from kdwatts.config.experiment import Config
from kdwatts.doctor.patient import Patient
from kdwatts.doctor.surroundings.store_promises import trial_dir
from kdwatts.memory.budget import GIB, estimate
from kdwatts.metrics.quantity import Quantity, interval_95, mean_of
from kdwatts.metrics.significant_digits import significant
from kdwatts.planning.demands import workload_of
from kdwatts.planning.roofline import stage_costs
from kdwatts.planning.sizes import cache_bytes_per_target
from kdwatts.records.doctor_record import Verdict

MB, GB = 1e6, 1e9
PARTS = 8
"""Equal parts of which each is timed, for the interval."""
FIRST_BYTES, MOST_BYTES = 8 << 20, 128 << 20
"""Size of the part that is written first, to choose the size of the others, and their most."""
MOST_SHARE = 0.05
"""Of the free space, what is written at most."""
_BLOCK = 4 << 20
_TOKEN_BYTES = 4
"""A token of the packed text on disk, at most."""


def store_speed(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """The verdicts on free space, and on the speed at which it is written and read."""
    config, store = patient.config, Store(patient.config.store_dir)
    root = store.root
    try:
        store.check_writable()
    except ValueError:
        yield Verdict("store_space", None, f"not looked at: {root} cannot be written")
        return
    free = shutil.disk_usage(root).free
    yield _space(config, root, free)
    part_room = int(MOST_SHARE * free / PARTS)
    if part_room < FIRST_BYTES:
        found = f"not measured: {free / GB:.2f} GB are free, too little to write and read"
        yield Verdict("store_write_speed", None, found)
        return
    with trial_dir(root) as folder:
        path, where = folder / "speed.bin", _file_system(root)
        part_bytes, write_s = _write(path, seconds / 2, min(part_room, MOST_BYTES))
        yield _speed(config, "write", part_bytes, write_s, f"{where}, each part brought to disk")
        read_s, how = _read(path, part_bytes, seconds / 2)
        yield _speed(config, "read", part_bytes, read_s, f"{where}, {how}")


def _write(path: Path, seconds: float, most_bytes: int) -> tuple[int, list[float]]:
    """Size of a part, and the seconds of each until the disk has it. They fill the file."""
    source = os.urandom(FIRST_BYTES)  # What a file system could compress would be too fast.
    first_s = _write_part(path, source, FIRST_BYTES, 0)
    part_bytes = int(FIRST_BYTES * seconds / (PARTS + 2) / first_s)
    part_bytes = max(_BLOCK, min(part_bytes, most_bytes) // _BLOCK * _BLOCK)
    until_s, taken_s = time.monotonic() + 2 * seconds, []
    for index in range(PARTS):
        if len(taken_s) >= 2 and time.monotonic() > until_s:
            break
        taken_s.append(_write_part(path, source, part_bytes, index))
    return part_bytes, taken_s


def _write_part(path: Path, source: bytes, size: int, index: int) -> float:
    """Seconds until the disk has part `index` of the file."""
    view, began_s = memoryview(source), time.perf_counter()
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)
    try:
        for offset in range(0, size, _BLOCK):
            # Each block begins elsewhere in the source: equal blocks could be stored once.
            begin = (index * 37 + offset // _BLOCK) * 4096 % (len(source) - _BLOCK)
            os.pwrite(descriptor, view[begin : begin + _BLOCK], index * size + offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return time.perf_counter() - began_s


def _read(path: Path, part_bytes: int, seconds: float) -> tuple[list[float], str]:
    """Seconds of each part that is read, and how the page cache was kept out."""
    how = "past this machine's page cache (O_DIRECT); a server or a disk may hold it in its own"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        how = (
            "after the kernel was asked to drop it from its page cache, which it may not have done"
        )
        descriptor = os.open(path, os.O_RDONLY)
    until_s, taken_s = time.monotonic() + seconds, []
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(-1, _BLOCK) as block:  # Begins at a page, as O_DIRECT asks.
            num_parts = os.fstat(descriptor).st_size // part_bytes
            for index in range(min(PARTS, num_parts)):
                if len(taken_s) >= 2 and time.monotonic() > until_s:
                    break
                began_s = time.perf_counter()
                for offset in range(0, part_bytes, _BLOCK):
                    os.preadv(descriptor, [block], index * part_bytes + offset)
                taken_s.append(time.perf_counter() - began_s)
    finally:
        os.close(descriptor)
    return taken_s, how


def _speed(config: Config, kind: str, part_bytes: int, taken_s: list[float], how: str) -> Verdict:
    name, done = f"store_{kind}_speed", "written" if kind == "write" else "read"
    rate = _rate(part_bytes, taken_s)
    ends = interval_95(mean_of(taken_s, unit="s"))
    # The mean is of times, so that a slow part counts by the time that it takes.
    low = part_bytes / MB / ends[1] if ends else None
    high = part_bytes / MB / ends[0] if ends and ends[0] > 0 else None
    to = f"{high:.0f}" if high is not None else "any"
    within = "" if low is None else f" (95 % interval {low:.0f} to {to})"
    found = f"{rate:.0f} MB/s{within} {done} in {len(taken_s)} parts of {part_bytes / MB:.0f} MB"
    found += f"; {how}"
    figure = {"value": rate, "low": low, "high": high, "unit": "MB/s"}
    each = cache_bytes_per_target(config)
    if not each:
        found += "; this paradigm makes no cache of the teacher that it could be held against"
        return Verdict(name, None, found, **figure)
    whole = each * config.training.target_tokens
    takes_s = significant(whole / MB / rate)
    found += f"; the teacher's cache ({significant(whole / GB)} GB) takes {takes_s} s"
    stage = "teacher" if kind == "write" else "distill"
    costs = stage_costs(config, estimate(workload_of(config)))
    if stage not in costs:
        found += ", and nothing is known of how fast this device makes and uses it"
        return Verdict(name, None, found, **figure)
    # The quicker end of what is expected of the GPU (`planning.roofline`).
    needed = whole / MB / (3600 * costs[stage].hours[1])
    what = "the teacher makes" if kind == "write" else "training reads"
    against = (
        f"{significant(needed)} MB/s, at which {what} the cache of {config.model.name} (by its "
        "plan)"
    )
    if (low if low is not None else rate) >= needed:
        return Verdict(name, "right", found, against, **figure)
    remedy = "set store_dir to a faster file system, or the GPU waits: a disk of the node, Lustre"
    return Verdict(name, "attention", found, against, remedy, **figure)


def _rate(part_bytes: int, taken_s: list[float]) -> float:
    mean: Quantity = mean_of(taken_s, unit="s")
    return part_bytes / MB / mean.number


def _space(config: Config, root: Path, free: int) -> Verdict:
    """Free space beside what one run of the pair keeps: text, cache, checkpoints, student."""
    budget, num_tokens = estimate(workload_of(config)), config.training.target_tokens
    cache = (cache_bytes_per_target(config) or 0.0) * num_tokens
    state_gib = budget.student_state_gib - budget.gradients_gib + budget.projectors_gib
    # The checkpoint before is removed only when the next one is there.
    kept = {
        "text": _TOKEN_BYTES * num_tokens,
        "teacher's cache": cache,
        "two checkpoints": 2 * state_gib * GIB,
        "student": budget.student_served_gib * GIB,
    }
    needed = sum(kept.values())
    parts = ", ".join(f"{what} {significant(size / GB)}" for what, size in kept.items() if size)
    against = f"{significant(needed / GB)} GB that a run of {config.model.name} keeps ({parts})"
    found = f"{free / GB:.1f} GB are free in {root}"
    figure = {"value": free / GB, "unit": "GB"}
    if free >= needed:
        return Verdict("store_space", "right", found, against, **figure)
    remedy = "free space, or set store_dir to another disk"
    return Verdict("store_space", "wrong", found, against, remedy, **figure)


def _file_system(root: Path) -> str:
    """The kind of the file system that holds a folder, as the kernel names it."""
    mounts = [
        mount
        for mount in psutil.disk_partitions(all=True)
        if root == Path(mount.mountpoint) or Path(mount.mountpoint) in root.parents
    ]
    best = max(mounts, key=lambda mount: len(mount.mountpoint), default=None)
    return best.fstype if best else "a file system without a name"
