"""docs/architecture.svg is what the imports of today draw."""

from __future__ import annotations

import re

from docs.generate import architecture
from docs.generate.rooms import house, without_detours


def test_the_committed_picture_is_what_the_imports_draw():
    assert architecture.PICTURE.read_text("utf-8") == architecture.picture(), (
        "the rooms or their imports changed; write the picture anew with "
        "`python -m docs.generate.architecture`"
    )


def test_every_arrow_of_the_picture_leads_downwards():
    rooms = house()
    upward = [
        (upper, lower)
        for upper, below in rooms.arrows.items()
        for lower in below
        if rooms.floors[upper] <= rooms.floors[lower]
    ]
    assert upward == []


def test_an_import_is_left_out_where_two_others_lead_there_and_no_other_is():
    top, middle, low = ("a", "top"), ("a", "middle"), ("a", "low")
    arrows = {top: {middle, low}, middle: {low}, low: set()}
    assert without_detours(arrows) == {top: {middle}, middle: {low}, low: set()}
    assert without_detours({top: {low}, middle: {low}, low: set()})[top] == {low}


def test_no_box_of_the_picture_overlaps_another():
    number = r'(?P<{}>[\d.]+)"'
    pattern = 'class="box[^"]*" x="' + number.format("x") + ' y="' + number.format("y")
    boxes = [
        (float(box["x"]), float(box["y"])) for box in re.finditer(pattern, architecture.picture())
    ]
    assert len(boxes) == len(architecture.PLACES) + 2
    rooms = boxes[: len(architecture.PLACES)]
    overlapping = [
        (one, two)
        for place, one in enumerate(rooms)
        for two in rooms[place + 1 :]
        if abs(one[0] - two[0]) < architecture.BOX_WIDTH + 8
        and abs(one[1] - two[1]) < architecture.BOX_HEIGHT + 8
    ]
    assert overlapping == []
