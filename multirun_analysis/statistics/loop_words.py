"""The eager loop in words: wherever its joules per token stand, they are named as its own."""

from __future__ import annotations

from collections.abc import Iterable

from multirun_analysis.values.rows import Row


def loop_words(runs: Iterable[Row]) -> str:
    """Such as `our eager loop at batch 8`, for a sentence. Empty where no run of ours was served.

    Imported runs were served by other software.
    """
    batches = _batches(runs)
    if batches is None:
        return ""
    return f"our eager loop{' at ' if batches else ''}{batches}"


def loop_label(runs: Iterable[Row]) -> str:
    """Such as `eager loop, batch 8`, for a head. Empty as `loop_words`."""
    batches = _batches(runs)
    if batches is None:
        return ""
    return f"eager loop{', ' if batches else ''}{batches}"


def _batches(runs: Iterable[Row]) -> str | None:
    """Such as `batch 8`. Empty where older records do not say it, None where nothing was served."""
    served = [
        run
        for run in runs
        if run.get("finished")
        and not run.get("origin")
        and any(run.get(f"{who}_served_j_per_token") is not None for who in ("student", "teacher"))
    ]
    if not served:
        return None
    sizes = sorted({int(size) for run in served if (size := run.get("serving_batch_size"))})
    return f"batch {' and '.join(map(str, sizes))}" if sizes else ""
