"""Error of J/token under load against a server of known power.

    python -m tests.bench.serving_accuracy

measures six loads at once on the replaying NVML library, in about two minutes. True joules are
those of the server's own log: P0 D + watts x busy seconds, over the tokens that it wrote and read.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.serving.accuracy_cases import cases
from tests.serving.known_power import measure
from tests.telemetry.cases import build_library


def main() -> None:
    """Print one line for each load."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "nvml"
        library.mkdir()
        results = measure(build_library(library), Path(folder) / "cases", list(cases()))
    heads = ("window s", "true J/token", "measured", "interval", "error %")
    widths = (10, 14, 10, 19, 9)
    columns = "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))
    print(f"{'load, counter period, phase':<30}{columns}  verdict")
    for name, one in results.items():
        point, figure = one.point, one.point.j_per_token
        assert figure.value is not None and point.duration_s is not None
        true = one.true_j_per_token
        error_pct = 100 * (figure.value / true - 1)
        interval = f"{figure.low:.4f} to {figure.high:.4f}"
        print(
            f"{name:<30}{point.duration_s:>10.1f}{true:>14.5f}{figure.value:>10.5f}{interval:>19}"
            f"{error_pct:>9.3f}  {point.verdict}"
        )


if __name__ == "__main__":
    main()
