"""Functions of installed packages, found by the entry points that their metadata declares.

Metadata names them without importing anything. So a name is checked before a library that takes
seconds to import is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, wraps
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

DIVERGENCES = "kdwatts.divergences"
DISTANCES = "kdwatts.distances"
LAYER_MAPS = "kdwatts.layer_maps"


def names(group: str) -> list[str]:
    """The names that installed packages offer in a group of entry points. Nothing is imported."""
    return sorted(_installed(group, tuple(sys.path)).names)


def packages(group: str, name: str) -> list[str]:
    """The installed packages that offer a name."""
    return sorted(_package(point) for point in _offers(group, name))


def load(group: str, name: str) -> Callable[..., Any]:
    """The function that an installed package offers with this name.

    Raises ValueError, in one sentence, unless exactly one package offers it and it can be imported
    and called. An error inside the function is raised with the package's name, without which it
    says little.
    """
    offers = _offers(group, name)
    if len(offers) != 1:
        offering = " and ".join(packages(group, name)) or "no installed package"
        raise ValueError(
            f"{group}: {name} is offered by {offering}, and exactly one package must offer it by "
            "an entry point of that group; install or remove a package"
        )
    (point,) = offers
    offered = f"{group}: {name} of package {_package(point)}, {point.value},"
    try:
        function = point.load()
    except Exception as error:
        raise ValueError(
            f"{offered} cannot be imported ({type(error).__name__}: {error}); repair the package "
            "or choose another name"
        ) from error
    if not callable(function):
        raise ValueError(
            f"{offered} is of type {type(function).__name__} and no function; have its entry point "
            "name one"
        )

    @wraps(function)
    def named(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except Exception as error:
            raise ValueError(
                f"{offered} fails ({type(error).__name__}: {error}); correct the function or "
                "choose another name"
            ) from error

    return named


def _offers(group: str, name: str) -> list[EntryPoint]:
    return list(_installed(group, tuple(sys.path)).select(name=name))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.module


@cache
def _installed(group: str, path: tuple[str, ...]) -> EntryPoints:
    """Those of the packages on `sys.path`, which is what they depend on."""
    del path
    return entry_points(group=group)
