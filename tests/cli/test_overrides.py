"""What helps where Hydra cannot read a word of a command, or reads it and passes it over."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from kdwatts.cli.flags import ConfigFile
from kdwatts.cli.overrides import parsed, quoted, unread
from kdwatts.cli.preflight import command_of, compose, expand, preflight
from kdwatts.cli.refusal import in_one_sentence


@pytest.mark.parametrize(
    "text",
    ["/a=b", "/ünï", "it's", "a\\'b", "ends\\", "a,b", "a b", "{x", "$HOME", "", 'say "so"'],
)
def test_what_is_quoted_is_read_back_as_it_was(text: str):
    (item,) = parsed([f"data.source.path={quoted(text)}"])
    assert item.value() == text
    assert not item.is_sweep_override()


@pytest.mark.parametrize("path", ["/tmp/a=b.jsonl", "/tmp/ünï.jsonl", "/tmp/it's.jsonl", "a=$b"])
def test_the_remedy_for_a_path_that_is_not_read_can_be_pasted_into_a_shell(path: str):
    said = unread(f"data.source.path={path}")
    assert "quote the value, and the whole for the shell: " in said
    (word,) = shlex.split(said.partition("for the shell: ")[2])
    assert parsed([word])[0].value() == path


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("training.seed", "'training.seed' is no setting; write group.key=value"),
        ("paradigm=sft,", "'paradigm=sft,' ends with a comma; write the values without blanks, as"),
        ("training.seed==3", "'training.seed==3' has two = in a row; write group.key=value"),
        ("training.seed=choice()", "'training.seed=choice()' calls a function that Hydra does"),
        ("paradigm.ce={weight:", "'paradigm.ce={weight:' is a list or a mapping that is not"),
        ("training.betas=[0.9,", "'training.betas=[0.9,' is a list or a mapping that is not"),
    ],
)
def test_a_word_that_is_not_read_gets_the_remedy_of_its_kind(word: str, said: str):
    with pytest.raises(Exception) as caught:
        preflight([word], multirun=False)
    assert in_one_sentence(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("words", "multirun", "said"),
    [
        (["hydra/launcher=slurm"], False, "hydra/launcher=slurm sends the runs of a sweep, and"),
        (["hydra.sweep.dir=x"], False, "hydra.sweep.dir=x is for a sweep, and this command is a"),
        (["hydra.sweep.subdir=x"], False, "hydra.sweep.subdir=x is for a sweep, and this command"),
        (["hydra.run.dir=x"], True, "hydra.run.dir=x is for a single run, and this command is a"),
        (["hydra.run.dir=x", "experiment=paradigm_grid"], False, "hydra.run.dir=x is for a singl"),
        (["cluster.partition=x"], True, "cluster.partition=x is a setting for Slurm, and this"),
        (
            ["launch.teacher_first=false"],
            False,
            "launch.teacher_first=false is a setting for Slurm",
        ),
        (["hydra.job.chdir=true"], False, "hydra.job.chdir=true would read relative paths from"),
        (["local=nope"], False, "local=nope names no file of conf/local; choose one of "),
        (["local=example,nope"], True, "local=example,nope names no file of conf/local;"),
        (["training.seed=range(0)"], True, "the sweep over training.seed has no value and so no"),
        (["~training.seed"], False, "~training.seed would delete a setting, and kdwatts"),
        (["=3"], False, "'=3' names no key; write group.key=value"),
        (["hydra.sweep.subdir=x"], True, "hydra.sweep.subdir=x is one folder for all runs of"),
        (["hydra/launcher=submitit_local"], True, "hydra/launcher=submitit_local is not support"),
        (
            ["data.source.path=tiny:corpus/train.jsonl.xz,/none/a.jsonl"],
            True,
            "data.source.path=/none/a.jsonl does not exist on this machine; check the path",
        ),
    ],
)
def test_what_this_kind_of_command_would_not_read_is_refused(
    words: list[str], multirun: bool, said: str
):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        preflight([*words, "gpu=cpu"], multirun=multirun)


def test_what_this_kind_of_command_reads_is_let_pass():
    assert command_of(["hydra.run.dir=x", "hydra/launcher=basic"], multirun=False).is_sweep is False
    both = ["hydra.run.dir=x", "hydra.sweep.dir=y"]
    assert command_of(both, multirun=True).is_sweep
    assert command_of(["hydra/launcher=slurm", "cluster.partition=x"], multirun=True).is_sweep
    assert not command_of(both, multirun=False).is_sweep


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["paradigm=feature", "paradigm.response.temperature=2"],
            "paradigm.response.temperature=2 sets a key of paradigm.response, which is null in "
            "paradigm=feature; choose paradigm=combined, on_policy, response or universal",
        ),
        (
            ["training.lora.rank=4"],
            "training.lora.rank=4 sets a key of training.lora, which is null in training=tiny; "
            "choose training=lora",
        ),
        (
            ["+model.student.architecture.rope_scaling={rope_type: linear, factor: 2.0}"],
            "+model.student.architecture.rope_scaling={rope_type: linear, factor: 2.0} sets "
            "model.student.architecture.rope_scaling as a whole, which is null in model=tiny; "
            "write student.architecture.rope_scaling into an option's file in conf/model, and "
            "choose that",
        ),
        (
            ["data=tulu3_fineweb", "data.source.path=x"],
            "data.source.path=x sets a key of data.source, which is null in data=tulu3_fineweb; "
            "choose data=dolly, fineweb_edu, openhermes, tiny or tulu3",
        ),
    ],
)
def test_a_key_of_a_part_that_is_null_is_refused_with_options_that_have_the_part(
    words: list[str], said: str
):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        compose(words)


def test_of_a_sweep_the_element_that_lacks_a_part_is_named():
    words = ["paradigm=response,feature", "paradigm.response.temperature=2", "gpu=cpu"]
    with pytest.raises(ValueError) as refusal:
        preflight(words, multirun=True)
    assert str(refusal.value) == (
        "paradigm.response.temperature=2 sets a key of paradigm.response, which is null in "
        "paradigm=feature; choose paradigm=combined, on_policy, response or universal, which have "
        "it, and leave the others to a command of their own"
    )


def test_the_values_of_a_sweep_may_be_quoted_one_by_one():
    words = ["data.source.path='/a=b','/c,d'"]
    assert [parsed(run)[0].value() for run in expand(words, multirun=True)] == ["/a=b", "/c,d"]


def test_options_of_a_folder_of_one_s_own_are_composed_and_checked_like_the_shipped(
    tmp_path: Path,
):
    (tmp_path / "training").mkdir()
    smoke = OmegaConf.create({"defaults": ["smoke", "_self_"], "seed": 7})
    OmegaConf.save(smoke, tmp_path / "training" / "mine.yaml")
    asked = ["training=mine", "gpu=cpu"]
    mine = ConfigFile(added_dir=str(tmp_path))
    (config,) = command_of(asked, multirun=False, source=mine).configs
    assert (config.training.seed, config.training.target_tokens) == (7, 8192)
    with pytest.raises(ValueError, match=r"^training\.micro_batch=0 is out of range"):
        command_of([*asked, "training.micro_batch=0"], multirun=False, source=mine)
