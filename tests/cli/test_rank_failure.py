"""Who writes how a run of several ranks ended, and when Slurm is asked to start it anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from kdwatts.artifacts.manifest import read_status, write_status
from kdwatts.cli import rank_failure
from kdwatts.cli.rank_failure import GoesOn, conclude
from kdwatts.runtime import slurm_jobs
from kdwatts.runtime.ranks import Ranks
from kdwatts.telemetry.node_facts import NodeFacts, facts_of_this_node
from kdwatts.training.cause import Cause, Place, RankFailed
from kdwatts.training.company import Company

LOST = Cause(1, "n2", "rank 1 on n2 gave no sign of life for 30 s", is_lost=True)
FAILED = Cause(1, "n2", "rank 1 on n2: the disk is full")
FIRST_LOST = Cause(0, "n1", "rank 0 on n1 ended without a word", is_lost=True)


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Company]:
    """Three ranks on three nodes, whose run is in training."""
    monkeypatch.setattr(rank_failure, "_stop", None)
    monkeypatch.setattr(rank_failure, "DEPUTY_WAITS_S", 0.0)
    write_status(tmp_path, state="running", stage="distill", attempt=2)
    facts = vars(facts_of_this_node([], ranks=[0]))
    nodes = [
        NodeFacts(**{**facts, "number": rank + 1, "host": f"n{rank + 1}", "ranks": [rank]})
        for rank in range(3)
    ]
    store = HashStore()
    made = [Company(Ranks(rank, 3, 0), store, token="t", nodes=nodes) for rank in range(3)]
    for company in made:
        company.place = Place(str(tmp_path), 2, 3)
    return made


def test_the_first_rank_writes_who_is_lost_and_prints_it_once(
    ranks: list[Company], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert isinstance(conclude(ranks[1], LOST), RankFailed)
    assert read_status(tmp_path)["state"] == "running"
    rank_failure._stop = None
    assert isinstance(conclude(ranks[0], LOST), RankFailed)
    assert conclude(ranks[0], LOST) is conclude(ranks[0], FAILED)
    status = read_status(tmp_path)
    sentence = f"{LOST.sentence} in the stage distill; look on n2 for what ended it"
    assert (status["state"], status["stage"], status["node"]) == ("failed", "distill", "n2")
    assert status["error"].startswith(sentence)
    assert capsys.readouterr().err == f"kdwatts: {status['error']}\n"


def test_of_the_others_only_the_deputy_writes_that_the_first_is_lost(
    ranks: list[Company], tmp_path: Path
):
    conclude(ranks[2], FIRST_LOST)
    assert read_status(tmp_path)["state"] == "running"
    rank_failure._stop = None
    conclude(ranks[1], FIRST_LOST)
    assert (read_status(tmp_path)["state"], read_status(tmp_path)["node"]) == ("failed", "n1")


def test_what_the_run_said_of_its_own_end_stays(ranks: list[Company], tmp_path: Path):
    write_status(tmp_path, state="done", stage="distill", attempt=2)
    conclude(ranks[1], FIRST_LOST)
    assert read_status(tmp_path)["state"] == "done"


@pytest.mark.parametrize("cause", [LOST, FAILED], ids=["lost", "failed"])
@pytest.mark.parametrize("slurm_takes_it", [True, False])
def test_a_loss_is_another_turn_of_the_job_and_an_error_of_a_rank_is_not(
    ranks: list[Company],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cause: Cause,
    slurm_takes_it: bool,
):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(slurm_jobs.NEXT_TURN, "next")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    asked: list[str] = []

    def ask() -> bool:
        asked.append(read_status(tmp_path)["state"])
        return slurm_takes_it

    monkeypatch.setattr(slurm_jobs, "ask_for_another_turn", ask)
    stop = conclude(ranks[0], cause)
    goes_on = cause.is_lost and slurm_takes_it
    assert isinstance(stop, GoesOn) == goes_on
    assert asked == (["preempted"] if cause.is_lost else [])
    assert read_status(tmp_path)["state"] == ("preempted" if goes_on else "failed")
