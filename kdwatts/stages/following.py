"""How the other ranks of a launch follow the first through a run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from kdwatts.stages.rank_messages import Built, Call, Ended, Measure, Prepare, from_values

if TYPE_CHECKING:
    from kdwatts.training.company import Company


def follow(company: Company) -> str:
    """Help the first rank with what ranks build together until its run ends.

    The first rank of each other node meters that node meanwhile. Returns how the run ended.
    """
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from kdwatts.stages.gpu_memory import release
    from kdwatts.stages.node_meters import meter_here
    from kdwatts.stages.ready import get_ready
    from kdwatts.training.parallel import device_of

    meters = company.leads_node and company.node.number > 1
    disable_progress_bar()
    set_verbosity_error()  # Its own handlers: the first rank passes on what there is to say.
    with ExitStack() as until_the_end:
        while not isinstance(message := from_values(company.hear()), Ended):
            if isinstance(message, Prepare):
                get_ready(message.config, message.stages)
                company.answer()
            elif isinstance(message, Measure):
                url = until_the_end.enter_context(meter_here(message, company)) if meters else None
                company.answer(url and {"url": url})
            elif isinstance(message, Built):
                # An engine that the first rank starts next may take this rank's GPU too.
                release(device_of(company.ranks, message.device))
                company.answer()
            else:
                assert isinstance(message, Call)
                _help(company, message)
    return message.state


def _help(company: Company, call: Call) -> None:
    """Take part in one build, under a meter that measures nothing."""
    from kdwatts.stages import distill, teacher
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
