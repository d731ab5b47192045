"""Who writes text in a run, in words: our own loop, or an engine."""

from __future__ import annotations

from collections.abc import Sequence

from kdwatts.config.experiment import Config
from kdwatts.stages.graph import PlannedStage


def writer_lines(config: Config, stages: Sequence[PlannedStage]) -> list[str]:
    """What the teacher's text and the answers of tasks are written by. Empty where nothing is.

    An engine's memory is its own to divide, and how fast it writes is not estimated: memory and
    time of the plan are those of our own loop.
    """
    lines = []
    if config.paradigm.text == "teacher" and config.paradigm.generate:
        engine = config.paradigm.generate.engine
        lines.append(f"the teacher's text is written by {_named(engine, 'generate', stages)}")
    if config.eval.tasks and config.eval.engine != "loop":
        engine = _named(config.eval.engine, "evaluate", stages)
        lines.append(f"answers of tasks that generate are written by {engine}")
    if any("our own loop" not in line for line in lines):
        lines.append("  memory and time here are those of our own loop")
    return lines


def _named(engine: str, stage: str, stages: Sequence[PlannedStage]) -> str:
    if engine == "loop":
        return "our own loop"
    keys = [planned.settings.get("engine") for planned in stages if planned.stage == stage]
    version = next((f" {key['version']}" for key in keys if key and key["version"]), "")
    return f"{engine}{version}"
