"""Hydra's launcher for Slurm: submitit's, with a sweep that is resumed and awaited as a whole.

Hydra takes launchers from packages below `hydra_plugins` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher


class KdwattsSlurmLauncher(SlurmLauncher):
    """Sends a sweep's unfinished runs as one array; in a job, this object is what is called."""

    prerequisites: Sequence[str] = ()
    """Artifacts that jobs before the array made: an element of it builds none of them."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        # Other programs of this environment scan the plugins, too.
        from kdwatts.cli.submit import launch

        return launch(self, job_overrides, initial_job_idx)

    def __call__(self, *args: Any, **kwargs: Any) -> JobReturn:
        from kdwatts.cli import sweep

        sweep.prerequisites[:] = self.prerequisites
        return super().__call__(*args, **kwargs)


ConfigStore.instance().store(
    group="hydra/launcher",
    name="kdwatts_slurm",
    node=SlurmQueueConf(_target_=f"{__name__}.{KdwattsSlurmLauncher.__name__}"),
    provider="kdwatts",
)
