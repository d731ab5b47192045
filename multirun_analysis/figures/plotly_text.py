"""Text from a run folder inside a figure, where plotly.js reads a little HTML."""

from __future__ import annotations

import html


def escape(text: str) -> str:
    """The text with no sign that is markup; quotes stay, for which plotly.js has no names."""
    return html.escape(text, quote=False)
