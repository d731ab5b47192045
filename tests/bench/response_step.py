"""A step of response distillation, dense and TRL's too: `python tests/bench/response_step.py`.

Teacher h512/L8, student h256/L4, vocabulary 128,256, 1,024 positions in float32, of which `--valid`
have a target; the loss is forward KL against the dense teacher. A step is both models' forward
passes, the loss and the backward pass. Each variant runs in a process of its own, one at a time,
in turns for `--rounds` rounds, so that what else the machine does falls on all alike; processor
seconds are beside the clock's for the same reason. Peak memory is the most that was resident during
the first step less what was before it. Losses and gradients are held against the same models in
float64. The limit is the rate of the step's matrix products alone, at its own shapes. TRL comes
with the extra `bench`; without it, it is left out. `trl` is its experimental GKDTrainer, and
`trl_chunked` its stable path, which never holds all logits.

`--gpu` takes the head alone at 8,192 positions, width 4,096, vocabulary 128,256, Jensen-Shannon
divergence, bfloat16, beside Liger's fused head where that is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
VARIANTS = ("ours", "dense", "trl", "trl_chunked")


class Child:
    """One variant in its own process, which answers one request at a time."""

    def __init__(self, variant: str, options: dict[str, Any]) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(options["threads"]),
            "OMP_WAIT_POLICY": "passive",
            "HF_HUB_OFFLINE": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path[1:]]),
        }
        script = Path(__file__).with_name("step_variants.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), variant, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, *request: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"response_step: a variant ended with {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def compare(options: dict[str, Any], rounds: int, variants: list[str]) -> None:
    """Run all variants in turn and print one table."""
    with tempfile.TemporaryDirectory() as folder:
        saved = str(Path(folder) / "gradients.pt")
        reference = Child("reference", options)
        expected = reference.ask("step")["loss"]
        reference.ask("save", saved)
        reference.close()
        children = {name: Child(name, options) for name in [*variants, "matrix"]}
        first = {name: children[name].ask("step") for name in variants}
        error = {name: children[name].ask("error", saved) for name in variants}
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    matrix: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        matrix.append(children["matrix"].ask("matrix"))
        for name in variants:
            steps[name].append(children[name].ask("step"))
    useful = children["matrix"].ask("useful")
    for child in children.values():
        child.close()
    print(
        f"{options['valid']} of 1,024 positions, temperature {options['temperature']}, "
        f"{options['threads']} threads, {rounds} rounds, load {os.getloadavg()[0]:.1f}; "
        f"loss in float64 {expected:.6f} nats"
    )
    print("variant       peak MiB   s/step (least)   cpu s   dense/s   loss error   gradient error")
    for name in variants:
        seconds = [step["seconds"] for step in steps[name]]
        # Of the same round, so that a disturbance that lasts is in both.
        against = statistics.median(
            one["seconds"] / other["seconds"]
            for one, other in zip(steps["dense"], steps[name], strict=True)
        )
        print(
            f"{name:<12} {first[name]['peak_mib']:>9,.0f}   {statistics.median(seconds):6.2f} "
            f"({min(seconds):5.2f})   {statistics.median(s['busy'] for s in steps[name]):5.2f}   "
            f"{against:7.2f}   {abs(first[name]['loss'] / expected - 1):10.1e}   "
            f"{error[name]:14.1e}"
        )
    flop = matrix[0][0]
    for place, name, key in ((1, "seconds", "seconds"), (2, "processor seconds", "busy")):
        alone = [row[place] for row in matrix]
        fractions = [
            useful / flop * limit / step[key]
            for limit, step in zip(alone, steps["ours"], strict=True)
        ]
        least = useful / flop * min(alone) / min(step[key] for step in steps["ours"])
        print(
            f"fraction of limit by {name}: median {statistics.median(fractions):.2f}, of the least "
            f"of both {least:.2f}; the same matrix products alone take {min(alone):.2f}, "
            f"{flop / min(alone) / 1e9:.0f} GFLOP/s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--valid", type=int, nargs="+", default=[704, 1022])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--chunk-rows", type=int, default=256)
    parser.add_argument("--tied", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--gpu", action="store_true")
    given = parser.parse_args()
    if given.gpu:
        sys.path.insert(0, str(REPOSITORY))
        from head_on_gpu import main as on_gpu

        on_gpu([])
        return
    variants = list(dict.fromkeys([*given.variants, "ours", "dense"]))
    of_trl = [name for name in variants if name.startswith("trl")]
    if of_trl and importlib.util.find_spec("trl") is None:
        print("TRL is not installed and left out; pip install -e '.[bench]' brings it.")
        variants = [name for name in variants if name not in of_trl]
    if "trl" in variants and given.temperature != 1:
        print("GKDTrainer's loss is always at temperature 1; it is left out.")
        variants.remove("trl")
    for num_valid in given.valid:
        options = {
            "valid": num_valid,
            "threads": given.threads,
            "temperature": given.temperature,
            "chunk_rows": given.chunk_rows,
            "tied": given.tied,
        }
        compare(options, given.rounds, variants)


if __name__ == "__main__":
    main()
