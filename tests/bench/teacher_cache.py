"""Size and speed of the teacher's cached signals, beside parquet lists and a plain memory map.

`python tests/bench/teacher_cache.py [--rows 256] [--length 512] [--dir DIR]`, on one core. The
teacher is made up: Zipf-like logits over Llama's 128,256 tokens, an entropy of about 2 nats. All
forms keep the same K = 64 tokens, ours and the map at three temperatures; sampled support keeps 50
draws. A figure of reading is of whole decoded batches, int64 ids and float32 log-probabilities in
torch tensors as the loss takes them, of random rows whose files were read before (warm), median of
the repeats. Speeds are per second of processor time of the one thread, which other work on the
machine changes least; per second on the clock they are beside it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from kdwatts.teacher.cache import SignalCache
from kdwatts.teacher.cache_record import Form
from kdwatts.teacher.sampling import SampledLogits, sampled_logits, uniforms
from kdwatts.teacher.signals import SignalPlan, Signals, SparseLogits, sparse_logits
from tests.teacher.whole_cache import write_cache

VOCABULARY, K, TEMPERATURES, SAMPLES = 128_256, 64, (1.0, 2.0, 4.0), 50
DISTINCT_POSITIONS = 1024
"""Positions whose logits are really drawn; the rest repeat them in another order."""

Reader = Callable[[NDArray[np.int64]], object]


def made_up_signals(num_positions: int) -> tuple[SparseLogits, SampledLogits]:
    """Both signals of as many positions, and what computing them would need of a head."""
    generator = torch.Generator().manual_seed(0)
    zipf_V = -1.8 * torch.arange(1.0, VOCABULARY + 1).log()
    sparse, sampled = [], []
    for row in range(DISTINCT_POSITIONS // 64):
        order_V = torch.randperm(VOCABULARY, generator=generator)
        noise_NV = torch.randn(64, VOCABULARY, generator=generator)
        logits_NV = zipf_V[order_V] + 2 * noise_NV
        sparse.append(sparse_logits(logits_NV, k=K, temperatures=TEMPERATURES))
        drawn = uniforms(np.array([row]), sequence_length=64, num_samples=SAMPLES)[0]
        sampled.append(sampled_logits(logits_NV, torch.from_numpy(drawn)))
    pick = torch.randint(DISTINCT_POSITIONS, (num_positions,), generator=generator)
    names = ("ids_NK", "log_p_NK", "offset_NM", "log_tail_NM")
    top_k = SparseLogits(*(torch.cat([getattr(s, n) for s in sparse])[pick] for n in names))
    ids_NK, counts_NK = (
        torch.cat([getattr(s, name) for s in sampled])[pick] for name in ("ids_NK", "counts_NK")
    )
    return top_k, SampledLogits(ids_NK, counts_NK, SAMPLES)


def rates(work: Callable[[], object], tokens: int, repeats: int) -> tuple[float, float]:
    """Thousand tokens per second of processor time and on the clock, medians of the repeats."""
    used_s, clock_s = [], []
    for _ in range(repeats):
        started = time.thread_time(), time.perf_counter()
        work()
        used_s.append(time.thread_time() - started[0])
        clock_s.append(time.perf_counter() - started[1])
    return tokens / statistics.median(used_s) / 1e3, tokens / statistics.median(clock_s) / 1e3


def folder_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def our_form(plan: SignalPlan, signals: Signals, rows: int, length: int, out: Path) -> Reader:
    """Write a cache of ours; what reads rows of it."""

    def signals_of(some: NDArray[np.int64]) -> Signals:
        part = slice(int(some[0]) * length, (int(some[-1]) + 1) * length)
        sparse, sampled = signals.sparse, signals.sampled
        if plan.top_k and sparse:
            names = ("ids_NK", "log_p_NK", "offset_NM", "log_tail_NM")
            return Signals(SparseLogits(*(getattr(sparse, name)[part] for name in names)))
        assert sampled
        return Signals(
            sampled=SampledLogits(sampled.ids_NK[part], sampled.counts_NK[part], SAMPLES)
        )

    write_cache(out, np.arange(rows), Form(plan, length, 1), signals_of)
    return SignalCache(out).read


def plain_map(sparse: SparseLogits, rows: int, length: int, out: Path) -> Reader:
    """One file per signal, u4 ids and f2 log-probabilities: what this project had before."""
    names = {"ids_NK": "<u4", "log_p_NK": "<f2", "offset_NM": "<f4", "log_tail_NM": "<f2"}
    maps = []
    for name, kind in names.items():
        array = getattr(sparse, name).numpy().reshape(rows, length, -1)
        found = np.memmap(out / name, dtype=kind, mode="w+", shape=array.shape)
        found[:] = array
        found.flush()
        maps.append(np.memmap(out / name, dtype=kind, mode="r", shape=array.shape))

    def read(places: NDArray[np.int64]) -> list[torch.Tensor]:
        arrays = [np.ascontiguousarray(one[places]) for one in maps]
        kinds = (np.int64, np.float32, np.float32, np.float32)
        return [
            torch.from_numpy(array.astype(kind)).flatten(0, 1)
            for array, kind in zip(arrays, kinds, strict=True)
        ]

    return read


def parquet_lists(sparse: SparseLogits, rows: int, length: int, out: Path) -> Reader:
    """A row per sequence with nested lists, read as Python lists: what peers do."""

    def nested(array: NDArray[np.generic]) -> pa.Array:
        flat = pa.array(array.reshape(-1))
        step = array.shape[-1]
        inner = pa.ListArray.from_arrays(
            pa.array(np.arange(0, rows * length * step + 1, step, dtype=np.int32)), flat
        )
        ends = np.arange(0, rows * length + 1, length, dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), inner)

    table = pa.table(
        {
            "ids": nested(sparse.ids_NK.numpy().astype(np.int32)),
            "log_p": nested(sparse.log_p_NK.numpy().astype(np.float16)),
        }
    )
    pq.write_table(
        table, out / "signals.parquet", row_group_size=8, compression="none", use_dictionary=False
    )
    file = pq.ParquetFile(out / "signals.parquet")

    def read(places: NDArray[np.int64]) -> list[torch.Tensor]:
        ids, log_p = [], []
        for place in places:
            row = file.read_row_group(int(place) // 8).slice(int(place) % 8, 1).to_pydict()
            ids.append(row["ids"][0])
            log_p.append(row["log_p"][0])
        return [
            torch.tensor(ids).flatten(0, 1),
            torch.tensor(np.asarray(log_p, dtype=np.float32)).flatten(0, 1),
        ]

    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    rows, length = options.rows, options.length
    top_k, sampled = made_up_signals(rows * length)
    signals = Signals(sparse=top_k, sampled=sampled)
    plan = SignalPlan(top_k=K, temperatures=TEMPERATURES, vocabulary=VOCABULARY)
    exact = SignalPlan(K, TEMPERATURES, VOCABULARY, precision="f16")
    draws = SignalPlan(vocabulary=VOCABULARY, samples=SAMPLES)
    forms: dict[str, Callable[[Path], Reader]] = {
        "kdwatts u8, 64": lambda out: our_form(plan, signals, rows, length, out),
        "kdwatts f16, 64": lambda out: our_form(exact, signals, rows, length, out),
        "kdwatts sampled, 50": lambda out: our_form(draws, signals, rows, length, out),
        "plain map, 64": lambda out: plain_map(top_k, rows, length, out),
        "parquet lists, 64": lambda out: parquet_lists(top_k, rows, length, out),
    }
    distinct = (sampled.counts_NK > 0).sum(-1).double().mean().item()
    print(f"{rows} rows of {length} positions, batches of {options.batch}; speeds in ktok/s")
    print(f"distinct tokens among {SAMPLES} samples: {distinct:.1f}")
    print(f"{'form':<22}{'bytes/token':>12}{'read':>8}{'(clock)':>9}{'write':>8}{'(clock)':>9}")
    generator = np.random.default_rng(0)
    for name, write in forms.items():
        out = Path(tempfile.mkdtemp(dir=options.dir))
        try:
            readers: list[Reader] = []
            written = rates(lambda: readers.append(write(out)), rows * length, 1)  # noqa: B023
            size = folder_bytes(out) / (rows * length)
            (read,) = readers
            slow = name.startswith("parquet")
            batch, repeats = (4, 3) if slow else (options.batch, options.repeats)
            for start in range(0, batch if slow else rows, batch):
                read(np.arange(start, min(rows, start + batch)))

            def one(read: Reader = read, batch: int = batch) -> object:
                return read(generator.choice(rows, batch, replace=False))

            found = rates(one, batch * length, repeats)
            speeds = f"{found[0]:>8,.0f}{found[1]:>9,.0f}{written[0]:>8,.0f}{written[1]:>9,.0f}"
            print(f"{name:<22}{size:>12.1f}{speeds}", flush=True)
        finally:
            shutil.rmtree(out)


if __name__ == "__main__":
    main()
