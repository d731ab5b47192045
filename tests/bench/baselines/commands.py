"""What command lines print: composed configurations, help, plans, and refusals in a sentence."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.baselines.places import ask, options, write_text

REFUSED = (
    ("gpu=h1000",),
    ("training.seeds=3",),
    ("training.seed=three",),
    ("training.seed",),
    ("training.seed==3",),
    ("training.learning_rate=-1",),
    ("training.sequence_length=4096",),
    ("training.precision=fp8",),
    ("training.betas=[0.9,",),
    ("training.lora.rank=4",),
    ("paradigm=responses",),
    ("paradigm=feature", "paradigm.response.temperature=2"),
    ("paradigm=on_policy", "paradigm.teacher=cached"),
    ("paradigm=relational", "training.micro_batch=4"),
    ("paradigm=feature", "model=llama31_8b_to_qwen25_1b5"),
    ("paradigm=response", "model=tiny_teacher"),
    ("paradigm.response.temperature=0",),
    ("paradigm.response.divergence=forward",),
    ("data.source.path=/none/a.jsonl",),
    ("local=nope",),
    ("store.code=loose",),
    ("until=train",),
    ("telemetry.interval_s=0",),
    ("site=mars",),
    ("~training.seed",),
    ("hydra.sweep.dir=x",),
    ("hydra/launcher=slurm",),
    ("-m", "training.seed=range(0)"),
    ("-m", "paradigm=sft,responses"),
    ("-m", "hydra.run.dir=x"),
)
"""Words that a run refuses: no such option, key or value, and choices that exclude each other."""

TOLD_BY_OTHERS = (
    ("-m", "kdwatts.telemetry", "--help"),
    ("-m", "kdwatts.telemetry", "--interval", "0", "--", "true"),
    ("-m", "kdwatts.telemetry", "--intervals", "1"),
    ("-m", "kdwatts.telemetry", "--"),
    ("-m", "multirun_analysis", "--help"),
    ("-m", "multirun_analysis", "import", "--help"),
    ("-m", "multirun_analysis", "choose", "--help"),
    ("-m", "multirun_analysis", "status", "--help"),
    ("-m", "multirun_analysis", "nowhere"),
    ("-m", "multirun_analysis", "nowhere", "--tokens-per-day", "0"),
    ("-m", "multirun_analysis", "nowhere", "--site", "mars"),
    ("-m", "multirun_analysis", "one", "two"),
    ("-m", "multirun_analysis", "choose", "nowhere", "--tokens-per-day", "1e9"),
    ("-m", "multirun_analysis", "choose", "nowhere"),
    ("-m", "multirun_analysis", "import", "nowhere", "--out", "out"),
    ("-m", "multirun_analysis", "status", "nowhere"),
)


def commands() -> dict[str, tuple[str, ...]]:
    """Name of each page to the words after `python`."""
    kdwatts = ("-m", "kdwatts")
    shown = (*kdwatts, "--cfg", "job")
    asked = {"help": (*kdwatts, "--help"), "cfg default": shown}
    for group in ("experiment", "paradigm", "model", "training", "data", "eval", "site"):
        for name in options(group):
            # A pair without a teacher, alone, would be refused.
            more = ("paradigm=sft",) if name == "tiny_teacher" and group == "model" else ()
            asked[f"cfg {group}={name}"] = (*shown, f"{group}={name}", *more)
    asked["cfg slurm"] = (*kdwatts, "--cfg", "all", "-m", "hydra/launcher=slurm", "gpu=h100")
    pairs = ",".join(name for name in options("model") if name != "tiny_teacher")
    gpus = ",".join(name for name in options("gpu") if name not in ("auto", "cpu"))
    plan = (*kdwatts, "-m", "until=plan")
    asked["plan pairs"] = (*plan, "gpu=h200", "paradigm=sft", f"model={pairs}")
    asked["plan paradigms"] = (*plan, "gpu=cpu", f"paradigm={','.join(options('paradigm'))}")
    asked["plan GPUs"] = (*plan, "model=qwen25_7b_to_0b5", "paradigm=combined", f"gpu={gpus}")
    for words in REFUSED:
        asked[f"refused {' '.join(words)}"] = (*kdwatts, *words)
    for words in TOLD_BY_OTHERS:
        asked[" ".join(words[1:])] = words
    return asked


def make(folder: Path, work_dir: Path) -> None:
    """Write a page a command: exit code, stdout and stderr."""
    asked = commands()
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda words: ask(words, work_dir), asked.values())
        for name, answer in zip(asked, answers, strict=True):
            page = re.sub(r"[^\w=.,-]+", "_", name)
            write_text(folder / f"{page}.txt", str(answer))
    left = sorted(path.relative_to(work_dir).as_posix() for path in work_dir.rglob("*"))
    write_text(
        folder / "left behind.txt", "\n".join(name for name in left if "hf_home" not in name)
    )
