"""Adapters in place of whole training, and the plain model they are merged into."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdwatts.config.pair import Architecture, ModelSource
from kdwatts.config.training import Lora
from kdwatts.memory.model_shape import adapter_parameters_of
from kdwatts.models.layers import captured_blocks, captured_projections
from kdwatts.models.load import head_weight, load_model, num_parameters
from kdwatts.training.lora import add_adapters, merge_adapters
from kdwatts.training.optim import make_optimizer

SHAPE = Architecture("llama", 2, 16, 24, 4, 2, 4, 40, True, 32)
INPUT = torch.arange(24).reshape(2, 12)


def student_of(dtype: torch.dtype = torch.float32) -> Any:
    return load_model(ModelSource(architecture=SHAPE), dtype=dtype, seed=1)


def trained(student: Any) -> dict[str, Tensor]:
    return {name: p for name, p in student.named_parameters() if p.requires_grad}


def learn(student: Any) -> None:
    """Move every adapter far from where it began."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trained(student).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def logits(student: Any) -> Tensor:
    return student(input_ids=INPUT).logits


def test_a_student_with_fresh_adapters_says_what_it_said_without():
    student = student_of()
    before = logits(student)
    add_adapters(student, Lora(rank=3), seed=0)
    assert torch.equal(logits(student), before)


@pytest.mark.parametrize("targets", [["q_proj"], ["k_proj", "down_proj"], Lora().targets])
def test_adapters_alone_are_trained_and_counted_as_the_estimate_counts_them(targets: list[str]):
    student, settings = student_of(), Lora(rank=3, targets=targets)
    total = num_parameters(student)
    add_adapters(student, settings, seed=0)
    found = trained(student)
    assert all(".lora_" in name for name in found)
    assert sum(p.numel() for p in found.values()) == adapter_parameters_of(SHAPE, settings)
    assert num_parameters(student) == total + adapter_parameters_of(SHAPE, settings)
    optimizer = make_optimizer([student], weight_decay=0.0, betas=(0.9, 0.95))
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in found.values()}


@pytest.mark.parametrize("alpha", [8.0, 3.0])
def test_the_merged_student_is_plain_and_says_what_base_and_adapters_said(alpha: float):
    student = student_of()
    plain_names = dict(student.named_modules()).keys()
    weights = copy.deepcopy(student.state_dict())
    add_adapters(student, Lora(rank=3, alpha=alpha), seed=0)
    learn(student)
    said = logits(student)
    assert (said - logits(student_of())).abs().max() > 0.1
    a, b = (trained(student)[f"model.layers.1.mlp.up_proj.lora_{n}.default.weight"] for n in "AB")
    expected = weights["model.layers.1.mlp.up_proj.weight"] + alpha / 3 * b @ a
    merge_adapters(student)
    assert dict(student.named_modules()).keys() == plain_names
    assert student.state_dict().keys() == weights.keys()
    assert all(p.requires_grad for p in student.parameters())
    torch.testing.assert_close(student.model.layers[1].mlp.up_proj.weight, expected)
    torch.testing.assert_close(logits(student), said, atol=1e-5, rtol=1e-4)
    # Saved without a merge, the student would be its base.
    assert (logits(student_of()) - said).abs().max() > 0.1


def test_a_merged_student_comes_back_from_its_folder_the_same(tmp_path: Any):
    student = student_of()
    add_adapters(student, Lora(rank=3), seed=0)
    learn(student)
    said = logits(student)
    merge_adapters(student)
    student.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    again = load_model(ModelSource(str(tmp_path), None, SHAPE), dtype=torch.float32)
    torch.testing.assert_close(logits(again), said, atol=1e-5, rtol=1e-4)


def test_what_is_learned_over_bfloat16_weights_is_merged_in_float32():
    student = student_of(torch.bfloat16)
    add_adapters(student, Lora(rank=3), seed=0)
    assert {p.dtype for p in trained(student).values()} == {torch.float32}
    learn(student)
    wide = copy.deepcopy(student).float()
    merge_adapters(student)
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(student), logits(wide), atol=1e-5, rtol=1e-4)
    # Merged where they stand, most of what the adapters say is rounded away.
    rounded = copy.deepcopy(student).bfloat16().float()
    assert (logits(rounded) - logits(wide)).abs().max() > 1e-3


def test_modules_stay_where_the_objective_looks_for_them():
    student = student_of()
    add_adapters(student, Lora(rank=3), seed=0)
    learn(student)
    with captured_blocks(student, [1]) as blocks, captured_projections(student, -1) as said:
        student.get_submodule("model")(input_ids=INPUT, use_cache=False)
    assert blocks[1].shape == (2, 12, 16)
    assert {name: value.shape[-1] for name, value in said.items()} == {"q": 16, "k": 8, "v": 8}
    merged = copy.deepcopy(student)
    merge_adapters(merged)
    with captured_projections(merged, -1) as plain:
        merged.get_submodule("model")(input_ids=INPUT, use_cache=False)
    torch.testing.assert_close(said["q"], plain["q"], atol=1e-5, rtol=1e-4)
    assert head_weight(student).shape == (40, 16)


def test_the_seed_alone_decides_fresh_adapters():
    drawn = []
    for seed in (0, 0, 1):
        student = student_of()
        add_adapters(student, Lora(rank=3), seed=seed)
        drawn.append(torch.cat([p.flatten() for p in trained(student).values()]))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_dropout_is_on_the_adapter_and_only_in_training():
    student = student_of()
    add_adapters(student, Lora(rank=3, dropout=0.5), seed=0)
    assert torch.equal(logits(student.train()), logits(student.eval()))  # Adapters add nothing yet.
    learn(student)
    assert torch.equal(logits(student), logits(student))
    assert not torch.equal(logits(student.train()), logits(student))
    assert sum(isinstance(m, nn.Dropout) for m in student.modules()) == 14
