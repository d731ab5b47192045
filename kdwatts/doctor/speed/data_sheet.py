"""A rate that was measured, beside the data sheet of the GPU."""

from __future__ import annotations

from kdwatts.config.machine import Gpu
from kdwatts.doctor.patient import Patient
from kdwatts.doctor.speed.timed_windows import Windows, ends_of, figure, with_interval
from kdwatts.records.doctor_record import Verdict

ABOVE_SHEET = 1.05
"""No device does more than its data sheet says. 5 % are left for a clock above the sheet's."""

FAR_BELOW_SHEET = 0.25
"""Below this share the GPU is another one, or something is broken. Our judgement: a copy or a large
product of a healthy GPU reaches several times as much."""

PRODUCTS_LEAST = 0.5
PRODUCTS_SOURCE = (
    "products of the best shapes reach 80 % on an H100 SXM and 87 % on an A100 SXM (S. Bekman, "
    "Machine Learning Engineering, Maximum Achievable Matmul FLOPS comparison table); 50 % is left "
    "for other shapes and lower power limits"
)
"""Share of the data sheet's rate below which a large square product asks for attention. Random
numbers draw more power than others, so a GPU at its limit lowers its clock for them."""

MEMORY_LEAST = 0.7
MEMORY_SOURCE = (
    "a copy reaches 87 % on an H100 SXM (Voltage Park, GPU benchmarks), copy and triad 74 and 83 % "
    "of 4,000 GB/s on a GH200 (BabelStream, issue 194)"
)
"""The same for a triad."""


def sheet_of(patient: Patient) -> Gpu | None:
    """The data sheet of what computes here; None where it has none, as a CPU has none."""
    return patient.config.gpu if patient.has_cuda else None


def beside_sheet(
    name: str,
    windows: Windows,
    amount: float,
    *,
    what: str,
    unit: str,
    stated: float | None,
    sheet: Gpu | None,
    limit: tuple[float, str],
) -> Verdict:
    """The verdict on a rate of `amount` a repetition, in `unit`, beside what the sheet states.

    `what` names the work, `limit` has the share of the sheet that is expected, with its source.
    """
    rate = windows.rate(amount, unit)
    low, high = ends_of(rate)
    value = rate.number
    found = (
        f"{with_interval(value, low, high, unit)}, best {figure(windows.best(amount))}, median "
        f"{figure(windows.median(amount))}; {what}"
    )
    verdict, against, remedy = None, None, None
    if not stated or sheet is None:
        owner = f"gpu={sheet.name}" if sheet else "this processor"
        found += f"; nothing is known to hold it against, as {owner} has no data sheet here"
    else:
        least, source = limit
        verdict, remedy = _judged(value / stated, low, high, stated, least, sheet.name)
        found += f"; {100 * value / stated:.0f} % of the data sheet"
        against = f"{figure(stated)} {unit} ({sheet.source}); {source}"
    return Verdict(
        name, verdict, found, against, remedy, value=value, low=low, high=high, unit=unit
    )


def _judged(
    share: float, low: float | None, high: float | None, stated: float, least: float, gpu: str
) -> tuple[str, str | None]:
    """Verdict and remedy. It is wrong only where the whole interval is."""
    if low is not None and low > ABOVE_SHEET * stated:
        return "wrong", (
            f"check that this GPU is gpu={gpu}, and that no variable switches TF32 on: unset "
            "NVIDIA_TF32_OVERRIDE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
        )
    slow = (
        "look for other processes, a power limit or a hot GPU: "
        "nvidia-smi -q -d PERFORMANCE,POWER,CLOCK"
    )
    if high is not None and high < FAR_BELOW_SHEET * stated:
        return "wrong", f"check that this GPU is gpu={gpu}; {slow}"
    if share < least:
        return "attention", slow
    return "right", None
