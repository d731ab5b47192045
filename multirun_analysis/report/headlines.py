"""The first sentence of the page where it is not the answer's: for each reader another one."""

from __future__ import annotations

from kdwatts.metrics.footprint import J_PER_KWH
from multirun_analysis.report.esg_sections import footprint
from multirun_analysis.report.provider_section import candidates_of
from multirun_analysis.report.service_section import answer_and_reasons
from multirun_analysis.report.study import Study
from multirun_analysis.statistics.candidates import serving_j, teacher_j
from multirun_analysis.statistics.loop_words import loop_label
from multirun_analysis.statistics.savings import saving
from multirun_analysis.statistics.server_words import engine_words
from multirun_analysis.values import units
from multirun_analysis.values.rows import to_rows


def provider_headline(study: Study) -> str | None:
    """What to serve at the load; without one what a year of service takes with the first setting.

    None where there is neither.
    """
    if study.service is not None:
        return answer_and_reasons(study)[0][0]
    found = candidates_of(study)
    if not found:
        return None
    student, teacher = serving_j(found[0]), teacher_j(found[0])
    if student.value is None or teacher.value is None:
        return None
    tokens = f"{units.plain_count(study.tokens_per_day)} tokens"
    loop = loop_label(study.rows)
    takes, instead = (units.significant(j / J_PER_KWH) for j in (student.value, teacher.value))
    sentence = (
        f"A year of {tokens} a day takes {takes} kWh with {found[0].label} and {instead} kWh with "
        f"its teacher ({', '.join(filter(None, (found[0].energy_quality, loop)))})."
    )
    if saving(student, teacher).joules.is_bounded:
        return sentence
    return f"{sentence} The measurements cannot tell the two apart."


def esg_headline(study: Study) -> str | None:
    """What the work drew and emitted, by how that is known; None without windows."""
    found = footprint(study)
    if not found or not found["sums"]:
        return None
    site = found["site"]
    sentences = []
    for line, (kwh, _, kg_co2e, _) in found["sums"]:
        emitted = "" if kg_co2e == units.MISSING else f" and emitted {kg_co2e} kg CO2e"
        subject = "It also" if sentences else "This work"
        sentences.append(f"{subject} drew {kwh} kWh{emitted} ({line.energy_class}).")
    if site is None:
        return f"{' '.join(sentences)} Its CO2e is unknown, because its runs have no common site."
    return f"{' '.join(sentences)} CO2e is at the grid factor of site {site.name}."


def servers_headline(study: Study) -> str | None:
    """What was served, where there is no run; None where there is one."""
    if study.rows:
        return None
    rows = to_rows(study.collected.serving)
    servers = dict.fromkeys(f"{row['run']} behind {engine_words(row)}" for row in rows)
    return f"Measured under load: {', '.join(servers) or 'nothing'}. There is no run here."


HEADLINES = {"provider": provider_headline, "esg": esg_headline}
"""Profile to its headline, where it has one of its own."""
