"""How many GPUs one server of vLLM takes, from its flags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from kdwatts.serving.engines.plan import flag_name

_KEY = "eval.serving.vllm.flags"

# One worker process with a GPU for each (vLLM 0.32, ParallelConfig.world_size and
# world_size_across_dp). decode_context_parallel_size divides the tensor-parallel GPUs once more.
_SIZES = {
    "--tensor-parallel-size": "-tp",
    "--pipeline-parallel-size": "-pp",
    "--prefill-context-parallel-size": "-pcp",
    "--data-parallel-size": "-dp",
}
_OF_SEVERAL_HOSTS = {
    *("--nnodes", "-n", "--node-rank", "-r", "--master-addr"),
    *("--data-parallel-size-local", "-dpl", "--data-parallel-address", "-dpa"),
    *("--data-parallel-rank", "-dpn", "--data-parallel-start-rank", "-dpr"),
    *("--data-parallel-hybrid-lb", "-dph", "--data-parallel-external-lb", "-dpe"),
}


def num_gpus(flags: Sequence[str]) -> int:
    """GPUs of the server: the product of its parallel sizes; 1 without one.

    Raises ValueError for a size that is no number, and for a flag that spreads the server over
    several hosts or commands.
    """
    sizes = dict.fromkeys(_SIZES, 1)
    for flag, following in pairwise([*flags, ""]):
        name = flag_name(flag)
        if name in _OF_SEVERAL_HOSTS:
            raise ValueError(
                f"{_KEY} has {flag}, which makes the server a part of one that spans hosts or "
                "commands, and kdwatts starts one server on this host; leave it out, or start the "
                "servers yourself and give their address"
            )
        # argparse takes the beginning of a flag for the whole of it.
        meant = [
            size
            for size, short in _SIZES.items()
            if name in (size, short) or (len(name) > 2 and size.startswith(name))
        ]
        if len(meant) == 1:
            value = flag.partition("=")[2] or following
            if not value.isdecimal() or int(value) < 1:
                raise ValueError(
                    f"{_KEY} has {flag} with {value or 'nothing'!r}, which is no number of GPUs; "
                    "give a whole number of at least 1"
                )
            sizes[meant[0]] = int(value)
    return math.prod(sizes.values())
