"""A model and its tokenizer in one folder, as engines in processes of their own read them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdwatts.config.pair import ModelSource, Pair
from kdwatts.models.access import hub_errors_in_one_sentence
from kdwatts.models.hub_files import MODEL_FILES, SUBFOLDERS, TOKENIZER_FILES
from kdwatts.models.load import local_dir

HAS_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
"""Files of which a folder with a tokenizer has one."""
BESIDE_TOKENIZER = ("config.json", "generation_config.json")
"""Files of a model that a tokenizer's folder may hold, too."""


@contextmanager
def served_folder(pair: Pair, source: ModelSource, tokenizer: str) -> Iterator[Path]:
    """The folder of a model with a tokenizer, for as long as the block runs.

    It is the model's own where this has a tokenizer, and else a folder of links to both. A model
    or tokenizer of a hub is the copy in its cache, which is fetched where it is missing: an engine
    takes no revision for a folder, and links need files.

    Raises what `hub_errors_in_one_sentence` raises for what cannot be fetched.
    """
    assert source.path, "a model that is served has weights"
    model_dir = _folder(source.path, source.revision, [*MODEL_FILES, *TOKENIZER_FILES])
    if any((model_dir / name).is_file() for name in HAS_TOKENIZER):
        yield model_dir
        return
    tokenizer_dir = _folder(tokenizer, pair.revision_of_tokenizer(tokenizer), TOKENIZER_FILES)
    with tempfile.TemporaryDirectory(prefix="kdwatts-served-") as temporary:
        folder = Path(temporary)
        for path in sorted(model_dir.iterdir()):
            if path.is_file():
                (folder / path.name).symlink_to(path.resolve())
        for pattern in TOKENIZER_FILES:
            for path in sorted(tokenizer_dir.glob(pattern)):
                if path.is_file() and path.name not in BESIDE_TOKENIZER:
                    link = folder / path.name
                    link.unlink(missing_ok=True)
                    link.symlink_to(path.resolve())
        yield folder


def _folder(path: str, revision: str | None, files: list[str]) -> Path:
    """A folder as it is, or the copy of a hub's repository in the cache."""
    from huggingface_hub import snapshot_download

    directory = local_dir(path)
    if directory:
        return directory.resolve()
    with hub_errors_in_one_sentence(path, page=path, revision=revision):
        return Path(
            snapshot_download(
                path, revision=revision, allow_patterns=files, ignore_patterns=SUBFOLDERS
            )
        )
