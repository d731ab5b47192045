"""Text to token shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.config import Config, to_dict
from kdwatts.data.documents import local_path, read_documents
from kdwatts.data.mix import PartSize, mixed
from kdwatts.data.shards import INDEX_NAME, encode_document, write_shards
from kdwatts.data.subset import drawing
from kdwatts.fingerprint import sha256_file
from kdwatts.models.load import load_tokenizer, tokenizer_fingerprint
from kdwatts.records import write_json
from kdwatts.schema import Data, MixPart, TextSource
from kdwatts.stages.work import Work

VERSION = 3


def settings(config: Config) -> dict[str, Any]:
    """What the bytes of the shards depend on."""
    data = config.data
    return {
        "source": _source_settings(data.source) if data.source else None,
        "sources": [
            {
                "source": _source_settings(part.source),
                "weight": part.weight,
                "num_documents": part.num_documents,
                "max_epochs": part.max_epochs,
            }
            for part in data.sources
        ],
        "num_documents": data.num_documents,
        "fraction": data.fraction,
        "sample_seed": data.sample_seed,
        "shard_tokens": data.shard_tokens,
        "tokenizer": tokenizer_fingerprint(config.model.tokenizer),
    }


def _source_settings(source: TextSource) -> dict[str, Any]:
    path = local_path(source)
    return {**to_dict(source), "path": sha256_file(path) if path else source.path}


def build(work: Work) -> None:
    """Tokenize the corpus into `work.out_dir`; the index says what each source gave."""
    data = work.config.data
    tokenizer = load_tokenizer(work.config.model.tokenizer)
    parts = parts_of(data)
    sizes = [PartSize() for _ in parts]
    documents = mixed(
        [_encoded(part, tokenizer, size, data) for part, size in zip(parts, sizes, strict=True)],
        [part.weight for part in parts],
        sizes,
    )
    index = write_shards(
        work.out_dir,
        islice(documents, data.num_documents),
        shard_tokens=data.shard_tokens,
        source=_source_record(data),
    )
    index["parts"] = [
        _part_record(part) | asdict(size) for part, size in zip(parts, sizes, strict=True)
    ]
    write_json(work.out_dir / INDEX_NAME, index)
    work.window.tokens += index["num_tokens"]


def parts_of(data: Data) -> list[MixPart]:
    """The sources of a corpus; of one that is no mix, its only one."""
    if data.source:
        return [MixPart(data.source, 1.0, data.licence, num_documents=data.num_documents)]
    return data.sources


def _encoded(
    part: MixPart, tokenizer: Any, size: PartSize, data: Data
) -> Iterator[NDArray[np.uint32]]:
    """The drawn documents of a source as tokens; what is read and left out is counted in `size`."""
    draw = drawing(
        lambda: read_documents(part.source),
        fraction=data.fraction,
        num_documents=part.num_documents,
        sample_seed=data.sample_seed,
    )
    for _ in range(part.max_epochs):
        is_drawn = draw()
        for document in read_documents(part.source):
            size.num_seen += 1
            if not is_drawn(document):
                size.drop("not_drawn")
                continue
            tokens = encode_document(document.content, tokenizer)
            if len(tokens):
                yield tokens
            else:
                size.drop("empty")


def _part_record(part: MixPart) -> dict[str, Any]:
    path = local_path(part.source)
    return {
        "path": part.source.path,
        "name": part.source.name,
        "split": part.source.split,
        "revision": part.source.revision,
        "sha256": sha256_file(path) if path else None,
        "licence": part.licence,
        "weight": part.weight,
    }


def _source_record(data: Data) -> dict[str, Any]:
    if data.source:
        return {**to_dict(data.source), "licence": data.licence}
    paths = [part.source.path for part in data.sources]
    return {
        "path": " + ".join(paths),
        "sources": [to_dict(part) for part in data.sources],
        "licence": data.licence,
    }
