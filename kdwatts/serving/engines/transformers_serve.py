"""`transformers serve` in the interpreter that runs kdwatts."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version

from kdwatts.config.serving import TransformersServe
from kdwatts.records.serving_record import EngineRecord
from kdwatts.serving.engines.plan import (
    Plan,
    check_flags,
    local_or_hub,
    server_environment,
    value_of,
    weights_of,
)
from kdwatts.serving.engines.served_model import ServedModel

_KEY = "eval.serving.transformers.flags"
_NEEDS = ("fastapi", "uvicorn", "openai", "pydantic")
"""What transformers[serving] brings, as transformers.utils.is_serve_available has it."""

_OURS = {
    "--host": "leave it out",
    "--port": "leave it out",
    "--device": "leave it out: it is the first GPU of the job, or the CPU; engine vllm serves on "
    "several GPUs",
    "--dtype": "set model.student.dtype or model.teacher.dtype",
}


def check(settings: TransformersServe) -> None:
    """Raise ValueError where `transformers serve` cannot be started so."""
    check_flags(_KEY, settings.flags, _OURS)
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"eval.serving.engine=transformers needs {', '.join(missing)}, which are not "
            "installed; run pip install 'kdwatts[serving]'"
        )


def installed_version() -> str:
    """The version of transformers, which is not imported for it."""
    return version("transformers")


def plan(settings: TransformersServe, model: ServedModel, *, port: int) -> Plan:
    """How the server of one model is started. Raises ValueError for a folder that it misreads.

    A model that is named at the start is loaded before the server listens, and never unloaded
    (transformers 5.17 to 5.23).
    """
    served = local_or_hub(model.place)
    if "@" in served:
        raise ValueError(
            f"transformers serve was asked for {served}, and takes what follows @ for a revision; "
            "give a path without @"
        )
    is_on_cpu = model.device_indices is None
    flags = [
        f"--device={'cpu' if is_on_cpu else 'cuda:0'}",
        f"--dtype={model.dtype}",
        "--default-seed=0",
        "--log-level=error",  # Else it writes a line for every request.
        *settings.flags,
    ]
    precision, quantization = weights_of(served, model.dtype)
    environment = server_environment(model.device_indices, same_python=True)
    environment["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"
    return Plan(
        record=EngineRecord(
            name="transformers",
            version=installed_version(),
            flags=flags,
            precision=precision,
            quantization=value_of(settings.flags, "--quantization") or quantization,
        ),
        command=[
            # -P: no file of the folder where the command was started stands in for a library.
            *(sys.executable, "-P", "-m", "transformers.cli.transformers", "serve", served),
            *(*flags, "--host=127.0.0.1", f"--port={port}"),
        ],
        environment=environment,
        model=served,
        dialect="transformers",
    )
