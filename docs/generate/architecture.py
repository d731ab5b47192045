"""Draws docs/architecture.svg, the rooms of the code on their floors, from the imports.

`python -m docs.generate.architecture` in the repository's root writes it anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from docs.generate.class_fields import REPOSITORY
from docs.generate.rooms import House, Room, house, without_detours

PICTURE = REPOSITORY / "docs" / "architecture.svg"

COLUMN, BOX_WIDTH = 172, 150
ROW, BOX_HEIGHT = 96, 58
LEFT, TOP = 96, 66
"""Pixels; a row is a floor."""
CLEAR = 14
"""Between an arrow and a box that it passes, or another arrow beside it."""

PLACES: dict[Room, tuple[float, str, str]] = {
    ("kdwatts", "__main__"): (1.75, "python -m kdwatts", ""),
    ("kdwatts", "tools"): (3.2, "make the tiny world,", "read GGUF files"),
    ("kdwatts", "doctor"): (0.45, "is this machine", "right? verdicts"),
    ("kdwatts", "cli"): (1.75, "commands, sweeps,", "refusals, Slurm"),
    ("kdwatts", "planning"): (2.4, "until=plan: memory,", "hours, kWh"),
    ("kdwatts", "pipeline"): (1.2, "the path of a run", "through its stages"),
    ("kdwatts", "stages"): (1.75, "one file a stage,", "and their order"),
    ("kdwatts", "training"): (1.25, "the loop, the terms", "of a loss"),
    ("kdwatts", "evaluation"): (2.25, "benchmarks,", "scores"),
    ("kdwatts", "serving"): (3.2, "servers under load,", "joules per token"),
    ("kdwatts", "teacher"): (1.5, "what the teacher says,", "and its cache"),
    ("kdwatts", "memory"): (0.45, "bytes and operations", "by arithmetic"),
    ("kdwatts", "losses"): (0.0, "divergences,", "distances, relations"),
    ("kdwatts", "models"): (1.0, "loading, blocks,", "shards of weights"),
    ("kdwatts", "artifacts"): (2.0, "the store,", "status, manifest"),
    ("kdwatts", "data"): (3.0, "documents, mixes,", "token shards"),
    ("kdwatts", "telemetry"): (2.5, "the meter: devices,", "windows, joules"),
    ("kdwatts", "config"): (1.0, "options, their ranges,", "checks"),
    ("kdwatts", "traffic"): (1.5, "logs of requests:", "rates, lengths"),
    ("kdwatts", "records"): (2.5, "what a run writes", "to its folder"),
    ("kdwatts", "runtime"): (0.5, "paths, signals,", "ranks, Slurm jobs"),
    ("kdwatts", "metrics"): (2.0, "quantities with", "units and errors"),
    ("multirun_analysis", "__main__"): (4.75, "python -m", "multirun_analysis"),
    ("multirun_analysis", "commands"): (4.75, "report, choose,", "status, import"),
    ("multirun_analysis", "report"): (4.75, "pages and their", "templates"),
    ("multirun_analysis", "narrative"): (4.75, "sentences: answer,", "findings, caveats"),
    ("multirun_analysis", "figures"): (5.25, "exhibits: a table", "and what draws it"),
    ("multirun_analysis", "collect"): (4.25, "run folders", "as tables"),
    ("multirun_analysis", "statistics"): (5.25, "what several runs", "say together"),
    ("multirun_analysis", "importer"): (4.25, "foreign records", "as run folders"),
    ("multirun_analysis", "values"): (4.75, "rows, order, units,", "files and folders"),
}
"""Each room's column, and what is in it on two lines."""

STYLE = """
    text { font-family: system-ui, "Segoe UI", Roboto, Helvetica, sans-serif; fill: #1f2933; }
    .title { font-size: 17px; font-weight: 600; }
    .name { font-size: 14px; font-weight: 600; text-anchor: middle; }
    .words { font-size: 11.5px; text-anchor: middle; fill: #52606d; }
    .note { font-size: 12px; fill: #52606d; }
    .floor { font-size: 12px; fill: #7b8794; text-anchor: middle; }
    .band { fill: #f3f6f8; }
    .box { fill: #ffffff; stroke: #3e7c77; stroke-width: 1.3; }
    .torch { stroke: #c2571b; }
    .arrow { fill: none; stroke: #7b8fa3; stroke-width: 1.2; }
    .across { stroke: #4c6fb5; stroke-dasharray: 5 3; }
    .head { fill: #7b8fa3; }
    .head.across { fill: #4c6fb5; stroke: none; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e4e7eb; }
      .words, .note { fill: #b0bac5; }
      .floor { fill: #8592a0; }
      .band { fill: #252b35; }
      .box { fill: #1b2029; stroke: #5fb3ab; }
      .torch { stroke: #e0894e; }
      .arrow { stroke: #7f8fa3; }
      .across { stroke: #86a5e8; }
      .head { fill: #7f8fa3; }
      .head.across { fill: #86a5e8; }
    }
"""


@dataclass(frozen=True)
class Arrow:
    """One import of one room by another, from the box above to the box below."""

    upper: Room
    lower: Room

    @property
    def is_across(self) -> bool:
        """Whether it leads from the analysis to kdwatts."""
        return self.upper[0] != self.lower[0]


def picture() -> str:
    """The picture as SVG, the same for the same imports."""
    rooms = house()
    assert rooms.floors.keys() == PLACES.keys(), (
        f"{sorted(rooms.floors.keys() ^ PLACES.keys())}: give each room a place, and words, in "
        "docs/generate/architecture.py"
    )
    num_floors = max(rooms.floors.values())
    width = round(_x(max(column for column, *_ in PLACES.values())) + BOX_WIDTH / 2 + 24)
    height = TOP + num_floors * ROW + 76
    kept = without_detours(rooms.arrows)
    arrows = [Arrow(upper, lower) for upper in PLACES for lower in sorted(kept.get(upper, ()))]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-labelledby="title">',
        "  <title id=\"title\">The rooms of kdwatts and multirun_analysis on their floors</title>",
        f"  <style>{STYLE}  </style>",
        *_bands(num_floors, width),
        *_arrows(arrows, rooms),
        *(_box(room, rooms) for room in PLACES),
        *_legend(height),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _x(column: float) -> float:
    return LEFT + BOX_WIDTH / 2 + column * COLUMN - 20


def _y(floor: int, num_floors: int) -> float:
    """The top of the boxes of a floor."""
    return TOP + (num_floors - floor) * ROW + (ROW - BOX_HEIGHT) / 2


def _bands(num_floors: int, width: int) -> list[str]:
    found = [
        f'  <text class="title" x="{LEFT - 20}" y="36">kdwatts/</text>',
        f'  <text class="title" x="{_x(4.25) - BOX_WIDTH / 2:g}" y="36">multirun_analysis/</text>',
        '  <text class="floor" x="36" y="36">floor</text>',
    ]
    for floor in range(num_floors, 0, -1):
        top = TOP + (num_floors - floor) * ROW
        if floor % 2:
            found.append(
                f'  <rect class="band" x="12" y="{top}" width="{width - 24}" height="{ROW}"/>'
            )
        found.append(f'  <text class="floor" x="36" y="{top + ROW / 2 + 4:g}">{floor}</text>')
    return found


def _box(room: Room, rooms: House) -> str:
    column, first, second = PLACES[room]
    x, y = _x(column), _y(rooms.floors[room], max(rooms.floors.values()))
    torch = " torch" if room[0] == "kdwatts" and room[1] in rooms.loads_torch else ""
    lines = [line for line in (first, second) if line]
    words = "".join(
        f'<text class="words" x="{x:g}" y="{y + 35 + 14.5 * number:g}">{line}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'  <rect class="box{torch}" x="{x - BOX_WIDTH / 2:g}" y="{y:g}" width="{BOX_WIDTH}" '
        f'height="{BOX_HEIGHT}" rx="7"/>'
        f'<text class="name" x="{x:g}" y="{y + 18:g}">{room[1]}</text>{words}'
    )


def _arrows(arrows: list[Arrow], rooms: House) -> list[str]:
    """Each arrow as a curve that passes between the boxes of the floors on its way."""
    num_floors = max(rooms.floors.values())
    taken: dict[int, list[float]] = {}
    found = []
    # The short ones first: they have the least choice.
    for arrow in sorted(arrows, key=lambda one: rooms.floors[one.upper] - rooms.floors[one.lower]):
        upper, lower = rooms.floors[arrow.upper], rooms.floors[arrow.lower]
        start_x, end_x = _ports(arrow, arrows)
        points = [(start_x, _y(upper, num_floors) + BOX_HEIGHT)]
        passed = range(upper - 1, lower, -1)
        if passed:
            x = _clear_x(passed, start_x, end_x, rooms, taken)
            points += [(x, _y(passed[0], num_floors)), (x, _y(passed[-1], num_floors) + BOX_HEIGHT)]
        points.append((end_x, _y(lower, num_floors) - 6))
        found.append(_curve(points, " across" if arrow.is_across else ""))
    return found


def _ports(arrow: Arrow, arrows: list[Arrow]) -> tuple[float, float]:
    """Where an arrow leaves its upper box and meets its lower one, side by side with others."""
    ends = []
    for here, there in ((arrow.upper, arrow.lower), (arrow.lower, arrow.upper)):
        others = [
            two.lower if two.upper == here else two.upper
            for two in arrows
            if here == (two.upper if here == arrow.upper else two.lower)
        ]
        others.sort(key=lambda room: PLACES[room][0])
        step = min(34.0, (BOX_WIDTH - 30) / max(1, len(others) - 1))
        ends.append(_x(PLACES[here][0]) + (others.index(there) - (len(others) - 1) / 2) * step)
    return ends[0], ends[1]


def _clear_x(
    floors: range, start_x: float, end_x: float, rooms: House, taken: dict[int, list[float]]
) -> float:
    """Where an arrow goes straight down past these floors, clear of boxes and of other arrows.

    Of all such places it is the one with the shortest way from its start and to its end.
    """
    centres = [_x(PLACES[room][0]) for room, floor in rooms.floors.items() if floor in floors]
    others = [x for floor in floors for x in taken.get(floor, ())]

    def is_clear(x: float) -> bool:
        passes = all(abs(x - centre) >= BOX_WIDTH / 2 + CLEAR for centre in centres)
        return passes and all(abs(x - other) >= CLEAR for other in others)

    clear = [x for x in range(LEFT - 40, round(_x(6)), 2) if is_clear(x)]
    middle = (start_x + end_x) / 2
    found = min(clear, key=lambda x: (abs(x - start_x) + abs(x - end_x), abs(x - middle)))
    for floor in floors:
        taken.setdefault(floor, []).append(found)
    return found


def _curve(points: list[tuple[float, float]], kind: str) -> str:
    """A line through the points, upright at each, with a head at its end."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x, y), (next_x, next_y) in pairwise(points):
        middle = (y + next_y) / 2
        path += f" C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {next_y:.1f}"
    x, y = points[-1]
    head = f"M{x:.1f} {y + 5:.1f} L{x - 3.6:.1f} {y - 2.5:.1f} L{x + 3.6:.1f} {y - 2.5:.1f} Z"
    return f'  <path class="arrow{kind}" d="{path}"/><path class="head{kind}" d="{head}"/>'


def _legend(height: int) -> list[str]:
    left, y = LEFT - 20, height - 46
    return [
        f'  <rect class="box torch" x="{left}" y="{y - 11}" width="24" height="14" rx="3"/>',
        f'  <text class="note" x="{left + 32}" y="{y}">may load torch</text>',
        f'  <rect class="box" x="{left + 150}" y="{y - 11}" width="24" height="14" rx="3"/>',
        f'  <text class="note" x="{left + 182}" y="{y}">loads no torch when imported</text>',
        f'  <path class="arrow across" d="M{left + 380} {y - 4} h30"/>',
        f'  <text class="note" x="{left + 418}" y="{y}">what the analysis uses of kdwatts</text>',
        f'  <text class="note" x="{left}" y="{y + 24}">An arrow is an import. An import is left '
        "out where a path of arrows shows it already.</text>",
    ]


if __name__ == "__main__":
    PICTURE.write_text(picture(), "utf-8")
