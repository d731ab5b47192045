"""The response head alone on a GPU: ours, Liger's fused one, TRL's chunked one and dense PyTorch.

`python tests/bench/head_on_gpu.py [--heads ours liger trl dense] [--out DIR]`, or
`response_step.py --gpu`. Hidden states and heads in bfloat16 go in. The loss and the gradients of
the student's come out, for Jensen-Shannon and for forward KL. Beside them stand the head's four
matrix products alone: both logits, and the gradients of the student's hidden states and weight.
`--out` adds to a head.json that is there. `--small` is a rehearsal, on the CPU where there is no
GPU.
"""

# N positions, n those of one chunk, D width of both models, V vocabulary.

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from kdwatts.config.device_choices import CHUNK_ROWS
from kdwatts.doctor.speed.head_forms import (
    OTHERS,
    PACKAGES,
    Head,
    HeadTimes,
    Sides,
    form,
    is_fused,
    ours,
    random_sides,
)
from kdwatts.doctor.speed.timed_windows import wait
from kdwatts.losses.fused_choice import refused
from kdwatts.records.files import write_json

NUM_POSITIONS, WIDTH, VOCABULARY = 8_192, 4_096, 128_256
SMALL = (64, 32, 512)
TERMS = ("jsd", "forward_kl")
ROWS = (CHUNK_ROWS["cuda"], 1024, 256)
"""Rows in a chunk: those of a run's default on a GPU, Liger's own, and a CPU's default."""
PLAIN = ", plain"
"""Ends the name of our head without its kernel, where it has one."""
DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def product_ms(student: Sides, teacher: Sides, *, rows: int, rounds: int = 10) -> float:
    """Median time of the head's four products alone, all chunks, in memory that is at hand."""
    device, width, vocabulary = student[0].device, student[0].shape[1], len(student[1])
    logits_nV = torch.randn(rows, vocabulary, device=device).bfloat16()
    out_nV, out_nD, out_VD = (
        torch.empty(shape, device=device, dtype=torch.bfloat16)
        for shape in ((rows, vocabulary), (rows, width), (vocabulary, width))
    )
    times_ms = []
    with torch.no_grad():
        for _ in range(rounds + 2):
            wait(device)
            began_s = time.perf_counter()
            for start in range(0, len(student[0]), rows):
                for hidden_ND, weight_VD in (student, teacher):
                    torch.mm(hidden_ND[start : start + rows], weight_VD.T, out=out_nV)
                torch.mm(logits_nV, student[1], out=out_nD)
                torch.mm(logits_nV.T, student[0][start : start + rows], out=out_VD)
            wait(device)
            times_ms.append(1e3 * (time.perf_counter() - began_s))
    return statistics.median(times_ms[2:])


def measure(step: Head, student: Sides, *, rounds: int = 10) -> dict[str, Any]:
    times = HeadTimes(step, [])
    for _ in range(rounds + 2):
        times.take(student)
    return {
        "peak_over_base_gib": times.peak_gib,
        "median_ms": statistics.median(times.times_ms[2:]),
        "least_ms": min(times.times_ms[2:]),
        "most_ms": max(times.times_ms[2:]),
        "first_ms": times.times_ms[0],
        "loss": times.loss,
    }


def variants(heads: list[str]) -> Iterator[tuple[str, Callable[[Sides, Sides], Head]]]:
    """Name of each head and what makes it; what a run takes comes first."""
    if "ours" in heads:
        for plain in (False, True) if is_fused(DEVICE) else (False,):
            for rows in ROWS:
                for term in TERMS:
                    name = f"ours {term}, chunks of {rows}{PLAIN if plain else ''}"
                    yield name, partial(ours, term=term, rows=rows)
    for subject in ("liger", "trl", "dense"):
        package, make = PACKAGES[subject], OTHERS[subject]
        if subject in heads and not find_spec(package):
            print(f"{package} is not installed and left out.")
        elif subject in heads:
            for term in TERMS:
                yield f"{subject} {term}", partial(make, term=term)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    subjects = ("ours", "liger", "trl", "dense")
    parser.add_argument("--heads", nargs="+", choices=subjects, default=list(subjects))
    parser.add_argument("--out", type=Path, help="folder for head.json")
    parser.add_argument("--small", action="store_true", help="a rehearsal, also without a GPU")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not given.small:
        print("There is no CUDA device here, so the head on a GPU is left out.")
        return
    device = DEVICE
    sizes = SMALL if given.small else (NUM_POSITIONS, WIDTH, VOCABULARY)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    record: dict[str, Any] = {
        **dict(zip(("positions", "width", "vocabulary"), sizes, strict=True)),
        **{"gpu": name, "products": {}, "heads": {}},
    }
    path = given.out / "head.json" if given.out else None
    if path and path.is_file():
        record = json.loads(path.read_text())
    print(f"{name}: {sizes[0]} positions, H={sizes[1]}, V={sizes[2]}")
    if "ours" in given.heads:
        student, teacher = random_sides(sizes, device)
        flop = 4 * 2.0 * sizes[0] * sizes[1] * sizes[2]
        for rows in sorted({min(rows, sizes[0]) for rows in ROWS}, reverse=True):
            took_ms = product_ms(student, teacher, rows=rows)
            told = {"median_ms": took_ms, "tflop_per_s": flop / took_ms / 1e9}
            record["products"][str(rows)] = told
            print(f"products alone, chunks of {rows:<10} {told}", flush=True)
        del student, teacher
    for variant, make in variants(given.heads):
        if device.type == "cuda":
            torch.cuda.empty_cache()
        student, teacher = random_sides(sizes, device)
        plain = variant.endswith(PLAIN)
        try:
            with form(device, plain=plain):
                record["heads"][variant] = measure(make(student, teacher), student)
            if variant.startswith("ours"):
                record["heads"][variant]["fused"] = is_fused(device) and not plain
                record["heads"][variant]["why_plain"] = None if plain else refused.get(device)
        except Exception as error:  # What one of them cannot do is no reason to lose the others.
            record["heads"][variant] = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(f"{variant:<40} {record['heads'][variant]}", flush=True)
        del student, teacher
        if path:
            write_json(path, record)


if __name__ == "__main__":
    main()
