"""Error of a GPU window of 20 s against the trace's own energy: `python -m tests.bench.accuracy`.

All cases run at once on the replaying NVML library, in about half a minute. The last but one
column is what the power samples of the same window give without the counter.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.telemetry.cases import build_library, measure


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = measure(build_library(Path(folder)), Path(folder) / "cases")
    heads = ("true J", "measured", "error %", "u J", "samples %")
    print(f"{'case':<51}" + "".join(f"{head:>10}" for head in heads) + "  flags")
    for one in results:
        energy_j = "null" if one.energy_j is None else f"{one.energy_j:.1f}"
        print(
            f"{one.case.name:<51}{one.window_j:10.1f}{energy_j:>10}{one.error_pct:10.4f}"
            f"{one.stated_j:10.1f}{one.sampled_error_pct:10.2f}  {one.reason}"
        )


if __name__ == "__main__":
    main()
