"""Server-sent events out of bytes, as https://html.spec.whatwg.org/multipage/server-sent-events.html
has them, of which a completion uses the data alone."""

from __future__ import annotations

MAX_EVENT_BYTES = 16 << 20
"""No event of a completion is near it. A server that never ends a line must not fill memory."""


class EventStream:
    """The data of each event, out of reads that end anywhere, also inside a character.

    Bytes stay bytes: only LF and CR LF end a line, so that U+2028 in JSON does not, and whoever
    reads the data as JSON finds out whether it is UTF-8.
    """

    def __init__(self) -> None:
        self._rest = b""
        """The begun line."""
        self._data: list[bytes] = []
        """The data lines of the begun event."""

    def feed(self, read: bytes) -> list[bytes]:
        """The data of the events that end in this read.

        Comments, other fields and events without data are left out. An event that the end of the
        stream cuts off never comes out.

        Raises ValueError for an event of more than MAX_EVENT_BYTES.
        """
        lines = (self._rest + read).split(b"\n") if self._rest else read.split(b"\n")
        self._rest = lines.pop()
        events = []
        for line in lines:
            if line[-1:] == b"\r":
                line = line[:-1]
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b"data:"):
                # One space after the colon belongs to the field, not to its value.
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif line == b"data":
                self._data.append(b"")
        if len(self._rest) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise ValueError(f"an event is longer than {MAX_EVENT_BYTES >> 20} MiB")
        return events
