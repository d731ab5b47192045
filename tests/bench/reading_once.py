"""Peak host memory of ranks that each read a model, and of ranks that get it from one reader.

    python tests/bench/reading_once.py [--ranks 4] [--nodes 1] [--folder DIR]

The ranks are processes on gloo, so shards lie in host memory too. Memory is the peak of resident
memory (VmHWM, proc_pid_status(5)) above what a rank has before it reads. Pages of a file that is
mapped count for each process that touches them. The file is in bfloat16: as bfloat16 it is mapped
where it lies, as float32 every reader has a copy of its own.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing import start_processes  # pyright: ignore[reportPrivateImportUsage]
from transformers.utils.logging import disable_progress_bar

from kdwatts.config.pair import Architecture, ModelSource
from kdwatts.models.load import load_model, stated_configuration, without_weights
from kdwatts.models.read_once import read_once
from kdwatts.models.sharding import place
from kdwatts.models.sharing import Sharing

SHAPE: dict[str, Any] = {
    "family": "llama",
    "num_layers": 14,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_heads": 16,
    "num_kv_heads": 8,
    "head_dim": 64,
    "vocab_size": 8192,
    "tied_head": False,
    "max_positions": 2048,
}
MIB = 1 << 20
CPU = torch.device("cpu")


def main() -> None:
    """Print peak memory and seconds side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--dtype", default="float32", help="as which the ranks read it")
    parser.add_argument("--folder", type=Path, help="where the model is written and kept")
    asked = parser.parse_args()
    multiprocessing.set_forkserver_preload(["kdwatts.models.read_once", "transformers"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        size = _written(folder / "model")
        print(f"model of {size / MIB:.0f} MiB, {asked.ranks} ranks on {asked.nodes} nodes")
        print(f"{'shared by':10}{'read by':14}{'peak MiB of each rank':>36}{'all':>8}{'s':>7}")
        for parallel in ("ddp", "fsdp", "hsdp"):
            for reads in ("every rank", "one a node"):
                own = Path(tempfile.mkdtemp(dir=temporary))
                arguments = (asked, folder / "model", own, parallel, reads)
                start_processes(_work, arguments, asked.ranks, start_method="forkserver")
                found = [torch.load(own / f"{rank}.pt") for rank in range(asked.ranks)]
                peaks = [one["peak"] / MIB for one in found]
                print(
                    f"{parallel:10}{reads:14}{' '.join(f'{peak:8.0f}' for peak in peaks):>36}"
                    f"{sum(peaks):8.0f}{max(one['s'] for one in found):7.1f}"
                )


def _source(path: Path | None) -> ModelSource:
    return ModelSource(path=path and str(path), architecture=Architecture(**SHAPE))


def _written(path: Path) -> int:
    """A model with random weights in bfloat16 in a folder, and its bytes."""
    if not path.is_dir():
        from transformers import AutoModelForCausalLM

        config = stated_configuration(_source(None).architecture)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(path)
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def _work(
    rank: int, asked: argparse.Namespace, path: Path, own: Path, parallel: str, reads: str
) -> None:
    torch.set_num_threads(1)
    disable_progress_bar()
    distributed.init_process_group(
        "gloo", init_method=f"file://{own}/meet", rank=rank, world_size=asked.ranks
    )
    each = asked.ranks // asked.nodes
    nodes = tuple(tuple(range(first, first + each)) for first in range(0, asked.ranks, each))
    sharing = Sharing(parallel, "fp32", nodes)
    without_weights(_source(path))  # Imports are not what is measured.
    distributed.barrier()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # The peak is counted from here (proc(5)).
    dtype = getattr(torch, asked.dtype)
    before, begun = _memory("VmRSS"), time.monotonic()

    def load() -> Any:
        return load_model(_source(path), dtype=dtype)

    if reads == "every rank":
        model = place(load(), CPU, sharing)
    else:
        model = read_once(load, lambda: without_weights(_source(path), dtype=dtype), CPU, sharing)
    seconds = time.monotonic() - begun
    torch.save({"peak": _memory("VmHWM") - before, "s": seconds}, own / f"{rank}.pt")
    distributed.barrier()
    del model
    distributed.destroy_process_group()


def _memory(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().split("\n"):
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    main()
