"""What a reader must know before quoting a number, derived from the tables."""

from __future__ import annotations

import json
from collections import Counter

from kdwatts.records.schema import COMPONENTS
from multirun_analysis.collect.collection import Collected
from multirun_analysis.narrative.accuracy_caveat import accuracy_caveat
from multirun_analysis.narrative.examinations import examination_passages
from multirun_analysis.narrative.imported_runs import imported_passages
from multirun_analysis.narrative.server_methods import method_words
from multirun_analysis.narrative.site_words import factor_words, provenance_words, site_words
from multirun_analysis.statistics.comparison_words import p_words
from multirun_analysis.statistics.comparisons import ALPHA
from multirun_analysis.statistics.loop_words import loop_words
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.pooled_serving import Pool, serving_pools
from multirun_analysis.statistics.seeds import (
    draws_of,
    energy_by_artifact_j,
    num_students,
    top_windows,
)
from multirun_analysis.statistics.server_words import WITHOUT_IDLE
from multirun_analysis.statistics.site import stated_sites
from multirun_analysis.values import units
from multirun_analysis.values.notices import Passage, notices_of, plain_text
from multirun_analysis.values.rows import Row, distinct_students, grouped, known, to_rows


def caveats(collected: Collected, *, name_hosts: bool = True) -> list[tuple[str, str]]:
    """Titles and sentences, plain text; what concerns several runs names them in brackets."""
    found = caveat_passages(collected, name_hosts=name_hosts)
    return [(title, plain_text(parts)) for title, parts in found]


def caveat_passages(
    collected: Collected, *, name_hosts: bool = True
) -> list[tuple[str, list[Passage]]]:
    """Titles and their sentences; subjects of which nothing is known are left out.

    Without `name_hosts` a machine is known by its GPU or processor: for pages that are published.
    """
    runs, stages = to_rows(collected.runs), to_rows(collected.stages)
    students = distinct_students(runs)
    found = [
        ("How energy was obtained", _provenance(students)),
        ("What is not counted", _not_counted(students, stages)),
        ("Uncertainty and coverage", _uncertainty(students, stages)),
        ("Examination", examination_passages(students, name_hosts=name_hosts)),
        ("Idle power", _idle(students)),
        ("Inherited work", _sharing(students, stages)),
        ("Joules per token", _served(runs, to_rows(collected.inference))),
        ("Serving under load", method_words(to_rows(collected.serving), runs)),
        ("Quantised teacher", _quantised(students)),
        ("Imported runs", imported_passages(students, stages)),
        ("Accuracy", accuracy_caveat(to_rows(collected.scores), students)),
        ("Seeds", _seeds(students)),
        ("Carbon", _carbon(students)),
        ("Hardware", _hardware(runs, name_hosts=name_hosts)),
        ("Software", _software(runs)),
        ("Duplicates and interruptions", _repeats(runs)),
    ]
    texts: list[tuple[str, list[Passage]]] = [
        (title, [text] if isinstance(text, str) else text) for title, text in found
    ]
    return [(title, parts) for title, parts in texts if parts and parts != [""]]


def _provenance(students: list[Row]) -> str:
    kinds = Counter(energy_class(run["own_energy_quality"]) for run in students)
    words = {
        "measured": "measured by sensors",
        "estimated": "estimated from processor load and rated power, because no sensor could be "
        "read",
        "mixed": "a sum of measured and estimated parts",
        "missing": "unknown",
    }
    parts = [f"{count} of {len(students)} {words.get(k, k)}" for k, count in kinds.items()]
    text = f"Energy of building the students: {'; '.join(parts)}." if parts else ""
    if sources := sorted({run["cpu_estimate"] for run in known(students, "cpu_estimate")}):
        text += f" Rated power: {'; '.join(sources)}."
    if len(kinds) > 1:
        text += " Measured and estimated students are never ranked against each other."
    return text


def _not_counted(students: list[Row], stages: list[Row]) -> str:
    missing = {
        part: [run["run"] for run in students if run[f"{part}_energy_j"] is None]
        for part in COMPONENTS
    }
    absent = [
        f"{part.upper()} in {len(names)} of {len(students)}{_why(part, names, stages)}"
        for part, names in missing.items()
        if names
    ]
    if not absent:
        return ""
    return (
        f"These parts have no figure, so no sum contains them: {', '.join(absent)}. Power "
        "supplies, fans, disks and network are never included."
    )


def _why(part: str, runs: list[str], stages: list[Row]) -> str:
    """In brackets, what the stages of these runs say about a component without a figure."""
    column = f"{part}_reason"
    found = notices_of((w["run"], w[column]) for w in known(stages, column) if w["run"] in runs)
    return f" ({'; '.join(sorted(notice.sentence for notice in found))})" if found else ""


def _uncertainty(students: list[Row], stages: list[Row]) -> str:
    parts = []
    measured = known(students, "own_energy_uncertainty_j", "own_energy_j")
    measured = [run for run in measured if run["own_energy_j"] > 0]
    shares = [100 * run["own_energy_uncertainty_j"] / run["own_energy_j"] for run in measured]
    if shares:
        ends = dict.fromkeys(units.significant(end, 2) for end in (min(shares), max(shares)))
        parts.append(
            f"One standard deviation of a student's energy is {' to '.join(ends)} % of that energy."
            " It includes the error of calibration or of the power model. This error cancels in "
            "ratios of energies on one device."
        )
    names = {run["run"] for run in students}
    windows = [w for w in top_windows(stages) if w["run"] in names and w["outcome"] != "reused"]
    covered = [window.get(f"{part}_coverage") for window in windows for part in COMPONENTS]
    covered = [share for share in covered if share is not None]
    if covered:
        lowest = units.significant(100 * min(covered))
        share = "all" if lowest == "100" else f"at least {lowest} %"
        parts.append(f"In every stage, readings cover {share} of the time.")
    imported = {run["run"] for run in known(students, "origin")}  # These have a word of their own.
    doubted = [
        window
        for window in windows
        if window["run"] not in imported
        and any(known([window], f"{part}_energy_j", f"{part}_reason") for part in COMPONENTS)
    ]
    if doubted:
        parts.append(
            f"In {len(doubted)} of {len(windows)} stages some reading was rejected or doubtful. "
            "The reason columns of stages.csv say why."
        )
    return " ".join(parts)


def _idle(students: list[Row]) -> str:
    netted = known(students, "own_energy_j", "own_net_energy_j")
    netted = [run for run in netted if run["own_energy_j"] > 0]
    text = "Every energy that a sensor read includes idle power, unless it is called net."
    if any(run["own_energy_quality"] in ("estimated", "mixed") for run in students):
        text += f" {WITHOUT_IDLE}"
    if netted:
        shares = [100 * (1 - run["own_net_energy_j"] / run["own_energy_j"]) for run in netted]
        ends = dict.fromkeys(units.significant(end, 2) for end in (min(shares), max(shares)))
        text += (
            f" Idle power was measured before the run for {len(netted)} of {len(students)} "
            f"students. It is {' to '.join(ends)} % of their own energy. The rest is "
            "own_net_energy_j in runs.csv."
        )
    elif students:
        text += " Idle power was not measured before any of these runs, so nothing here is net."
    return text if students else ""


def _sharing(students: list[Row], stages: list[Row]) -> str:
    sharers = num_students(students)
    if not sharers:
        return ""
    energies: dict[str, float | None] = {}
    for run in known(students, "inherited_energy_by_artifact_j"):
        energies |= energy_by_artifact_j(run)
    staged = {window["key"] for window in stages}
    elsewhere = [joules for key, joules in energies.items() if key not in staged]
    made = [joules for joules in elsewhere if joules is not None]
    several, amount = len(elsewhere) != 1, units.energy(sum(made)) if made else "unknown energy"
    before = (
        f" {len(elsewhere)} artifact{'s' * several} ({amount}{' in all' * several}) "
        f"{'were' if several else 'was'} made before these runs, for example by a teacher's "
        f"training. The figure of stages does not show {'them' if several else 'it'}."
    )
    return (
        "Inherited work is work that several students use: token shards, the teacher's text and "
        f"signals, the teacher's training. Here it is {units.count(len(sharers), 'artifact')}, "
        f"each shared by up to {max(sharers.values())}. A share is the artifact's energy divided "
        "by the number of distinct students in these folders. More students elsewhere would make "
        "it smaller. Where the uncertainty of inherited energy is not recorded, it is taken to be "
        "proportional to that of the student's own energy."
    ) + (before if elsewhere else "")


def _served(runs: list[Row], inference: list[Row]) -> str:
    """How many measurements each figure pools, whose spread it has, and where runs disagree."""
    pools = [pool for pool in serving_pools(runs, inference) if pool.quality != "reported"]
    if not pools:
        return ""
    named: dict[str, list[str]] = {}
    for pool in pools:
        named.setdefault(_pool_words(pool), []).append(str(len(pool.measurements)))
    counts = [f"{name} {' and '.join(numbers)}" for name, numbers in named.items()]
    more = f" and {len(counts) - 8} more" if len(counts) > 8 else ""
    text = (
        f"They are those of {loop_words(runs) or 'our eager loop'}, not of a server under load. "
        "Students of one architecture, served on one machine in one way, have one figure. It is "
        "the mean of their measurements, with an interval by Student's t. A measurement that "
        f"several runs share counts once. Number of measurements: {', '.join(counts[:8])}{more}."
    )
    single = [pool for pool in pools if len(pool.measurements) == 1]
    if lent := [pool for pool in single if pool.borrowed]:
        text += (
            " One measurement has no spread between runs. The spread of other models on the same "
            f"machine is used for: {_each(lent)}."
        )
    if alone := [pool for pool in single if not pool.borrowed]:
        text += (
            " Measured once, on a machine without another spread: "
            f"{_each(alone)}. Their break-even and savings are unresolved."
        )
    for pool in pools:
        p = pool.agree_p()
        if p is not None and p < ALPHA:
            found = ", ".join(
                f"{each.run} {units.quantity(each.j_per_token, 'J')}"
                for each in pool.measurements.values()
            )
            text += (
                f" Runs of {_pool_words(pool)} differ more than measurements within a run do (F "
                f"test, p is {p_words(p)}): {found}. The interval over runs includes this."
            )
    return text


def _each(pools: list[Pool]) -> str:
    return ", ".join(dict.fromkeys(map(_pool_words, pools)))


def _pool_words(pool: Pool) -> str:
    run, limit_w = pool.run, pool.run["power_limit_w"]
    limit = "" if limit_w is None else f" at {limit_w:g} W"
    bits = run["teacher_quantization"] if pool.subject == "teacher" else None
    return f"{pool.subject} of {run['model']}{f' in {bits}' if bits else ''} on {run['gpu']}{limit}"


def _quantised(students: list[Row]) -> str:
    """What dividing by a teacher in fewer bits means; nothing where none is quantised."""
    taught = Counter(run["teacher_quantization"] for run in known(students, "teacher_quantization"))
    if not taught:
        return ""
    words = ", ".join(f"{count} in {bits}" for bits, count in sorted(taught.items()))
    return (
        f"Teachers of {len(students)} students: {words}. Their joules per token and scores are "
        "those of the quantised teacher, not of the published one. So are accuracy kept, OM_perf, "
        "Eff_overall and break-even. Do not compare them with those of another teacher."
    )


def _seeds(students: list[Row]) -> str:
    groups = grouped(students, "group").values()
    few = sum(len(rows) < 3 for rows in groups)
    draws = draws_of(students)
    text = (
        f"Intervals over {draws} are 95 % intervals by Student's t. Those of energy leave out the "
        f"sensor's calibration, because all {draws} share it. Accuracy kept has two intervals, one "
        f"over {draws} and one over benchmark samples. The wider one is shown. A single run has "
        "the second alone. Thin bars of its energy are one standard deviation."
    )
    if few:
        least = "runs" if "repeats" in draws else draws
        text += f" {few} of {len(groups)} settings have fewer than 3 {least}."
    return text if groups else ""


def _carbon(students: list[Row]) -> str:
    sites = sorted(
        f"{factor_words(site)}, {provenance_words(site)}" for site in stated_sites(students)
    )
    text = (
        f"CO2e is energy times PUE times the grid factor ({'; '.join(sites)}). It is that of own "
        "energy where nothing else is said."
    )
    return f"{text} {site_words(students)}" if sites else ""


def _hardware(runs: list[Row], *, name_hosts: bool) -> str:
    machines = set()
    found = [run for run in runs if run["cards"] or run["host"]]
    for run in found:
        driver = run["driver"] and f"driver {run['driver']}"
        machines.add(
            ", ".join(filter(None, (_place(run, name_hosts), run["cards"] or run["cpu"], driver)))
        )
    text = f"{'; '.join(sorted(machines))}." if machines else ""
    if len({run["cards"] or run["cpu"] for run in found}) > 1:
        text += " The devices differ. Compare energies of methods on one device only."
    return text


def _place(run: Row, name_hosts: bool) -> str | None:
    """The host, or the number of nodes and all of their hosts where there are several."""
    hosts = (run["hosts"] or run["host"] or "a host that is not recorded") if name_hosts else None
    if (number := run["num_nodes"] or 1) == 1:
        return hosts
    return f"{number} nodes ({hosts})" if hosts else f"{number} nodes"


def _software(runs: list[Row]) -> str:
    commits = sorted({short_commit(run["git_commit"]) for run in known(runs, "git_commit")})
    versions = sorted({run["versions"] for run in known(runs, "versions")})
    parts = [f"Commit {', '.join(commits)}."] if commits else []
    for text in versions:
        found = json.loads(text).items()
        parts.append(", ".join(f"{name} {version}" for name, version in found) + ".")
    if len(commits) > 1 or len(versions) > 1:
        parts.append("These runs used different software.")
    return " ".join(parts)


def short_commit(commit: str) -> str:
    """Twelve digits, and the mark of a checkout that differed from its commit."""
    commit, changed, _ = commit.partition("+")
    return commit[:12] + (" with uncommitted changes" if changed else "")


def _repeats(runs: list[Row]) -> str:
    duplicates = len(known(runs, "duplicate_of"))
    resumed = sum((run["num_attempts"] or 1) > 1 for run in runs)
    parts = []
    if duplicates:
        parts.append(f"Runs that repeat a student: {duplicates}. Each student counts once.")
    if resumed:
        parts.append(f"Resumed runs: {resumed}. Their energy includes all attempts.")
    return " ".join(parts)
