"""Text to token shards."""

from __future__ import annotations

from typing import Any

from kdwatts.config import Config, to_dict
from kdwatts.data.documents import local_path, read_documents
from kdwatts.data.shards import encode_document, write_shards
from kdwatts.fingerprint import sha256_file
from kdwatts.models.load import load_tokenizer, tokenizer_fingerprint
from kdwatts.stages.work import Work

VERSION = 1


def settings(config: Config) -> dict[str, Any]:
    """What the bytes of the shards depend on."""
    data = config.data
    path = local_path(data.source)
    source = to_dict(data.source)
    if path:
        source["path"] = sha256_file(path)
    return {
        "source": source,
        "num_documents": data.num_documents,
        "shard_tokens": data.shard_tokens,
        "tokenizer": tokenizer_fingerprint(config.model.tokenizer),
    }


def build(work: Work) -> None:
    """Tokenize the corpus into `work.out_dir`."""
    data = work.config.data
    tokenizer = load_tokenizer(work.config.model.tokenizer)
    documents = read_documents(data.source, data.num_documents)
    index = write_shards(
        work.out_dir,
        (encode_document(document, tokenizer) for document in documents),
        shard_tokens=data.shard_tokens,
        source={**to_dict(data.source), "licence": data.licence},
    )
    work.window.tokens += index["num_tokens"]
