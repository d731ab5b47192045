"""The keys of every pair under every paradigm on every GPU: an artifact is found by its key.

A key of what is measured holds the name of this machine's processor and the number of its threads,
so keys are compared on one machine; `machine.json` says which. Versions of libraries are in none.
With store.code=strict, and only then, the hash of the code that an option names is in a key too:
`code.jsonl` has these hashes, which change when such a function is edited.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import psutil

from kdwatts.artifacts.hardware import cpu_name
from kdwatts.cli.preflight import compose
from kdwatts.cli.refusal import in_one_sentence
from kdwatts.config.checks import to_config
from kdwatts.stages.graph import plan
from tests.bench.baselines.places import options, write_json, write_table


def make(folder: Path, pairs: list[str] | None = None) -> None:
    """Write keys.jsonl, refusals.jsonl, code.jsonl and machine.json."""
    gpus = {name: compose([f"gpu={name}"]).gpu for name in options("gpu")}
    keys: list[dict[str, Any]] = []
    refusals: list[dict[str, Any]] = []
    code: list[dict[str, Any]] = []
    for pair in pairs or options("model"):
        for paradigm in options("paradigm"):
            asked = [f"model={pair}", f"paradigm={paradigm}"]
            try:
                tree: Any = compose(asked)
            except Exception as error:
                refusals.append(_row(asked, refusal=in_one_sentence(error)))
                continue
            for gpu, values in gpus.items():
                # As Hydra would: a GPU's file sets its own group, which others point into.
                tree.gpu = values
                words = [*asked, f"gpu={gpu}"]
                try:
                    stages = plan(to_config(tree), [])
                except Exception as error:
                    refusals.append(_row(words, refusal=in_one_sentence(error)))
                    continue
                names = {
                    planned.name: [one.key for one in planned.numbered()] for planned in stages
                }
                keys.append(_row(words, **names))
                if gpu == "h100" and pair == "tiny":
                    code += [
                        _row([f"paradigm={paradigm}", f"stage={planned.name}"], **planned.code)
                        for planned in stages
                        if planned.code
                    ]
    write_table(folder / "keys.jsonl", keys)
    write_table(folder / "refusals.jsonl", refusals)
    write_table(folder / "code.jsonl", code)
    write_json(
        folder / "machine.json",
        {
            "in keys of what is measured": {"cpu": cpu_name(), "threads": psutil.cpu_count()},
            "in no key": {"python": platform.python_version(), "system": platform.system()},
        },
    )


def _row(words: list[str], **values: Any) -> dict[str, Any]:
    return {"of": " ".join(words), **values}
