"""What the first rank of a launch tells the others, and how they follow it through a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdwatts.config.experiment import Config

if TYPE_CHECKING:
    from kdwatts.stages.work import Work
    from kdwatts.training.parallel import Company


@dataclass(frozen=True)
class Prepare:
    """What the first rank will build. The others meanwhile prepare as it does."""

    config: Config
    stages: list[str]


@dataclass(frozen=True)
class Call:
    """What the first rank needs help with, and all that a rank needs for its part."""

    stage: str
    config: Config
    inputs: dict[str, Path]
    artifact_dir: Path
    scratch_dir: Path
    run_dir: Path
    attempt: int

    @classmethod
    def of(cls, stage: str, work: Work, artifact_dir: Path) -> Call:
        """A call for help with what the first rank builds."""
        return cls(
            stage=stage,
            config=work.config,
            inputs=work.inputs,
            artifact_dir=artifact_dir,
            scratch_dir=work.scratch_dir,
            run_dir=work.run_dir,
            attempt=work.attempt,
        )


@dataclass(frozen=True)
class Ended:
    """How the first rank's run ended: done, failed or preempted."""

    state: str


def follow(company: Company) -> str:
    """Help the first rank with what ranks build together until its run ends.

    Returns how it ended.
    """
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from kdwatts.stages.ready import get_ready

    disable_progress_bar()
    set_verbosity_error()  # Its own handlers: the first rank passes on what there is to say.
    while not isinstance(message := company.hear(), Ended):
        if isinstance(message, Prepare):
            get_ready(message.config, message.stages)
            company.answer()
        else:
            assert isinstance(message, Call)
            _help(company, message)
    return message.state


def _help(company: Company, call: Call) -> None:
    """Take part in one build, under a meter that measures nothing."""
    from kdwatts.stages import distill, teacher
    from kdwatts.stages.gpu_memory import release
    from kdwatts.stages.inference import synchronizer
    from kdwatts.stages.work import Work
    from kdwatts.telemetry.bystander import Bystander, unmeasured_window
    from kdwatts.training.parallel import device_of, together

    device = device_of(company.ranks, call.config.gpu.device)
    meter = Bystander(together(synchronizer(device)))
    work = Work(
        config=call.config,
        inputs=call.inputs,
        out_dir=call.artifact_dir,
        scratch_dir=call.scratch_dir,
        run_dir=call.run_dir,
        attempt=call.attempt,
        meter=meter,
        window=unmeasured_window(call.stage),
        device=device,
    )
    stages = {teacher.NAME: teacher, distill.NAME: distill}
    stages[call.stage].assist(work, call.artifact_dir)
    # An engine that the first rank starts later may take this rank's GPU too.
    release(device)
