"""Logs of BurstGPT: seconds, sessions in its later release, lengths, and failures.

Columns by name (github.com/HPMLL/BurstGPT): Timestamp in seconds, Session ID and Elapsed time
where the release has them, Model, Request tokens, Response tokens, Total tokens, Log Type.
A failure has 0 response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdwatts.traffic.log_rows import number_in, tokens_in
from kdwatts.traffic.logged_request import LoggedRequest

COLUMNS = ("Timestamp", "Request tokens", "Response tokens", "Session ID")
NEEDED = COLUMNS[:3]

NO_SESSION = ("", "nan", "none", "null", "-", "-1")
"""How a table writes that a request belongs to no conversation."""


def burstgpt_request(cells: Sequence[str]) -> LoggedRequest | None:
    """The request of a row's cells; None for a failure. Raises BadRow."""
    moment, read, written, session = cells
    t_s = number_in(moment, COLUMNS[0])
    prompt_tokens, output_tokens = tokens_in(read, COLUMNS[1]), tokens_in(written, COLUMNS[2])
    if not prompt_tokens or not output_tokens:
        return None
    own = None if session.lower() in NO_SESSION else session
    return LoggedRequest(t_s, prompt_tokens, output_tokens, own)
