"""Whether models and tokenizers of a pair can be read, and what to do where they cannot.

Libraries raise many types of errors, with many lines. Here each becomes one sentence, which is
raised before anything is measured.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

AGAIN = "run the command with until=prefetch where there is a network, with the same HF_HOME"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_NAMES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")


@contextlib.contextmanager
def hub_errors_in_one_sentence(
    what: str,
    *,
    page: str | None,
    revision: str | None = None,
    licence: str | None = None,
    fetching: bool = False,
) -> Iterator[None]:
    """A context that turns a library's error about a hub into one sentence.

    It raises RuntimeError where the account, the network or the disk is the reason. It raises
    ValueError where the repository is: it has no safetensors, or needs code of its own. `page` is
    the repository's page on the hub, and None where several may be meant. Set `fetching` where the
    network may be used.
    """
    from huggingface_hub import constants
    from huggingface_hub import errors as hub_errors

    try:
        yield
    except (OSError, ValueError, hub_errors.HTTPError) as error:  # pyright: ignore
        causes = _causes(error)
        names = [kind.__name__ for cause in causes for kind in type(cause).__mro__]
        text = " ".join(str(cause) for cause in causes)
        # Only the error's name is known: importing `datasets` for its type takes a second.
        if page and ("GatedRepoError" in names or "is a gated dataset" in text):
            named = f" ({licence})" if licence else ""
            raise RuntimeError(
                f"{what} is gated: accept its licence{named} at {constants.ENDPOINT}/{page}, give "
                "your account's token (HF_TOKEN, or `hf auth login`), and run this again; for a "
                "node without a network, run until=prefetch first"
            ) from error
        if "RevisionNotFoundError" in names:
            raise RuntimeError(
                f"{what} has no revision {revision} at {constants.ENDPOINT}; correct the revision "
                "in the pair's file in conf/model"
            ) from error
        if page and any(n in names for n in ("RepositoryNotFoundError", "DatasetNotFoundError")):
            raise RuntimeError(
                f"{what} is not at {constants.ENDPOINT}, or this account may not read it; check "
                "its name, or give the token of an account that may (HF_TOKEN, or `hf auth login`)"
            ) from error
        if not fetching and ("LocalEntryNotFoundError" in names or "OfflineModeIsEnabled" in names):
            raise RuntimeError(_not_here(what)) from error
        if "trust_remote_code" in text:
            raise ValueError(
                f"{what} needs code of its own (trust_remote_code), which is never run here; "
                "choose a model whose code is in transformers"
            ) from error
        if isinstance(error, OSError) and "file named" in text and "safetensors" in text:
            raise ValueError(_no_safetensors(what)) from error
        if not fetching or isinstance(error, ValueError):
            raise
        first_line = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise RuntimeError(
            f"{what} cannot be fetched from {constants.ENDPOINT} ({first_line}); run "
            "until=prefetch where there is a network"
        ) from error


def check_weights(
    path: str, *, directory: Path | None, revision: str | None, licence: str | None
) -> None:
    """Raise unless the weights at `path` are safetensors that can be read.

    None of them is read here.

    `directory` is their folder, and None for a hub id. A hub that answers is asked for its list of
    files. Else the hub's cache on this disk is searched. It raises what
    `hub_errors_in_one_sentence` raises.
    """
    what = f"model {path}"
    if directory is not None:
        if not list(directory.glob("*.safetensors")):
            raise ValueError(_no_safetensors(what))
        return
    with hub_errors_in_one_sentence(what, page=path, revision=revision, licence=licence):
        names = _listed(path, revision)
        if names is None:
            missing = _missing_weights(path, revision)
            if missing:
                raise RuntimeError(_not_here(f"{what}, {missing},"))
        elif not any(name.endswith(".safetensors") for name in names):
            raise ValueError(_no_safetensors(what))


def check_tokenizer(path: str, *, revision: str | None) -> None:
    """Raise RuntimeError when no hub may be asked and the cache has no tokenizer with this id."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE and not any(
        _cached(path, name, revision) for name in TOKENIZER_NAMES
    ):
        raise RuntimeError(_not_here(f"tokenizer {path}"))


def _listed(path: str, revision: str | None) -> list[str] | None:
    """The names of a repository's files; None where no hub may be asked, or none answers."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub import errors as hub_errors

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        return HfApi().list_repo_files(path, revision=revision)
    except hub_errors.HfHubHTTPError:
        raise
    except (OSError, hub_errors.HTTPError):  # pyright: ignore
        return None  # As transformers: what is on this disk is read without a hub.


def _missing_weights(path: str, revision: str | None) -> str | None:
    """The first file of the weights that the cache lacks; None where all are there."""
    if _cached(path, WEIGHTS, revision):
        return None
    index = _cached(path, INDEX, revision)
    if not index:
        return WEIGHTS
    names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    return next((name for name in names if not _cached(path, name, revision)), None)


def _cached(path: str, name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _not_here(what: str) -> str:
    from huggingface_hub import constants

    why = f"{constants.ENDPOINT} does not answer"
    if constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE forbids to fetch it"
    return f"{what} is not in HF_HOME={constants.HF_HOME}, and {why}; {AGAIN}"


def _no_safetensors(what: str) -> str:
    return (
        f"{what} has no weights as safetensors, and pickled weights are refused, since reading "
        "them runs code; save the model as safetensors, or choose another one"
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
