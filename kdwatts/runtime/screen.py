"""Log lines on a screen: the time of day and the sentence; the log's file has the rest."""

from __future__ import annotations

import logging
import warnings


class ScreenLine(logging.Formatter):
    """A log line for a person; its level is said from WARNING on."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s  %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The sentence, after its level from WARNING on, with blanks for tabs."""
        if record.levelno >= logging.WARNING:
            record.message = f"{record.levelname.lower()}: {record.message}"
        record.message = record.message.expandtabs(2)
        return super().formatMessage(record)


def log_errors_only() -> None:
    """Let this process log nothing below an error: of several ranks the first logs for all."""
    warnings.simplefilter("ignore")
    handlers = [*logging.getLogger().handlers, logging.lastResort]
    for handler in filter(None, handlers):
        handler.setLevel(logging.ERROR)
