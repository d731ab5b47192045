"""Joules per token, and accuracy kept over energy: EPT and Eff_overall."""

from __future__ import annotations


def j_per_token(energy_j: float | None, tokens: int | None) -> float | None:
    """EPT: joules over tokens; None without either (arXiv 2605.13981)."""
    return energy_j / tokens if energy_j is not None and tokens else None


def eff_overall(
    kept: float | None, teacher_j_per_token: float | None, student_j_per_token: float | None
) -> float | None:
    """OM_perf times teacher over student joules per token served (arXiv 2605.13981)."""
    if kept is None or teacher_j_per_token is None or not student_j_per_token:
        return None
    return kept * teacher_j_per_token / student_j_per_token
