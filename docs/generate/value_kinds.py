"""Types of values in the words of a reader who writes no Python."""

from __future__ import annotations

from docs.generate.units_of_names import unit_of

KINDS = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "`true` or `false`",
    "Any": "`true`, `false` or `auto`",
    "dict[str, Any]": "mapping",
    "list[str]": "list of texts",
    "list[int]": "list of whole numbers",
    "list[float]": "list of numbers",
    "list[list[int]]": "list of pairs of whole numbers",
    "Components": "number or null per component",
    "dict[str, str]": "text per name",
    "dict[str, str | None]": "text or null per component",
    "dict[str, float | None]": "number or null per name",
    "dict": "mapping",
    "list[dict]": "list of mappings",
    "dict[str, int]": "whole number per name",
    "dict[str, object]": "mapping",
    "list[NodeShare]": "list of [shares of nodes](#node-share)",
    "Figure": "[figure](#figure)",
    "Percentiles": "[percentiles](#percentiles)",
    "EngineRecord": "[engine](#engine)",
    "list[ServingPoint]": "list of [loads](#load)",
    "Capacity": "[capacity](#capacity)",
    "Verdict": "[verdict](#verdict)",
    "list[Verdict]": "list of [verdicts](#verdict)",
    "dict[str, QuantizedModel]": "[model in few bits](#quantized) per name",
}
"""Types that are written for Python to what they are."""


def kind_in_words(annotation: str, name: str) -> str:
    """A type with the unit that the name of its field ends in, such as `number, W, or null`."""
    plain = annotation.removesuffix(" | None")
    assert plain in KINDS, f"{annotation} of {name} has no words in docs/generate/value_kinds.py"
    unit = unit_of(name, plain)
    words = f"{KINDS[plain]}, {unit}" if unit else KINDS[plain]
    return words if plain == annotation else f"{words}, or null"


def cell(text: str) -> str:
    """A text as it stands in a cell of a Markdown table; the word null is marked as a value."""
    marked = [
        part if place % 2 else part.replace("None", "null").replace("null", "`null`")
        for place, part in enumerate(text.split("`"))
    ]
    return "`".join(marked).replace("|", "\\|")
