"""Call sbatch: its options, its errors in our words, and no job that is submitted and not noted.

Submitit writes the script and runs the job. The call is ours: from the moment that sbatch has taken
a job until it is noted nothing may end this process, and an error in between takes the job back.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf import OmegaConf

from kdwatts.cli.failure import FULL_ERROR, SHOWS_TRACE
from kdwatts.cli.refusal import in_one_sentence
from kdwatts.config.sbatch_options import SETTINGS, option_name
from kdwatts.runtime import interrupt, slurm_jobs

log = logging.getLogger(__name__)

SRUN_ARGUMENTS = ["--kill-on-bad-exit=1"]
"""A rank that dies ends the others, which would wait for it, GPUs in hand, until the time limit."""

AFTER_THE_RANKS = f"""
code=$?
# A rank was lost, and the run is to go on. Slurm 22.05 takes a job's GPUs from it where it is
# requeued before a node of it that is lost was found DOWN. So this asks only when all nodes answer.
# Otherwise Slurm finds the node lost, ends this script and starts the job anew by itself.
if [ -e "${slurm_jobs.NEXT_TURN}" ]; then
  all_nodes="--nodes=$SLURM_JOB_NUM_NODES --ntasks=$SLURM_JOB_NUM_NODES --ntasks-per-node=1"
  until timeout --kill-after=5 60 \\
      srun $all_nodes --cpus-per-task=1 --mem=0 --gres=none --overlap true 2>/dev/null; do
    sleep 10
  done
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit "$code"
"""
"""What a job's script does when the ranks have ended. See `slurm_jobs.ask_for_another_turn`."""

BLAMED = (
    (
        r"account|association",
        ("account", "partition"),
        "`sacctmgr show associations` lists your accounts",
    ),
    (r"partition", ("partition",), "`sinfo` lists the partitions of this cluster"),
    (r"qos|policy", ("qos", "account", "time"), "`sacctmgr show qos` lists the limits"),
    (r"time limit|--time", ("time",), "`sinfo --format='%P %l'` lists the partitions' time limits"),
    (r"gres|generic resource|gpu", ("gres",), "`sinfo --format='%P %G'` lists the GPUs of nodes"),
    (
        r"feature|constraint",
        ("constraint",),
        "`sinfo --format='%P %f'` lists the features of nodes",
    ),
    (
        r"memory",
        ("mem",),
        "`sinfo --format='%P %m'` lists the MB of nodes, null asks for the default",
    ),
    (r"processors|cpu", ("cpus-per-task",), "`sinfo --format='%P %c'` lists the CPUs of nodes"),
    (
        r"node configuration",
        ("gres", "mem", "cpus-per-task", "constraint"),
        "`sinfo --format='%P %G %m %c %f'` lists what nodes have",
    ),
    (r"array", ("array",), "send fewer runs in a sweep"),
    (r"node name", ("nodelist", "exclude"), "`sinfo --Node` lists the nodes"),
    (r"unable to contact", (), "run the same command again when Slurm answers"),
)
"""What sbatch says, the options that it may mean, and how to find what it takes."""

UNSURE = re.compile(r"timed out|zero bytes", re.IGNORECASE)
"""Words of an sbatch that heard no answer: the controller may have taken the job all the same."""


def check_folder(folder: Path) -> None:
    """Raise ValueError for a folder of logs in which Slurm would read a pattern.

    `folder` is that of the sweep, absolute: a letter of a folder above it counts, too.
    """
    found = [letter for letter in str(folder) if letter in "%\\" or ord(letter) < 32]
    if found:
        raise ValueError(
            f"hydra.sweep.dir={str(folder)!r} has {found[0]!r} in it, which Slurm reads as a "
            "pattern in the names of its logs; give a folder without %, backslash or line break"
        )


def executor(
    params: Mapping[str, Any],
    extra: Mapping[str, Any],
    setup: Sequence[str],
    after: Iterable[str],
) -> Any:
    """What submits to Slurm with the launcher's parameters, to begin when jobs `after` are done.

    `extra` are a site's options of sbatch, `setup` its commands before the run. Raises ValueError
    for an option that is given twice.
    """
    import submitit

    params = {**params, "setup": [*setup, *(params["setup"] or ())] or None}
    given = {option_name(key): value for key, value in extra.items() if value is not None}
    more = params["additional_parameters"]
    theirs = {option_name(key): f"hydra.launcher.{key}" for key, value in params.items() if value}
    theirs |= {option_name(key): f"hydra.launcher.additional_parameters.{key}" for key in more}
    for name in given.keys() & theirs:
        raise ValueError(
            f"cluster.extra.{name}={given[name]} and {theirs[name]} both set sbatch's "
            f"--{name}; give one of them"
        )
    options = {**more, **given}
    if ids := sorted(set(after)):
        asked = [options["dependency"]] if "dependency" in options else []
        options["dependency"] = ",".join([*asked, f"afterok:{':'.join(ids)}"])
    if "dependency" in options:  # Else a job that can never begin is waited for, for ever.
        options["kill-on-invalid-dep"] = "yes"
    made = submitit.AutoExecutor(
        folder=params.pop("submitit_folder"),
        cluster="slurm",
        slurm_max_num_timeout=params.pop("max_num_timeout"),
    )
    general = set(OmegaConf.structured(BaseQueueConf))
    params |= {"additional_parameters": options, "srun_args": SRUN_ARGUMENTS}
    made.update_parameters(
        **{name if name in general else f"slurm_{name}": value for name, value in params.items()}
    )
    return made


def send(
    made: Any, calls: Sequence[tuple[Any, ...]], what: str, note: Callable[[list[str]], None]
) -> None:
    """Have Slurm call these, each a function and its arguments: one as a job, several as an array.

    `note` gets their ids as soon as sbatch prints them. Raises RuntimeError, which names
    `what` was to be sent, where nothing is in the queue, or what is in it is not ours to wait for.
    """
    from submitit.core.utils import DelayedSubmission, JobPaths

    slurm = made._executor
    top = JobPaths.get_first_id_independent_folder(slurm.folder)
    top.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    script = top / f".submission_file_{token}.sh"
    pickles = [top / f"{token}-{number}.pkl" for number in range(len(calls))]
    if len(calls) > 1:
        slurm.parameters["map_count"] = len(calls)
    try:
        for call, pickle in zip(calls, pickles, strict=True):
            delayed = DelayedSubmission(*call)
            delayed.set_timeout(slurm.parameters["time"], slurm.max_num_timeout)
            delayed.dump(pickle)
        setup = slurm.parameters.get("setup") or ()
        # A site's `set -e` would end the script with the ranks.
        slurm.parameters["setup"] = [*_before_the_ranks(top), *setup, "set +e"]
        text = slurm._make_submission_file_text(slurm._submitit_command_str, token)
        text += AFTER_THE_RANKS
        script.write_text(text, "utf-8", "surrogateescape")
        with interrupt.deferred():
            job = _sbatch(script, what, slurm.parameters)
            ids = [f"{job}_{k}" for k in range(len(calls))] if len(calls) > 1 else [job]
            try:
                note(ids)
                for number, pickle in zip(ids, pickles, strict=True):
                    JobPaths(slurm.folder, number).move_temporary_file(pickle, "submitted_pickle")
                JobPaths(slurm.folder, job).move_temporary_file(script, "submission_file")
            except BaseException as error:
                raise RuntimeError(_taken_back(job, what, error)) from error
    finally:
        for path in (script, *pickles):
            path.unlink(missing_ok=True)
    if interrupt.requested():
        raise KeyboardInterrupt  # It came while sbatch was at it; the job is noted.


def _before_the_ranks(folder: Path) -> list[str]:
    """Commands that give the job a file to ask for another turn by, which its last turn may have
    left."""
    path = f"{shlex.quote(str(folder))}/.next-turn-$SLURM_JOB_ID"
    return [f"export {slurm_jobs.NEXT_TURN}={path}", f'rm -f "${slurm_jobs.NEXT_TURN}"']


def _sbatch(script: Path, what: str, parameters: Mapping[str, Any]) -> str:
    """The job as which sbatch took a script. Raises RuntimeError, in its words and our settings."""
    # In a session of its own: Ctrl-C may not end it between Slurm's word and ours.
    done = subprocess.run(
        ["sbatch", str(script)],
        # This process has Hydra raise every error; a job shows traces where the user asked for it.
        env={**os.environ, FULL_ERROR: str(int(SHOWS_TRACE))},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    said = re.search(r"\bjob (\d+)", done.stdout)
    if done.returncode == 0 and said:
        return said[1]
    if done.returncode == 0:
        raise RuntimeError(
            f"sbatch was given {what} and names no job in its answer {done.stdout.strip()!r}, so "
            f"{what} may be in the queue or not; look with `squeue --me`, and end it with scancel "
            "before you send it again"
        )
    raise RuntimeError(refusal(what, done.stderr, parameters))


def refusal(what: str, words: str, parameters: Mapping[str, Any]) -> str:
    """What sbatch said when it took nothing, with the settings of ours that it may mean."""
    lines = [re.sub(r"^sbatch: (error: |fatal: )?", "", line) for line in words.split("\n")]
    lines = [line.removeprefix("Batch job submission failed: ").strip() for line in lines]
    found = "; ".join(line for line in lines if line and not line.startswith("Try ")) or "nothing"
    if UNSURE.search(found):
        return (
            f'sbatch had no answer from Slurm ("{found}"), so {what} may be in the queue or not; '
            "look with `squeue --me`, and run the same command again"
        )
    settings, remedy = _blamed_settings(found, parameters)
    said = f'sbatch refuses {what} with the words "{found}", and nothing of it is sent; {remedy}'
    return f"{settings}: {said}" if settings else said


def _blamed_settings(found: str, parameters: Mapping[str, Any]) -> tuple[str, str]:
    """The settings that words of sbatch may mean, with their values, and what to do about them."""
    extra = dict(parameters.get("additional_parameters") or {})
    ours = {"requeue", "dependency", "kill-on-invalid-dep"}
    options = {
        **{option_name(key): value for key, value in parameters.items()},
        "array": parameters.get("map_count"),
        **{name: value for name, value in extra.items() if name not in ours},
    }
    lower = found.lower()
    blamed = [(name, remedy) for words, name, remedy in BLAMED if re.search(words, lower)]
    named = [name for name in extra if name not in ours and _stem(name).search(lower)]
    remedy = "correct it, or leave it out"
    if not named and blamed:
        names, remedy = blamed[0]
        named = [name for name in names if options.get(name) is not None] or names[:1]
    elif not named:
        named = [name for name in SETTINGS if options.get(name) is not None]
        remedy = "correct the setting that it means"
    said = []
    for name in named:
        setting = f"cluster.extra.{name}" if name in extra else SETTINGS.get(name, f"--{name}")
        value = options.get(name)
        said.append("the sweep" if name == "array" else f"{setting}={_in_our_unit(name, value)}")
    return " ".join(said), remedy


def _stem(name: str) -> re.Pattern[str]:
    """An option's name as sbatch has it in a sentence: licenses as license."""
    return re.compile(rf"\b{re.escape(name.rstrip('s'))}")


def _in_our_unit(name: str, value: Any) -> Any:
    """A value of sbatch as our setting has it."""
    if value is None:
        return "null"
    return str(value).removesuffix("GB") if name == "mem" else value


def _taken_back(job: str, what: str, error: BaseException) -> str:
    reason = in_one_sentence(error)
    if slurm_jobs.cancel(job):
        return (
            f"sbatch took {what} as job {job}, which could not be noted ({reason}) and is "
            "cancelled; see to that, and run the same command again"
        )
    return (
        f"sbatch took {what} as job {job}, which could not be noted ({reason}), and scancel fails: "
        f"it is in the queue and nobody waits for it; end it with `scancel {job}`"
    )
