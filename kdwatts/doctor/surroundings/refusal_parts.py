"""What a run would be refused with, as a verdict's finding and remedy."""

from __future__ import annotations


def finding_and_remedy(refusal: Exception) -> tuple[str, str | None]:
    """The two parts of an error's sentence: what was found, and after the semicolon what to do."""
    found, semicolon, remedy = str(refusal).rpartition("; ")
    return (found, remedy) if semicolon else (remedy, None)
