"""Models of two layers made from a shape, saved and loaded as any other."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdwatts.config.pair import Architecture, ModelSource, Pair
from kdwatts.memory.model_shape import parameters_of
from kdwatts.models.load import (
    head_weight,
    load_model,
    load_tokenizer,
    local_dir,
    num_parameters,
    pair_tokenizer,
    read_training_energy,
    source_fingerprint,
    tokenizer_fingerprint,
    tokenizer_location,
)
from kdwatts.records.files import write_json
from kdwatts.runtime.paths import TINY_DIR, conf_dir

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def _shape(**changes: Any) -> Architecture:
    shape = Architecture("llama", 2, 16, 32, 4, 2, 4, 40, True, 64)
    for name, value in changes.items():
        assert hasattr(shape, name)
        setattr(shape, name, value)
    return shape


def _random(shape: Architecture, *, seed: int = 0) -> nn.Module:
    return load_model(ModelSource(None, None, shape), dtype=torch.float32, seed=seed)


def _saved(shape: Architecture, directory: Path) -> ModelSource:
    model: Any = _random(shape)
    model.save_pretrained(directory)
    return ModelSource(str(directory), None, shape)


def test_adapters_over_a_model_that_lies_elsewhere_have_no_key(tmp_path: Path):
    """transformers would load what `base_model_name_or_path` names, whatever lies beside it."""
    source = _saved(_shape(), tmp_path)
    source_fingerprint(source)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(ValueError, match=r"holds adapters \(adapter_config\.json\) for a model"):
        source_fingerprint(source)


def _logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 2, 3, 0, 39]])).logits


SHAPES = {
    "llama": _shape(),
    "llama, wide heads": _shape(head_dim=8),
    "llama, scaled positions": _shape(rope_theta=500000.0, rope_scaling=LLAMA3_ROPE),
    "llama, own head": _shape(tied_head=False),
    "qwen2": _shape(family="qwen2", rope_theta=1000000.0),
    "qwen2, own head": _shape(family="qwen2", tied_head=False),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_model_of_a_shape_has_its_parameters_and_comes_back_from_a_folder_the_same(
    name: str, tmp_path: Path
):
    shape = SHAPES[name]
    model = _random(shape)
    assert not model.training
    assert num_parameters(model) == parameters_of(shape)
    loaded = load_model(_saved(shape, tmp_path), dtype=torch.float32)
    assert torch.equal(_logits(loaded), _logits(model))


def test_the_seed_alone_decides_the_random_weights():
    first, again, other = _random(_shape()), _random(_shape()), _random(_shape(), seed=1)
    assert torch.equal(_logits(first), _logits(again))
    assert not torch.equal(_logits(first), _logits(other))


def test_a_random_qwen2_has_biases_on_query_key_and_value_and_llama_has_none():
    biases = [n for n, _ in _random(SHAPES["qwen2"]).named_parameters() if n.endswith("bias")]
    assert biases == [
        f"model.layers.{layer}.self_attn.{name}_proj.bias" for layer in (0, 1) for name in "qkv"
    ]
    assert not [n for n, _ in _random(_shape()).named_parameters() if n.endswith("bias")]


def test_a_tied_head_is_the_embedding_itself_and_an_own_head_is_not():
    tied, own = _random(_shape()), _random(_shape(tied_head=False))
    assert head_weight(tied) is tied.get_submodule("model.embed_tokens").weight
    assert head_weight(own) is not own.get_submodule("model.embed_tokens").weight
    assert head_weight(own).shape == (40, 16)


def test_the_end_token_s_embedding_learns_like_any_other():
    model = _random(_shape(tied_head=False))
    table: Any = model.get_submodule("model.embed_tokens").weight
    model(input_ids=torch.tensor([[0, 1, 2]])).logits.square().sum().backward()
    norms = table.grad.norm(dim=-1)
    assert (norms[:3] > 0).all()
    assert (norms[3:] == 0).all()


def test_padding_rows_of_the_vocabulary_have_logits_like_all_others():
    assert _logits(_random(_shape(vocab_size=48))).shape == (1, 5, 48)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"family": "qwen2"},
            "has model_type=llama in its configuration, but the pair's file says qwen2; correct",
        ),
        (
            {"num_layers": 3},
            "has num_hidden_layers=2 in its configuration, but the pair's file says 3",
        ),
        (
            {"hidden_size": 32},
            "has hidden_size=16 in its configuration, but the pair's file says 32",
        ),
        ({"head_dim": 8}, "has head_dim=4 in its configuration, but the pair's file says 8"),
        ({"vocab_size": 48}, "has vocab_size=40 in its configuration, but the pair's file says 48"),
        (
            {"tied_head": False},
            "has tie_word_embeddings=True in its configuration, but the pair's file says False",
        ),
        (
            {"max_positions": 128},
            "has max_position_embeddings=64 in its configuration, but the pair's file says 128",
        ),
        ({"rope_theta": 10000.0}, "'rope_theta': 500000.0"),
        ({"rope_scaling": None}, "'rope_type': 'llama3'"),
        (
            {"norm_epsilon": 1e-5},
            "has rms_norm_eps=1e-06 in its configuration, but the pair's file says 1e-05",
        ),
        ({"rope_scaling": {**LLAMA3_ROPE, "factor": 32.0}}, "'factor': 8.0"),
    ],
)
def test_a_model_that_is_not_the_shape_its_pair_states_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
):
    source = _saved(SHAPES["llama, scaled positions"], tmp_path)
    stated = copy.deepcopy(source.architecture)
    for name, value in changes.items():
        setattr(stated, name, value)
    with pytest.raises(ValueError, match=f"^model {tmp_path} .* its configuration") as caught:
        load_model(ModelSource(source.path, None, stated), dtype=torch.float32)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "name", "value", "usual"),
    [
        ("llama, scaled positions", "attention_bias", True, False),
        ("llama, scaled positions", "mlp_bias", True, False),
        ("llama, scaled positions", "hidden_act", "gelu", "silu"),
        ("qwen2", "use_sliding_window", True, False),
    ],
)
def test_a_model_with_parts_that_its_family_does_not_have_is_refused(
    shape: str, name: str, value: Any, usual: Any, tmp_path: Path
):
    source = _saved(SHAPES[shape], tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    said = f"has {name}={value} .* but models of the family .* are built and counted with {usual};"
    with pytest.raises(ValueError, match=said):
        load_model(source, dtype=torch.float32)


def test_random_weights_are_normalised_with_the_epsilon_that_the_pair_states():
    for epsilon in (1e-6, 1e-5):
        model: Any = _random(_shape(norm_epsilon=epsilon))
        norms = [part for name, part in model.named_modules() if name.endswith("norm")]
        assert len(norms) == 2 * model.config.num_hidden_layers + 1
        assert {norm.variance_epsilon for norm in norms} == {epsilon}


def test_a_qwen2_configuration_that_leaves_the_head_width_out_is_still_checked(tmp_path: Path):
    source = _saved(SHAPES["qwen2"], tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config.pop("head_dim", None)
    path.write_text(json.dumps(config))
    load_model(source, dtype=torch.float32)
    wide = copy.deepcopy(source.architecture)
    wide.head_dim = 8
    with pytest.raises(ValueError, match=r"head_dim=4 .* but the pair's file says 8"):
        load_model(ModelSource(source.path, None, wide), dtype=torch.float32)


def test_a_wrong_shape_is_refused_before_any_weight_is_read(tmp_path: Path):
    source = _saved(_shape(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"num_hidden_layers=2 .* but the pair's file says 5"):
        load_model(ModelSource(source.path, None, _shape(num_layers=5)), dtype=torch.float32)


def test_random_weights_of_different_shapes_have_different_keys():
    keys = {source_fingerprint(ModelSource(None, None, shape)) for shape in SHAPES.values()}
    assert len(keys) == len(SHAPES)
    family_alone = _shape(family="qwen2")
    assert source_fingerprint(ModelSource(None, None, _shape())) != source_fingerprint(
        ModelSource(None, None, family_alone)
    )


def test_a_folder_s_key_is_of_its_bytes_and_a_hub_s_of_its_revision(tmp_path: Path):
    source = _saved(_shape(), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    moved = ModelSource(str(tmp_path / "b"), None, source.architecture)
    assert source_fingerprint(moved) == source_fingerprint(source)
    (tmp_path / "b" / "model.safetensors").write_bytes(b"other")
    assert source_fingerprint(moved) != source_fingerprint(source)
    hub = [source_fingerprint(ModelSource("a/b", revision, _shape())) for revision in ("1", "2")]
    assert hub[0] != hub[1]


def test_a_tokenizer_s_key_holds_its_chat_template_and_not_the_weights_beside_it(
    tokenizer: Any, tmp_path: Path
):
    tokenizer.save_pretrained(tmp_path)
    pair = Pair("p", str(tmp_path), student=ModelSource(None, None, _shape()))
    key = tokenizer_fingerprint(pair)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    assert tokenizer_fingerprint(pair) == key
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_fingerprint(pair) != key
    assert tokenizer_fingerprint(pair, "tiny:tokenizer") != tokenizer_fingerprint(pair, "some/hub")


def _hub_pair(tokenizer: str, *, pinned: str | None = None) -> Pair:
    student, teacher = (ModelSource(f"org/{name}", name[0], _shape()) for name in ("own", "its"))
    return Pair("p", tokenizer, student, teacher, tokenizer_revision=pinned)


@pytest.mark.parametrize(
    ("tokenizer", "pinned", "expected"),
    [
        ("org/own", None, "o"),
        ("org/its", None, "i"),
        ("org/third", None, None),
        ("org/third", "t", "t"),
        ("org/own", "t", "t"),
    ],
)
def test_a_tokenizer_is_read_at_its_own_revision_or_that_of_the_model_it_lies_beside(
    tokenizer: str, pinned: str | None, expected: str | None
):
    pair = _hub_pair(tokenizer, pinned=pinned)
    assert pair.revision_of_tokenizer(tokenizer) == expected
    # The other model's own tokenizer is not what the pair pins.
    assert _hub_pair("org/own", pinned=pinned).revision_of_tokenizer("org/its") == "i"


def test_a_tokenizer_s_key_holds_its_revision():
    keys = {tokenizer_fingerprint(_hub_pair("org/own", pinned=r)) for r in (None, "o", "t")}
    assert len(keys) == 2  # None is the student's, o


def test_a_pinned_tokenizer_is_found_as_a_folder_once_it_was_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    pair = _hub_pair("org/own", pinned=commit)
    assert tokenizer_location(pair, "org/own") == "org/own"
    folder = tmp_path / "models--org--own" / "snapshots" / commit
    load_tokenizer("tiny:tokenizer").save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    assert tokenizer_location(pair, "org/own") == str(folder)
    assert len(pair_tokenizer(pair)) == 1024
    assert tokenizer_location(pair, "tiny:tokenizer") == str(TINY_DIR / "tokenizer")


def test_every_pair_of_a_hub_is_pinned_with_its_tokenizer(configure: Any):
    for path in sorted((conf_dir() / "model").glob("*.yaml")):
        pair = configure("gpu=cpu", f"model={path.stem}", "paradigm=sft").model
        sources = [source for source in (pair.student, pair.teacher) if source and source.path]
        pins = {source.path: source.revision for source in sources}
        pins[pair.tokenizer] = pair.revision_of_tokenizer(pair.tokenizer)
        for name, revision in pins.items():
            assert _is_local(name) or (revision and len(revision) == 40), (path, name)


def _is_local(path: str) -> bool:
    return path.startswith(("tiny:", "runs/"))


@pytest.mark.parametrize("path", ["tiny:none", "/none", "./none", "~/none", "none", "a/b/c"])
def test_a_path_that_can_be_no_hub_id_and_is_no_folder_is_refused(path: str):
    with pytest.raises(
        ValueError, match=r"^model: the folder .* does not exist; check the path, or"
    ):
        local_dir(path)


def test_a_name_with_one_slash_is_a_hub_id_unless_a_folder_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert local_dir("meta/llama") is None
    (tmp_path / "meta" / "llama").mkdir(parents=True)
    assert local_dir("meta/llama") == Path("meta/llama")


def test_what_training_a_model_cost_is_read_beside_it_and_checked(tmp_path: Path):
    source = ModelSource(str(tmp_path), None, _shape())
    assert read_training_energy(source) is None
    assert read_training_energy(ModelSource("some/hub", None, _shape())) is None
    assert read_training_energy(ModelSource(None, None, _shape())) is None
    write_json(tmp_path / "energy.json", {"schema": 1, "energy_j": 7.0})
    found = read_training_energy(source)
    assert found and found["energy_j"] == 7
    write_json(tmp_path / "energy.json", {"schema": 2, "energy_j": 7.0})
    with pytest.raises(ValueError, match=f"{tmp_path}/energy.json: schema is 2"):
        read_training_energy(source)


def test_the_shipped_tokenizer_has_the_tiny_pair_s_vocabulary():
    tokenizer = load_tokenizer("tiny:tokenizer")
    assert tokenizer.is_fast
    assert len(tokenizer) == 1024
    assert (tokenizer.eos_token_id, tokenizer.decode([0])) == (0, "<|end_of_text|>")


@pytest.mark.skipif(
    not (TINY_DIR / "teacher" / "model.safetensors").is_file(),
    reason="the tiny teacher is not here; make tiny-teacher trains it",
)
def test_the_shipped_teacher_is_the_shape_its_pair_states_and_knows_what_it_cost(configure: Any):
    teacher = configure("gpu=cpu").model.teacher
    model = load_model(teacher, dtype=torch.float32)
    assert num_parameters(model) == parameters_of(teacher.architecture) == 857_216
    energy = read_training_energy(teacher)
    assert energy and energy["energy_j"] > 0
    assert energy["quality"] in ("measured", "estimated", "mixed")
