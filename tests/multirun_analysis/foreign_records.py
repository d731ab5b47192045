"""Records of other software, made up in its formats, and where real ones lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

H100_RUNS = Path(__file__).parents[1] / "h100_runs"


def write_foreign(
    folder: Path,
    *,
    powers_w: tuple[float, ...] = (100.0, 200.0),
    per_joule: float = 1e6,
    num_samples: int = 11,
    **files: Any,
) -> Path:
    """A foreign run of GPUs at constant power, one sample a second; `files` are JSON by stem.

    `per_joule` is what the counter, named millijoules, rises by in one joule.
    """
    folder.mkdir(parents=True)
    lines = [
        json.dumps(
            {
                "timestamp": f"2025-11-13T23:59:{second:02}.500000-06:00",
                "gpus": [
                    {
                        "gpu_index": index,
                        "gpu_name": "NVIDIA H100 NVL",
                        "power_watts": power_w,
                        "energy_mJ": 5e12 + second * power_w * per_joule,
                        "memory_used_MB": 2048.0,
                        "gpu_utilization_percent": 40,
                        "temperature_C": 30,
                    }
                    for index, power_w in enumerate(powers_w)
                ],
                "cpu": {"cpu_utilization_percent": 5.0, "ram_used_MB": 1024.0,
                        "cpu_energy_uj": None},
            }
        )
        for second in range(num_samples)
    ]  # fmt: skip
    (folder / "telemetry.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(content))
    return folder


def harness_results(
    *, model: str = "meta-llama/Llama-3.1-8B-Instruct", value: float = 0.6, **changes: Any
) -> dict[str, Any]:
    """Results of one benchmark of three subjects, and of one that has no agreed metric."""
    subjects = ["mmlu_anatomy", "mmlu_astronomy", "mmlu_virology"]
    results = {name: {"acc,none": 0.9, "acc_stderr,none": 0.1} for name in subjects}
    results["mmlu"] = {"acc,none": value, "acc_stderr,none": 0.02}
    results["piqa"] = {"acc,none": 0.7, "acc_stderr,none": "N/A"}
    return {
        "results": results,
        "group_subtasks": {"mmlu": ["mmlu_stem"], "mmlu_stem": subjects, "piqa": []},
        "configs": {name: {"doc_to_text": "{{question}}"} for name in subjects},
        "n-shot": dict.fromkeys([*subjects, "piqa"], 5),
        "n-samples": {name: {"original": 100, "effective": 50} for name in subjects},
        "config": {"model_args": f"pretrained={model},dtype=bfloat16", "model_num_parameters": 8},
        "lm_eval_version": "0.4.9.1",
        "fewshot_as_multiturn": False,
    } | changes
