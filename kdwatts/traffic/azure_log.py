"""Logs of Azure's LLM services, 2023 and 2024: moments and lengths.

Columns TIMESTAMP, ContextTokens, GeneratedTokens (github.com/Azure/AzurePublicDataset). The
moments of 2023 have no zone and seven digits below a second, those of 2024 have a zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from kdwatts.traffic.log_rows import BadRow, tokens_in
from kdwatts.traffic.logged_request import LoggedRequest

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def azure_request(cells: Sequence[str]) -> LoggedRequest | None:
    """The request of a row's cells, with seconds since 1970; None for one without tokens.

    Raises BadRow.
    """
    t_s = _moment_s(cells[0])
    prompt_tokens, output_tokens = (
        tokens_in(cell, name) for cell, name in zip(cells[1:], COLUMNS[1:], strict=True)
    )
    if not prompt_tokens or not output_tokens:
        return None
    return LoggedRequest(t_s, prompt_tokens, output_tokens)


def _moment_s(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)  # Digits below a microsecond are cut off.
    except ValueError:
        wrong = "has no moment such as 2023-11-16 18:15:46.68 in 'TIMESTAMP'"
        raise BadRow(f"{wrong}; repair or delete it") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
