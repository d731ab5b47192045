"""Server-sent events out of reads that end anywhere."""

from __future__ import annotations

import pytest

from kdwatts.serving.client import event_streams
from kdwatts.serving.client.event_streams import EventStream


def test_an_event_ends_at_a_blank_line_and_not_before():
    stream = EventStream()
    assert stream.feed(b"data: one\n") == []
    assert stream.feed(b"\ndata: two\n\n") == [b"one", b"two"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_reads_may_end_anywhere_also_inside_a_character(size: int, end: str):
    text = f": ping{end}{end}data: {{'text': '€𝄞é'}}{end}{end}data: [DONE]{end}{end}".encode()
    stream, events = EventStream(), []
    for start in range(0, len(text), size):
        events += stream.feed(text[start : start + size])
    assert events == ["{'text': '€𝄞é'}".encode(), b"[DONE]"]


def test_data_lines_of_one_event_are_joined_by_a_line_feed():
    assert EventStream().feed(b"data: one\ndata\ndata:two\n\n") == [b"one\n\ntwo"]


def test_one_space_alone_is_taken_off_the_value():
    assert EventStream().feed(b"data:  two spaces\n\n") == [b" two spaces"]


def test_comments_and_other_fields_are_no_data():
    assert EventStream().feed(b": x\nevent: y\nid: 1\nretry: 2\n\ndatabase: z\n\n") == []


def test_only_a_line_feed_ends_a_line():
    data = "one\u2028two\u0085three\x0bfour\rfive".encode()
    assert EventStream().feed(b"data: " + data + b"\n\n") == [data]


def test_an_event_without_its_blank_line_never_comes():
    assert EventStream().feed(b"data: one\n\ndata: cut") == [b"one"]


def test_a_line_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(event_streams, "MAX_EVENT_BYTES", 1 << 20)
    stream = EventStream()
    with pytest.raises(ValueError, match="an event is longer than 1 MiB"):
        for _ in range(20):
            stream.feed(b"x" * 65536)
