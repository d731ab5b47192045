"""Energy counter and power of a GPU in one query of NVML."""

from __future__ import annotations

from typing import Any

import pynvml
from pynvml import NVMLError

# Pairs of field and scope 0, the whole GPU: without the scope the bindings raise and catch a
# TypeError for every field.
FIELDS = (
    (pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, 0),  # 83: mJ since driver load, Volta and later.
    (pynvml.NVML_FI_DEV_POWER_AVERAGE, 0),  # 185: mW over the last second, Ampere and later.
    (pynvml.NVML_FI_DEV_POWER_INSTANT, 0),  # 186: mW now.
)


class FieldQuery:
    """The query for all of `FIELDS`, with the memory that NVML writes the answers to.

    Without it, the bindings would make that memory, and an object for each value, at every tick.
    That costs as much as the query. Only one thread at a time may use it: readings are taken in
    order.
    """

    def __init__(self) -> None:
        self._values = (pynvml.c_nvmlFieldValue_t * len(FIELDS))()
        for value, (field_id, scope) in zip(self._values, FIELDS, strict=True):
            value.fieldId, value.scopeId = field_id, scope
        self._energy, self._average, self._instant = self._values
        self._energy_value = self._energy.value
        self._average_value, self._instant_value = self._average.value, self._instant.value

    def read(self, handle: Any) -> tuple[int, int, int | None]:
        """The counter in mJ, and instant and average power in mW. Raises NVMLError."""
        library: Any = pynvml.nvmlLib
        code = library.nvmlDeviceGetFieldValues(handle, len(FIELDS), self._values)
        code = code or self._energy.nvmlReturn or self._instant.nvmlReturn
        if code != pynvml.NVML_SUCCESS:
            raise NVMLError(code)
        average_mw = None if self._average.nvmlReturn else self._average_value.uiVal
        return self._energy_value.ullVal, self._instant_value.uiVal, average_mw
