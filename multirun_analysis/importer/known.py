"""What foreign names are called here: paradigms, pairs, GPUs, and the score that counts.

Tables in code, because this room reads no YAML; a test holds them against `conf/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PARADIGMS = {
    "sft": "sft",
    "response": "response",
    "feature": "feature",
    "relation": "relational",
    "relational": "relational",
    "relational_token": "relational_token",
    "attention": "attention",
    "combined": "combined",
    "sequence": "sequence",
    "on_policy": "on_policy",
    "universal": "universal",
}
"""First words of a run's folder to the paradigm's option."""

GPUS = {
    "NVIDIA A100-SXM4-40GB": "a100_40",
    "NVIDIA A100-PCIE-40GB": "a100_40",
    "NVIDIA A100-SXM4-80GB": "a100_80",
    "NVIDIA A100 80GB PCIe": "a100_80",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H100 NVL": "h100_nvl",
    "NVIDIA H200": "h200",
    "NVIDIA L40S": "l40s",
    "NVIDIA GeForce RTX 4090": "rtx4090",
    "NVIDIA RTX 6000 Ada Generation": "rtx6000ada",
}
"""Name that NVML gives to the option; from `nvml_names` in conf/gpu."""

PAIRS = {
    ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"): "llama31_8b_to_1b",
    ("meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"): "llama31_70b_to_8b",
    ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-3B-Instruct"): "qwen25_7b_to_3b",
    ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"): "qwen25_7b_to_1b5",
    ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"): "qwen25_7b_to_0b5",
    ("Qwen/Qwen2.5-72B-Instruct", "Qwen/Qwen2.5-7B-Instruct"): "qwen25_72b_to_7b",
    ("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"): "llama31_8b_to_qwen25_1b5",
}
"""Teacher and student to the pair's option; from `path` in conf/model."""


@dataclass(frozen=True)
class Benchmark:
    """The metric that counts for a benchmark, as records name it, and the score of guessing."""

    metric: str
    chance: float | None


BENCHMARKS = {
    "mmlu": Benchmark("acc", 0.25),
    "arc_challenge": Benchmark("acc_norm", 0.25),
    "hellaswag": Benchmark("acc_norm", 0.25),
    "winogrande": Benchmark("acc", 0.5),
    "gsm8k": Benchmark("exact_match,strict-match", 0.0),
    "truthfulqa_mc2": Benchmark("acc", None),
    "bbh": Benchmark("exact_match,get-answer", 0.0),
    "ifeval": Benchmark("prompt_level_strict_acc", 0.0),
    "tiny_word_order": Benchmark("acc", 0.25),
}
"""From conf/eval (paper, tiny). A group, such as mmlu with its 57 subjects, is one benchmark."""

PRIMARIES = {task: (known.metric, known.chance) for task, known in BENCHMARKS.items()}
"""The same, as the formulas take it."""


def paradigm_of(name: str) -> str | None:
    """The paradigm in the first words of a folder's name, such as `relation_1`.

    Of a path the last folder that names one tells, as in `RESPONSE/MODEL 1`.
    """
    for folder in reversed(name.split("/")):
        words = re.findall(r"[a-z]+", folder.lower())
        for count in range(len(words), 0, -1):
            if (first := "_".join(words[:count])) in PARADIGMS:
                return PARADIGMS[first]
    return None


def seed_of(name: str) -> int | None:
    """The seed in a folder's name, such as `feature_seed3`; a bare number need not be one."""
    for folder in reversed(name.split("/")):
        if found := re.search(r"seed[_-]?(\d+)", folder.lower()):
            return int(found[1])
    return None
