"""Joules per token, and accuracy kept over energy: EPT, Eff_overall and its lifetime form."""

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


def lifetime_efficiency(
    kept: float | None,
    teacher_j_per_token: float | None,
    student_j_per_token: float | None,
    distill_j: float | None,
    *,
    tokens: float,
) -> float | None:
    """OM_perf times the teacher's joules for N tokens over the student's, its building included.

    OM_perf N EPT_T / (E_distill + N EPT_S), no unit; it tends to Eff_overall as N grows.
    """
    if None in (kept, teacher_j_per_token, student_j_per_token, distill_j):
        return None
    assert kept is not None and teacher_j_per_token is not None
    assert student_j_per_token is not None and distill_j is not None
    whole_j = distill_j + tokens * student_j_per_token
    return kept * tokens * teacher_j_per_token / whole_j if whole_j > 0 else None
