"""How the ranks of a launch find each other, and what each must have in common with the others."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed import PrefixStore, rendezvous  # pyright: ignore[reportPrivateImportUsage]

from kdwatts import __version__
from kdwatts.artifacts.store import Store
from kdwatts.runtime.ranks import Ranks, machine, meeting_point, process_space
from kdwatts.telemetry.node_facts import NodeFacts, facts_from_json, facts_of_this_node
from kdwatts.telemetry.nvml import Device
from kdwatts.training.company import Company

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others inside a computation. It ends what signs of life cannot see:
a rank that lives and never comes. A lost one is found long before (LOST_AFTER_S, sign_of_life.py),
and the first rank may write or evaluate for many minutes while the others wait for it."""
MEETING_PATIENCE = timedelta(minutes=5)
"""How long ranks wait for each other at the start. Slurm may start nodes a minute apart."""
TOKEN_PATIENCE_S = 60.0
"""How long a file may take to be seen on another node: NFS keeps what it saw for a minute at most
(acdirmax, nfs(5))."""
LAST_WORD_S = 10.0
"""How long the others leave the first rank to write and print why none of them can run."""
_LOOK_EVERY_S = 0.2


class EndedByAnother(RuntimeError):
    """Another rank says why the run ends. This one has nothing to add."""


_met: list[Company] = []


def meet(
    ranks: Ranks,
    device_type: str,
    *,
    store_dir: Path,
    gpus: Sequence[Device] = (),
    watch: Callable[[Company], None] | None = None,
) -> Company | None:
    """The company of this launch's ranks, met once per process. None for a process that is alone.

    CPU tensors travel by gloo, CUDA tensors by NCCL, which touches a GPU only when it is used.
    `store_dir` is the first rank's, where it leaves the token of the launch for the others. `watch`
    is given the company as soon as its ranks can tell each other something.

    Raises RuntimeError, in one sentence, where the ranks do not come together, differ in what they
    run, cannot be metered, or do not share `store_dir`.
    """
    if ranks.world == 1:
        return None
    if not _met:
        store = _rendezvous(ranks)
        try:
            company, backend = _acquainted(store, ranks, device_type, store_dir, gpus)
        except distributed.DistError as error:
            raise RuntimeError(
                f"rank {ranks.rank} of {ranks.world} met the others, and then one of them was "
                f"silent for {MEETING_PATIENCE} ({_words(error)}); see what ended it, and run the "
                "same command again"
            ) from None
        if watch:
            watch(company)
        distributed.init_process_group(
            backend,
            store=PrefixStore("group", store),
            rank=ranks.rank,
            world_size=ranks.world,
            timeout=PATIENCE,
        )
        atexit.register(distributed.destroy_process_group)
        _met.append(company)
    return _met[0]


def ranks_by_node() -> tuple[tuple[int, ...], ...]:
    """The ranks of each node, in the order of nodes. Empty for a process that met nobody."""
    return tuple(tuple(node.ranks) for company in _met for node in company.nodes)


def _acquainted(
    store: Any, ranks: Ranks, device_type: str, store_dir: Path, gpus: Sequence[Device]
) -> tuple[Company, str]:
    """What the ranks are to each other, and the backend of what they compute together."""
    if ranks.leads:
        store.set("device", device_type)
    backend = "cpu:gloo,cuda:nccl" if store.get("device") == b"cuda" else "gloo"
    shown = _exchanged(PrefixStore("facts", store), ranks, _facts(ranks, gpus))
    try:
        nodes = nodes_of(shown)
    except RuntimeError:  # Every rank finds the same. The first one says it.
        if ranks.leads:
            raise
        raise _ended_by_first(store) from None
    here = shown[ranks.rank]["machine"]
    peers = [one["pid"] for one in shown if one["machine"] == here and one["pid"] != os.getpid()]
    token = _shared_token(PrefixStore("token", store), ranks, store_dir)
    channel = PrefixStore("company", store)
    return Company(ranks, channel, token=token, nodes=nodes, peers=peers), backend


def _rendezvous(ranks: Ranks) -> Any:
    """The store of the launch, once all ranks are there."""
    place = meeting_point()
    try:
        store, *_ = next(rendezvous(place, ranks.rank, ranks.world, timeout=MEETING_PATIENCE))
    except distributed.DistError as error:
        where = os.environ["MASTER_ADDR"] if place == "env://" else place.removeprefix("tcp://")
        raise RuntimeError(
            f"rank {ranks.rank} of {ranks.world} did not meet the others at {where} in "
            f"{MEETING_PATIENCE} ({_words(error)}); see that every rank was started and that the "
            "nodes reach this address"
        ) from None
    store.set_timeout(MEETING_PATIENCE)
    return store


def _words(error: Exception) -> str:
    """What torch says in many lines, in one that is not long."""
    return " ".join(str(error).split())[:200]


def _facts(ranks: Ranks, gpus: Sequence[Device]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "space": process_space(),
        "pid": os.getpid(),
        "versions": f"kdwatts {__version__} and torch {torch.__version__}",
        "node": asdict(facts_of_this_node(gpus, ranks=[ranks.rank])),
    }


def _exchanged(store: Any, ranks: Ranks, mine: dict[str, Any]) -> list[dict[str, Any]]:
    """What each rank says of itself, in the order of ranks."""
    store.set(str(ranks.rank), json.dumps(mine))
    return [json.loads(store.get(str(rank))) for rank in range(ranks.world)]


def nodes_of(shown: Sequence[dict[str, Any]]) -> list[NodeFacts]:
    """The nodes of a launch, in the order of their first ranks, from what each rank shows.

    Raises RuntimeError for ranks that run other versions, for a node that one meter cannot see as a
    whole, and for nodes that would be metered twice or look alike in the records.
    """
    if len(versions := {one["versions"] for one in shown}) > 1:
        raise RuntimeError(
            f"the ranks run {' and '.join(sorted(versions))}; give every node the same environment"
        )
    of_machine: dict[str, list[int]] = {}
    for rank, one in enumerate(shown):
        of_machine.setdefault(one["machine"], []).append(rank)
    nodes = []
    for number, ranks in enumerate(of_machine.values(), start=1):
        node = facts_from_json({**shown[ranks[0]]["node"], "number": number, "ranks": ranks})
        if len({shown[rank]["space"] for rank in ranks}) > 1:
            raise RuntimeError(
                f"{len(ranks)} ranks were launched on {node.host} in containers of their own, and "
                "one meter cannot see the processes of another container; launch all ranks of a "
                "node in one container, or in none"
            )
        nodes.append(node)
    hosts = [node.host for node in nodes]
    if twice := {host for host in hosts if hosts.count(host) > 1}:
        raise RuntimeError(
            f"{len(nodes)} nodes of this launch are called {', '.join(sorted(twice))}, and the "
            "records could not tell them apart; give each node a host name of its own"
        )
    uuids = [gpu.uuid for node in nodes for gpu in node.gpus]
    if twice := {uuid for uuid in uuids if uuids.count(uuid) > 1}:
        raise RuntimeError(
            f"{', '.join(sorted(twice))} is seen on two nodes of this launch, and its energy would "
            "be counted twice; launch the ranks of one machine in one container, or in none"
        )
    return nodes


def _shared_token(store: Any, ranks: Ranks, store_dir: Path) -> str:
    """A secret that the first rank leaves in a file which only this user can read.

    Its name goes through the store, its content does not. Raises RuntimeError on every rank where
    one does not see the file, and EndedByAnother where the first rank could not write it.
    """
    if not ranks.leads:
        return _token_of_first(store, ranks)
    try:
        Store(store_dir).check_writable()
        path, token = store_dir / f".token-{secrets.token_hex(8)}", secrets.token_hex(32)
        with open(
            os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii"
        ) as file:
            file.write(token)
    except BaseException:
        store.set("path", b"")
        raise
    try:
        store.set("path", str(path))
        said = [store.get(f"read-{rank}").decode() for rank in range(1, ranks.world)]
    finally:
        path.unlink()
    for rank, trouble in enumerate(said, start=1):
        if trouble:
            raise RuntimeError(f"rank {rank}: {trouble}")
    return token


def _token_of_first(store: Any, ranks: Ranks) -> str:
    path, trouble = store.get("path").decode(), ""
    if not path:
        raise _ended_by_first(store)
    try:
        return _read_token(Path(path))
    except (OSError, RuntimeError) as error:
        trouble = str(error)
    finally:
        store.set(f"read-{ranks.rank}", trouble)
    raise _ended_by_first(store)


def _ended_by_first(store: Any) -> EndedByAnother:
    """What to raise once the first rank, whose store it is, has said why it ends and is gone.

    A launcher kills the others when one ends by an error.
    """
    store.set_timeout(timedelta(seconds=LAST_WORD_S))
    with contextlib.suppress(RuntimeError):
        store.get("nothing")
    return EndedByAnother()


def _read_token(path: Path) -> str:
    deadline_s = time.monotonic() + TOKEN_PATIENCE_S
    while True:
        try:
            with path.open(encoding="ascii") as file:
                state = os.fstat(file.fileno())
                if state.st_uid != os.geteuid() or state.st_mode & 0o077:
                    raise RuntimeError(
                        f"{path} is not a file of this user alone, so it cannot hold the token of "
                        "the launch; start all ranks as one user"
                    )
                return file.read()
        except FileNotFoundError:
            if time.monotonic() > deadline_s:
                raise RuntimeError(
                    f"{socket.gethostname()} does not see {path}, which the first rank wrote; set "
                    "store_dir to a folder on a file system that all nodes share"
                ) from None
            time.sleep(_LOOK_EVERY_S)
