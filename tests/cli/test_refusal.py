"""What a user reads when Hydra, OmegaConf or the operating system refuses."""

from __future__ import annotations

import errno
import os
from importlib.metadata import version
from typing import Any

import pytest
import torch

from kdwatts.cli.preflight import compose
from kdwatts.cli.refusal import in_one_sentence
from kdwatts.config.checks import to_config


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("gpu=h1000", "gpu=h1000 is unknown; choose one of a100_40, a100_80, auto, cpu, h100,"),
        (
            "training.sed=1",
            "training.sed is unknown; did you mean seed? training has seed, target_tokens,",
        ),
        (
            "eval.tasks=[{nme: x}]",
            "nme is unknown in an entry of eval.tasks; did you mean name? it has name, primary_",
        ),
        (
            "data.sources=[{source: {pth: /x}, weight: 1}]",
            "source.pth is unknown in an entry of data.sources; did you mean path? it has path",
        ),
        ("trainin.seed=1", "trainin is unknown; did you mean training? the configuration has"),
        ("paradigm.response.q=1", "paradigm.response.q is unknown; paradigm.response has weight,"),
        (
            "training.seed=abc",
            "training.seed: value 'abc' of type 'str' could not be converted to Integer; give a",
        ),
        (
            "training.seed=1,2",
            "training.seed=1,2 has several values, and this command is a single run; add -m for a "
            "run of each, or write a list as 'training.seed=[1,2]'",
        ),
        (
            "training.seed=range(1,3)",
            "training.seed=range(1,3) has several values, and this command is a single run; add -m",
        ),
        ("data.source=null", "data=tiny has neither source nor sources; give exactly one of them"),
        ("data.name=null", "data.name: field 'data.name' is not Optional; give a value"),
        ("training.target_tokens=???", "training.target_tokens has no value; give one on the"),
        (
            "store_dir=${oc.env:KDWATTS_NONE}",
            "store_dir refers to the environment variable KDWATTS_NONE, which is not set; set it, "
            "or write ${oc.env:KDWATTS_NONE,VALUE} for a value without it",
        ),
        (
            "store_dir=${KDWATTS_NONE}",
            "store_dir refers to what is not there: interpolation key 'KDWATTS_NONE' not found; a "
            "key is ${group.key}, an environment variable ${oc.env:NAME}",
        ),
        ("data=/etc/passwd", "data=/etc/passwd is unknown; choose one of dolly, fineweb_edu,"),
        ("hydra/launcher=none", "hydra/launcher=none is unknown; choose one of basic,"),
        ("hydra.launcher.qos=x", "hydra.launcher.qos is unknown among Hydra's settings of"),
        ("training.betas=1", "training.betas: invalid value assigned: int is not a ListConfig, li"),
        (
            "paradigm.relational.weight=2",
            "paradigm.relational.weight=2 sets a key of paradigm.relational, which is null in "
            "paradigm=response; choose paradigm=attention, combined, relational or relational_",
        ),
        pytest.param(
            "paradigm.relational={weight: 2}",
            "paradigm.relational={weight: 2} sets paradigm.relational as a whole, which is null",
            marks=pytest.mark.skipif(
                not version("omegaconf").startswith("2.3"), reason="OmegaConf 2.4 makes the part"
            ),
        ),
        ("foo", "'foo' is no setting; write group.key=value"),
    ],
)
def test_an_override_that_cannot_be_composed_is_refused_in_one_sentence(override: str, said: str):
    with pytest.raises(Exception) as caught:
        to_config(compose([override]))
    text = in_one_sentence(caught.value)
    assert text.startswith(said)
    assert "\n" not in text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/a"),
            "the disk is full at /scratch/a; free space or set store_dir to another disk, and "
            "rerun",
        ),
        (
            OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
            "the disk is full; free space or set store_dir to another disk, and rerun",
        ),
        (
            FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/data/x.jsonl"),
            "no such file or directory: '/data/x.jsonl'; check that the path exists and may be "
            "written",
        ),
        (
            BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)),
            "nobody reads what this wrote to any more (broken pipe); run it again with a reader",
        ),
        (OSError("hub said\n  no"), "hub said no"),
        (ValueError("a; b"), "a; b"),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError("two\nlines"), "two lines"),
        (KeyError("rows"), "KeyError: 'rows'"),
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
                "79.11 GiB of which 1.20 GiB is free."
            ),
            "the GPU has no room for 2.00 GiB; lower training.micro_batch, eval.batch_size or "
            "eval.inference.batch_sizes, whichever the stage reads, or choose a larger GPU",
        ),
    ],
)
def test_any_error_becomes_one_line(error: Any, said: str):
    assert in_one_sentence(error) == said
