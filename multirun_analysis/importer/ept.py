"""Inference energy as a foreign `ept.json` reports it: no trace stands behind the figure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from multirun_analysis.importer.foreign import Source, count, number, read_object

PLAUSIBLE_RATIO = 10
"""How many times further than their parameters a teacher's J/token may be from its student's.

Decoding reads every weight once a step, so that energy grows about as the parameters do."""


@dataclass(frozen=True)
class Served:
    """What serving a set of prompts took, prompts and answers together."""

    energy_j: float
    tokens_in: int
    tokens_out: int
    total_j_per_token: float


def read_served(source: Source) -> Served:
    """The reported energy, its quotients checked: each must be the energy over those tokens.

    Raises ValueError where they are not.
    """
    record, where = read_object(source), str(source.path)
    energy_j = number(record, "E_run_J", where)
    tokens_in, tokens_out = count(record, "T_in", where), count(record, "T_out", where)
    if energy_j is None or not tokens_in or not tokens_out:
        raise ValueError(
            f"{where}: E_run_J, T_in and T_out are {energy_j}, {tokens_in} and {tokens_out}, "
            "expected numbers above 0; correct it, or remove the file"
        )
    total = energy_j / (tokens_in + tokens_out)
    for key, expected in (
        ("EPT_in_J_per_tok", energy_j / tokens_in),
        ("EPT_out_J_per_tok", energy_j / tokens_out),
        ("EPT_total_J_per_tok", total),
    ):
        found = number(record, key, where)
        if found is not None and not math.isclose(found, expected, rel_tol=1e-6):
            raise ValueError(
                f"{where}: {key} is {found:.6g}, and E_run_J over its tokens is {expected:.6g}; "
                "find out which is wrong, or remove the file"
            )
    return Served(energy_j, tokens_in, tokens_out, total)


def reservation(
    student: Served | None,
    teacher: Served | None,
    *,
    student_params: int | None,
    teacher_params: int | None,
) -> tuple[str | None, bool]:
    """What to know before quoting the reported energies, and whether their ratio is credible."""
    if student is None and teacher is None:
        return None, False
    words = ["reported without a trace to check it, prefill and decode together"]
    if student is None or teacher is None:
        words.append(f"there is none of the {'student' if student is None else 'teacher'}")
        return "; ".join(words), False
    if student.tokens_in != teacher.tokens_in:
        words.append(
            f"the prompts differ: {student.tokens_in:,} tokens for the student, "
            f"{teacher.tokens_in:,} for the teacher"
        )
    times = teacher.total_j_per_token / student.total_j_per_token
    if not student_params or not teacher_params:
        return "; ".join(words), True
    size = teacher_params / student_params
    is_credible = size / PLAUSIBLE_RATIO <= times <= size * PLAUSIBLE_RATIO
    if not is_credible:
        words.append(
            f"the teacher's {teacher.total_j_per_token:.3g} J/token is {times:.0f} times the "
            f"student's with {size:.1f} times the parameters, which nothing explains: unverified"
        )
    return "; ".join(words), is_credible
