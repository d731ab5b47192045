"""Handles of the job's GPUs, renewed once the driver has been reloaded."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import Any

import pynvml
from pynvml import NVMLError

log = logging.getLogger(__name__)

_STALE = {
    # The library's state went with the driver.
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    # The GPU left the bus or is about to be reset: its handle never answers again.
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_GPU_NOT_FOUND,
    # The handle is of another initialisation.
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
    # What drivers say of anything else.
    pynvml.NVML_ERROR_UNKNOWN,
}
"""Errors that only a new initialisation may end. Timeouts and their like pass by themselves."""

_MIN_WAIT_S = 1.0
_MAX_WAIT_S = 60.0

_MAX_INITS = 1000


@dataclass
class _Outage:
    """A GPU that has not answered since an error of _STALE."""

    due_s: float
    """When NVML may be initialised for it."""
    wait_s: float = _MIN_WAIT_S


class Handles:
    """NVML's current handle of each GPU. Two threads may ask at once."""

    def __init__(self) -> None:
        self._by_uuid: dict[str, Any] = {}
        self._outages: dict[str, _Outage] = {}
        self._due_s = -math.inf
        self._lock = threading.Lock()

    def of(self, uuid: str) -> Any:
        """The handle of a GPU. Raises NVMLError while the GPU is not there."""
        handle = self._by_uuid.get(uuid)
        if handle is None:
            handle = self._by_uuid[uuid] = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return handle

    def answered(self, uuid: str) -> None:
        """Note that the GPU answers."""
        if self._outages:
            self._outages.pop(uuid, None)

    def failed(self, uuid: str, error: NVMLError) -> None:
        """Initialise NVML again and drop all handles, when nothing else can end the GPU's error.

        The first try comes a second after the error began, since most errors pass. Then it is every
        second while there is no driver. Where the driver works and one GPU stays lost, the pauses
        grow to a minute.
        """
        if error.value not in _STALE:  # pyright: ignore[reportAttributeAccessIssue]
            return
        with self._lock:
            now_s = time.monotonic()
            outage = self._outages.setdefault(uuid, _Outage(now_s + _MIN_WAIT_S))
            if now_s < max(outage.due_s, self._due_s):
                return
            self._by_uuid.clear()
            failure = _initialise_anew()
            if failure is None:
                if outage.wait_s == _MIN_WAIT_S:
                    log.warning(
                        "telemetry: initialising NVML again, since %s reported %r", uuid, str(error)
                    )
                outage.wait_s = min(2 * outage.wait_s, _MAX_WAIT_S)
            self._due_s = time.monotonic() + _MIN_WAIT_S
            outage.due_s = time.monotonic() + outage.wait_s


def _initialise_anew() -> NVMLError | None:
    """Shut NVML down for all its users in this process and initialise it as often as before.

    NVML counts them, and torch.cuda.device_count() is one that never lets go. Returns what
    stopped the initialisation.
    """
    num_inits = 0
    try:
        while num_inits < _MAX_INITS:
            pynvml.nvmlShutdown()
            num_inits += 1
    except NVMLError:
        pass  # UNINITIALIZED: nobody is left.
    try:
        for _ in range(max(1, num_inits)):
            pynvml.nvmlInit()
    except NVMLError as error:
        return error
    return None
