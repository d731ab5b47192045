"""The token of a meter that answers other hosts, from the environment of both sides.

It is never an option of a command: every user of a host sees the command lines of all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

NAME, FILE_NAME = "KDWATTS_METER_TOKEN", "KDWATTS_METER_TOKEN_FILE"


def meter_token(environment: Mapping[str, str] = os.environ) -> str | None:
    """KDWATTS_METER_TOKEN, or what the file KDWATTS_METER_TOKEN_FILE holds; None without either.

    Raises ValueError for a file that cannot be read, and for an empty token or one that no header
    can hold.
    """
    token, path = environment.get(NAME), environment.get(FILE_NAME)
    if token is None and path is None:
        return None
    name = NAME
    if token is None:
        name = FILE_NAME
        try:
            token = Path(str(path)).expanduser().read_text("utf-8", "replace")
        except OSError as error:
            raise ValueError(
                f"{FILE_NAME}={path} cannot be read ({str(error.strerror).lower()}); name a file "
                "that holds the token, or unset it"
            ) from None
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise ValueError(
            f"{name} holds no token of printable ASCII characters; write one, or unset it"
        )
    return token
