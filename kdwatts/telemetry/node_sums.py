"""Sums over the nodes of a run, component by component. Pure functions.

Nothing is halved silently: what is missing on one node is missing in the sum, and the reason names
the node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdwatts.metrics.quantity import MEASURED
from kdwatts.records.schema import COMPONENTS, Components, NodeShare, StageRow
from kdwatts.telemetry import parts
from kdwatts.telemetry.parts import Part

_WEAKEST_LAST = ("nvml_counter", "nvml_samples", "rapl", "attributed", "tdp_model")
"""Methods. A sum is known as its weakest part is."""


@dataclass(frozen=True)
class NodeParts:
    """What one node used in a window, by its own clock."""

    number: int
    """Counts the nodes of a run from 1, the first rank's."""
    host: str
    """Name of the node."""
    parts: Mapping[str, Part]
    """Per component; also node_cpu and node_dram, where the job has a share of these."""
    duration_s: float | None = None
    """Between its two edges. None where it gave none."""
    skew_s: float | None = None
    """How far its two edges lie from the window's, at most, both added."""

    @property
    def name(self) -> str:
        """The node in words."""
        return f"node {self.number} ({self.host})"


def lost(number: int, host: str, reason: str) -> NodeParts:
    """A node that gave no figures."""
    return NodeParts(number, host, {kind: parts.missing(reason) for kind in COMPONENTS})


def summed(nodes: Sequence[NodeParts]) -> dict[str, Part]:
    """Every component of all nodes together.

    Where one node has a share of a component, `node_cpu` or `node_dram` is the sum of whole nodes:
    a node that is not shared counts its own.
    """
    components = {
        kind: _summed(kind, nodes, [node.parts[kind] for node in nodes]) for kind in COMPONENTS
    }
    for kind in COMPONENTS:
        if any(f"node_{kind}" in node.parts for node in nodes):
            whole = [node.parts.get(f"node_{kind}", node.parts[kind]) for node in nodes]
            components[f"node_{kind}"] = _summed(kind, nodes, whole)
    return components


def _summed(kind: str, nodes: Sequence[NodeParts], terms: Sequence[Part]) -> Part:
    """One component: energies add up, random errors in squares.

    Of one method all devices share the calibration error, so it adds up as it is; of different
    methods in squares. Coverage is the mean over nodes. All other joules have a sum where every
    node has them.
    """
    if any(term.energy_j is None for term in terms):
        reasons = _reasons(nodes, [t.reason if t.energy_j is None else None for t in terms])
        return parts.missing(reasons or "not measured")
    estimated = [n.name for n, term in zip(nodes, terms, strict=True) if _is_estimated(term)]
    if 0 < len(estimated) < len(nodes):
        measured = [node.name for node in nodes if node.name not in estimated]
        return parts.missing(
            f"{kind} is measured on {', '.join(measured)} and estimated on "
            f"{', '.join(estimated)}, and the two are never added"
        )
    method = max((term.method or "" for term in terms), key=_WEAKEST_LAST.index)
    coverages = [term.coverage for term in terms if term.coverage is not None]
    shared_j = _shared_j(terms)
    return Part(
        energy_j=_sum(term.energy_j for term in terms),
        method=method,
        quality=parts.QUALITY[method],
        uncertainty_j=_uncertainty_j(terms, shared_j),
        coverage=sum(coverages) / len(coverages) if len(coverages) == len(terms) else None,
        sampled_energy_j=_sum(term.sampled_energy_j for term in terms),
        net_energy_j=_sum(term.net_energy_j for term in terms),
        reason=_reasons(nodes, [term.reason for term in terms]) or None,
        shared_uncertainty_j=shared_j,
    )


def _is_estimated(term: Part) -> bool:
    return term.quality not in MEASURED


def _shared_j(terms: Sequence[Part]) -> float | None:
    of_method: dict[str | None, float] = {}
    for term in terms:
        if term.shared_uncertainty_j is None:
            return None
        of_method[term.method] = of_method.get(term.method, 0.0) + term.shared_uncertainty_j
    return math.hypot(*of_method.values())


def _uncertainty_j(terms: Sequence[Part], shared_j: float | None) -> float | None:
    wholes_j = [term.uncertainty_j for term in terms if term.uncertainty_j is not None]
    if shared_j is None or len(wholes_j) < len(terms):
        return None
    random_j2 = sum(
        max(0.0, whole_j**2 - (term.shared_uncertainty_j or 0.0) ** 2)
        for whole_j, term in zip(wholes_j, terms, strict=True)
    )
    return math.sqrt(random_j2 + shared_j**2)


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else math.fsum(value or 0.0 for value in known)


def _reasons(nodes: Sequence[NodeParts], reasons: Sequence[str | None]) -> str:
    """Each reason with the names of its nodes. What all nodes have in common is said once."""
    names: dict[str, list[str]] = {}
    for node, reason in zip(nodes, reasons, strict=True):
        if reason:
            names.setdefault(reason, []).append(node.name)
    return parts.joined(
        *(
            reason if len(of) == len(nodes) else f"{', '.join(of)}: {reason}"
            for reason, of in names.items()
        )
    )


def summed_w(powers_w: Sequence[Mapping[str, float | None]]) -> Components:
    """W of each component on all nodes together. None where it is unknown on one of them."""
    return {kind: _sum(one.get(kind) for one in powers_w) for kind in COMPONENTS}


def share(node: NodeParts, *, waits: bool) -> NodeShare:
    """The record of what one node used in a window."""
    values = parts.columns(node.parts)
    return NodeShare(
        host=node.host,
        number=node.number,
        waits=waits,
        duration_s=node.duration_s,
        skew_s=node.skew_s,
        energy_j=values["energy_j"],
        quality=values["quality"],
        uncertainty_j=values["uncertainty_j"],
        shared_uncertainty_j=values["shared_uncertainty_j"],
        coverage=values["coverage"],
        reason=values["reason"],
    )


def parts_of(row: StageRow) -> dict[str, Part]:
    """The components that a row holds, without whole nodes: the way back from `parts.columns`."""
    return {
        kind: Part(
            energy_j=row.energy_j[kind],
            method=row.method[kind],
            quality=row.quality[kind],
            uncertainty_j=row.uncertainty_j[kind],
            coverage=row.coverage[kind],
            sampled_energy_j=row.sampled_energy_j.get(kind),
            net_energy_j=row.net_energy_j.get(kind),
            reason=row.reason.get(kind),
            shared_uncertainty_j=row.shared_uncertainty_j.get(kind),
        )
        for kind in COMPONENTS
    }
