"""Refuse settings on the command line that no run reads, so that equal runs do not look different.

Only typed words are checked. The file of an option may set what a run does not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

from kdwatts.cli.overrides import parsed
from kdwatts.config.experiment import Config
from kdwatts.config.pair import Pair
from kdwatts.config.paradigm import DIVERGENCES, Relational, Response
from kdwatts.config.serving import ENGINES, Replay, Serving
from kdwatts.runtime.paths import resolve_dir

Reads = Callable[[Config], bool]

WITHOUT_RUN = ("prefetch", "plan")
"""Values of `until` that are answered before any run."""


def check_effects(words: Sequence[str], configs: Sequence[Config]) -> None:
    """Raise ValueError for a setting that is read by none of the runs, and for a mixed `until`."""
    until = list(dict.fromkeys(config.until for config in configs))
    if len(until) > 1 and set(until) & set(WITHOUT_RUN):
        raise ValueError(
            f"until is swept over {', '.join(until)}: {' and '.join(WITHOUT_RUN)} are answered at "
            "once and begin no run; give them a command of their own"
        )
    for word, item in zip(words, parsed(words), strict=True):
        key = item.key_or_group
        for name, (reads, reader) in READ_BY.items():
            if f"{key}.".startswith(f"{name}.") and not any(map(reads, configs)):
                raise ValueError(
                    f"{word} has no effect on any run of this command: it is read only {reader}; "
                    "leave it out, or choose that"
                )


def _has_stage(config: Config) -> bool:
    """Whether the run has the stage that it is to go as far as."""
    paradigm, evaluation = config.paradigm, config.eval
    absent = {
        "contamination": config.data.decontaminate.mode != "report" or not evaluation.tasks,
        "generate": paradigm.text != "teacher",
        "teacher": not paradigm.needs_signals or paradigm.teacher != "cached",
        "evaluate": not evaluation.tasks,
        "serving": not evaluation.serving.is_measured,
    }
    return not absent.get(config.until, False)


def _draws(config: Config) -> bool:
    """Whether documents are drawn of the corpus, in place of all."""
    data = config.data
    counts = [data.num_documents, *(part.num_documents for part in data.sources)]
    return data.fraction < 1 or any(count is not None for count in counts)


def _of_response(holds: Callable[[Response], bool]) -> Reads:
    return lambda c: c.paradigm.response is not None and holds(c.paradigm.response)


def _of_relational(holds: Callable[[Relational], bool]) -> Reads:
    return lambda c: c.paradigm.relational is not None and holds(c.paradigm.relational)


def _on_a_hub(path_of: Callable[[Pair], str | None]) -> Reads:
    """Whether a model is asked of a hub, where alone there are revisions."""

    def reads(config: Config) -> bool:
        path = path_of(config.model)
        return path is not None and not resolve_dir(path).is_dir()

    return reads


_top_k = _of_response(lambda term: term.support == "top_k"), "with paradigm.response.support=top_k"
_tasks: tuple[Reads, str] = lambda c: bool(c.eval.tasks), "with tasks in eval"
_tdp: tuple[Reads, str] = (
    lambda c: c.telemetry.cpu_estimate == "tdp",
    "with telemetry.cpu_estimate=tdp",
)
_lighteval: tuple[Reads, str] = (
    lambda c: any(task.harness == "lighteval" for task in c.eval.tasks),
    "with tasks of lighteval in eval",
)

_engine: tuple[Reads, str] = (
    lambda c: c.eval.serving.is_measured,
    "with eval.serving.engine=transformers, vllm or url",
)
_PLANNED = ("concurrency", "rates_per_s", "workload", "slo")
_load: tuple[Reads, str] = (
    # A plan estimates loads without an engine, too.
    lambda c: c.eval.serving.is_measured or c.until == "plan",
    f"{_engine[1]}, and by until=plan",
)


def _started(config: Config) -> set[str]:
    """The engines that a run starts: to measure them, or to have them write."""
    generate = config.paradigm.generate
    return {
        config.eval.serving.engine,
        config.eval.engine if config.eval.tasks else "loop",
        generate.engine if generate else "loop",
        config.paradigm.signals_engine,
    }


def _behind(engine: str) -> tuple[Reads, str]:
    writers = {
        "transformers": ", or as paradigm.generate.engine or eval.engine",
        "vllm": ", or as paradigm.generate.engine, eval.engine or paradigm.signals_engine",
    }
    words = f"with eval.serving.engine={engine}{writers.get(engine, '')}"
    return lambda c: engine in _started(c), words


_any_server: tuple[Reads, str] = (
    lambda c: bool(_started(c) - {"loop"}),
    "with an engine in eval.serving.engine, eval.engine, paradigm.generate.engine or "
    "paradigm.signals_engine",
)


READ_BY: dict[str, tuple[Reads, str]] = {
    "until": (_has_stage, "by runs that have that stage"),
    "paradigm.teacher": (lambda c: c.paradigm.needs_signals, "with a term of the teacher's"),
    "paradigm.signals_engine": (
        lambda c: c.paradigm.needs_signals and c.paradigm.teacher == "cached",
        "with paradigm.teacher=cached",
    ),
    "paradigm.generate.seed": (lambda c: c.paradigm.text == "teacher", "with text=teacher"),
    "paradigm.response.k": _top_k,
    "paradigm.response.cache_precision": _top_k,
    "paradigm.response.teacher_temperatures": _top_k,
    "paradigm.response.num_samples": (
        _of_response(lambda term: term.support == "sampled"),
        "with paradigm.response.support=sampled",
    ),
    "paradigm.response.beta": (
        _of_response(lambda term: term.divergence == "jsd" or term.divergence not in DIVERGENCES),
        "with paradigm.response.divergence=jsd",
    ),
    "paradigm.response.skew": (
        _of_response(
            lambda term: term.divergence.startswith("skew") or term.divergence not in DIVERGENCES
        ),
        "with paradigm.response.divergence=skew_kl or skew_reverse_kl",
    ),
    "paradigm.relational.group_size": (
        _of_relational(lambda term: term.level == "sequence"),
        "with paradigm.relational.level=sequence",
    ),
    "paradigm.relational.tokens": (
        _of_relational(lambda term: term.level == "token"),
        "with paradigm.relational.level=token",
    ),
    **{
        f"paradigm.relational.{name}": (
            _of_relational(lambda term: term.level == "attention"),
            "with paradigm.relational.level=attention",
        )
        for name in ("relation_heads", "teacher_block")
    },
    **{
        f"paradigm.relational.{name}": (
            _of_relational(lambda term: term.level != "attention"),
            "with paradigm.relational.level=sequence or token",
        )
        for name in ("distance_weight", "angle_weight")
    },
    "training.heldout_tokens": (
        lambda c: c.training.heldout_every > 0,
        "with training.heldout_every above 0",
    ),
    "data.sample_seed": (_draws, "with data.fraction below 1 or num_documents"),
    "data.decontaminate.ngram": (
        lambda c: c.data.decontaminate.mode != "off",
        "with data.decontaminate.mode=report or drop",
    ),
    "eval.batch_size": _tasks,
    "eval.apply_chat_template": _tasks,
    "eval.engine": _tasks,
    "eval.data_dir": _tasks,
    "eval.tasks_dir": _tasks,
    "eval.lighteval": _lighteval,
    **{
        f"eval.serving.{one.name}": _load if one.name in _PLANNED else _engine
        for one in fields(Serving)
        # Quantizations without an engine are refused where settings are checked.
        if one.name not in ("engine", "arrivals", "replay", "quantizations", *ENGINES)
    },
    "eval.serving.replay.log": _load,
    **{
        f"eval.serving.replay.{one.name}": (
            lambda c: _load[0](c) and c.eval.serving.replay.log is not None,
            "with eval.serving.replay.log",
        )
        for one in fields(Replay)
        if one.name not in ("log", "speeds")
    },
    "eval.serving.replay.speeds": (
        lambda c: _load[0](c) and c.eval.serving.is_replayed,
        "with eval.serving.replay.log, and without rates_per_s",
    ),
    "eval.serving.start_timeout_s": _any_server,
    "eval.serving.request_timeout_s": _any_server,
    "eval.serving.arrivals": (
        lambda c: c.eval.serving.is_measured and bool(c.eval.serving.rates_per_s),
        "with an engine and eval.serving.rates_per_s",
    ),
    **{f"eval.serving.{name}": _behind(name) for name in ENGINES if name != "loop"},
    "telemetry.cpu_tdp_w": _tdp,
    "telemetry.cpu_tdp_threads": _tdp,
    "telemetry.cpu_tdp_source": _tdp,
    "model.tokenizer_revision": (
        _on_a_hub(lambda pair: pair.tokenizer),
        "with a tokenizer of a hub",
    ),
    "model.student.revision": (
        _on_a_hub(lambda pair: pair.student.path),
        "with a student of a hub",
    ),
    "model.teacher.revision": (
        _on_a_hub(lambda pair: pair.teacher.path if pair.teacher else None),
        "with a teacher of a hub",
    ),
}
"""Setting, or group of settings, to what reads it; one that is not here is read by every run."""
