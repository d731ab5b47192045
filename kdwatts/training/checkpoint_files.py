"""The tensors of a checkpoint on the disk: safetensors, in one file or in shards of all ranks.

Whole tensors are written by the first rank. Where ranks hold shards, torch.distributed.checkpoint
writes each rank's own and puts their places into the files, so that no rank ever holds the whole.
Both are read alike, and each rank reads only what it needs.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from kdwatts.models.sharding import is_sharded
from kdwatts.training.parallel import num_ranks, rank

WHOLE_NAME = "state.safetensors"
FILE_BYTES = 1 << 30
"""About what a rank writes to one file. The writer holds a file twice in memory."""


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a new folder. Every rank must call it; with shards, every rank writes.

    When it returns on the first rank, all ranks have written. Raises OSError where a rank cannot.
    """
    if not any(is_sharded(tensor) for tensor in tensors.values()):
        if rank() == 0:
            folder.mkdir(parents=True)
            whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            save_file(whole, folder / WHOLE_NAME)
        return
    files = HuggingFaceStorageWriter(str(folder), _files_of(tensors), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=files)
    except CheckpointException as error:
        raise OSError(f"checkpoint: {_first_cause(error)}; free space in {folder.parent}") from None


def _files_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of the file, from 1 on, in which each rank writes its part of a tensor."""
    files, written = {}, 0
    for name, tensor in tensors.items():
        files[name] = 1 + written // FILE_BYTES
        written += tensor.numel() * tensor.element_size() // num_ranks()
    return files


def names_in(folder: Path) -> set[str]:
    """The names of all tensors in a checkpoint's folder."""
    return set(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


def read(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors, whole or sharded, from a checkpoint's folder. Every rank must call it.

    Raises OSError where a rank cannot read, or a tensor is missing or has another shape.
    """
    with warnings.catch_warnings():
        # A process that is alone is warned that it is alone.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)))
        except CheckpointException as error:
            raise OSError(
                f"checkpoint {folder}: {_first_cause(error)}; delete the folder and run again"
            ) from None


def _first_cause(error: CheckpointException) -> str:
    number, (cause, _) = min(error.failures.items())
    return f"rank {number} says {type(cause).__name__}: {cause}"
