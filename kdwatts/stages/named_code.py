"""The code that a stage's options name, by option.

A stage's key holds settings. So it holds the name of a divergence, but not what it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import unwrap
from typing import Any

from kdwatts.config.experiment import Config
from kdwatts.config.paradigm import Feature, Relational, Response
from kdwatts.losses.attention import attention_loss
from kdwatts.losses.feature import DISTANCES, distance_of
from kdwatts.losses.relational import group_loss, mean_pool, relational_loss
from kdwatts.losses.response import DIVERGENCES, divergence_of
from kdwatts.losses.sparse import cross_entropy_term, sampled_term, top_k_term
from kdwatts.losses.universal import universal_term
from kdwatts.models.cka import best_pairs, cka_table, unbiased_gram
from kdwatts.models.layers import LAYER_MAPS, layer_map_of
from kdwatts.runtime import plugins
from kdwatts.runtime.code import code_key
from kdwatts.teacher.cache_record import encode_rows, on_host
from kdwatts.teacher.cross_tokenizer import universal_signals
from kdwatts.teacher.decoding import uniform_draws, write_text
from kdwatts.teacher.engine_answers import prompt_of, sparse_of, top_of_answer
from kdwatts.teacher.signals import compute_signals
from kdwatts.training.projectors import PROJECTORS, project
from kdwatts.training.rollout import with_text

Named = dict[str, tuple[Any, ...]]
"""Option, as it is given on the command line, to the functions that it names."""

LEVELS = {
    "sequence": (mean_pool, relational_loss),
    "token": (group_loss,),
    "attention": (attention_loss,),
}
SUPPORTS = {"top_k": (top_k_term,), "sampled": (sampled_term,)}
WRITING = (write_text, uniform_draws)
OF_ENGINE = (prompt_of, top_of_answer, sparse_of)
OFFERED: dict[str, Callable[[str], Any]] = {
    plugins.DIVERGENCES: divergence_of,
    plugins.DISTANCES: distance_of,
    plugins.LAYER_MAPS: layer_map_of,
}
"""Group of entry points to what loads a name of it."""


def code_keys(stage: str, config: Config) -> dict[str, str | None]:
    """Option to the key of the code that it names in this stage. None where that cannot be read.

    Raises ValueError for such code when store.code=strict needs its key.
    """
    named = NAMED[stage](config) if stage in NAMED else {}
    keys = {option: code_key(*functions) for option, functions in named.items()}
    unread = [option for option, key in keys.items() if key is None]
    if unread and config.store.code == "strict":
        raise ValueError(
            f"store.code=strict needs the source of what {unread[0]} names, and there is no file "
            "to read it from; install kdwatts with its sources or set store.code=warn"
        )
    return keys


def _of_distill(config: Config) -> Named:
    paradigm = config.paradigm
    named: Named = {}
    if paradigm.ce:
        named["paradigm.ce"] = (cross_entropy_term,)
    if paradigm.response:
        named |= _of_response(paradigm.response)
    if paradigm.feature:
        named |= _of_feature(paradigm.feature)
    if paradigm.relational:
        named |= _of_relational(paradigm.relational)
    if paradigm.needs_signals and paradigm.teacher == "online":
        one = config.model.one_vocabulary
        named["paradigm.teacher=online"] = (compute_signals if one else universal_signals,)
    if paradigm.text == "student":
        named["paradigm.text=student"] = (*WRITING, with_text)
    return named


def _of_response(response: Response) -> Named:
    if response.support != "dense":
        return {f"paradigm.response.support={response.support}": SUPPORTS[response.support]}
    name = response.divergence
    functions = {**DIVERGENCES, "universal": universal_term}
    return _from("paradigm.response.divergence", name, functions, group=plugins.DIVERGENCES)


def _of_feature(feature: Feature) -> Named:
    name = feature.distance
    named = _from("paradigm.feature.distance", name, DISTANCES, group=plugins.DISTANCES)
    if feature.projector != "none":
        named |= _from("paradigm.feature.projector", feature.projector, PROJECTORS, project)
    name = feature.layers
    if name == "cka":
        named["paradigm.feature.layers=cka"] = (unbiased_gram, cka_table, best_pairs)
    elif name != "explicit":
        named |= _from("paradigm.feature.layers", name, LAYER_MAPS, group=plugins.LAYER_MAPS)
    return named


def _from(
    option: str, name: str, functions: Mapping[str, Any], *more: Any, group: str = ""
) -> Named:
    """What `option=name` names, of an installed package where one offers it in that group.

    Raises ValueError where the schema knows the name alone.
    """
    if name in functions:
        return {f"{option}={name}": (functions[name], *more)}
    if name in plugins.names(group):
        own = OFFERED[group](name)
        # By itself too: of an object that is called, a closure of ours shows nothing of its class.
        return {f"{option}={name}": (own, unwrap(own), *more)}
    raise ValueError(
        f"{option}={name} is in the schema and names no function; add one to the dictionary "
        f"that has {', '.join(functions)}"
    )


def _of_relational(relational: Relational) -> Named:
    return {f"paradigm.relational.level={relational.level}": LEVELS[relational.level]}


def _of_teacher(config: Config) -> Named:
    if config.paradigm.signals_engine != "loop":
        return {"paradigm.teacher=cached": (*OF_ENGINE, on_host, encode_rows)}
    return {"paradigm.teacher=cached": (compute_signals, on_host, encode_rows)}


def _of_generate(config: Config) -> Named:
    del config
    return {"paradigm.text=teacher": WRITING}


NAMED: dict[str, Callable[[Config], Named]] = {
    "distill": _of_distill,
    "teacher": _of_teacher,
    "generate": _of_generate,
}
