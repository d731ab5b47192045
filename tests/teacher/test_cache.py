"""What is read back from a cache is what the teacher said, or an error that names the file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from kdwatts.losses.response import top_k_forward_kl
from kdwatts.teacher.cache import HEAD_NAME, SignalCache, SignalWriter, bytes_per_token
from kdwatts.teacher.signals import SignalPlan, Signals, SparseLogits, compute_signals

CPU = torch.device("cpu")
ROWS = np.array([2, 5, 11])
PLAN = SignalPlan(5, (1.0, 2.0), 64, final_hidden=True, blocks=(0, 1), pooled=True)


@pytest.fixture
def signals(teacher: LlamaForCausalLM, input_BT: Tensor) -> Signals:
    return compute_signals(teacher, input_BT, PLAN)


@pytest.fixture
def cache_dir(tmp_path: Path, teacher: LlamaForCausalLM, input_BT: Tensor) -> Path:
    """A cache of three rows, written one and then two at a time, with the teacher's head."""
    writer = SignalWriter(tmp_path, ROWS, PLAN, sequence_length=5, width=16)
    for part in (input_BT[:1], input_BT[1:]):
        writer.write(compute_signals(teacher, part, PLAN), len(part))
    save_file({"head": teacher.lm_head.weight.detach().clone()}, tmp_path / HEAD_NAME)
    writer.close()
    return tmp_path


def test_cached_signals_are_the_live_ones_within_the_precision_they_are_kept_in(
    cache_dir: Path, teacher: LlamaForCausalLM, input_BT: Tensor
):
    """Compared batch by batch as written: products of another shape may round differently."""
    cache = SignalCache(cache_dir)
    assert cache.plan == PLAN
    for rows, part in ((ROWS[:1], input_BT[:1]), (ROWS[1:], input_BT[1:])):
        found, signals = cache.read(rows, CPU), compute_signals(teacher, part, PLAN)
        assert found.sparse and signals.sparse
        assert torch.equal(found.sparse.ids_NK, signals.sparse.ids_NK)
        # float16 has 11 bits: half a unit in the last place is 2^-11 of the value.
        for one, other in (
            (found.sparse.log_p_NK, signals.sparse.log_p_NK),
            (found.sparse.log_tail_NM, signals.sparse.log_tail_NM),
        ):
            torch.testing.assert_close(one.float(), other, rtol=2**-11, atol=0)
        assert torch.equal(found.sparse.offset_NM, signals.sparse.offset_NM)
        assert found.blocks and signals.blocks and list(found.blocks) == [0, 1]
        for block in (0, 1):
            assert torch.equal(found.blocks[block], signals.blocks[block].bfloat16())
        assert found.final_ND is not None and signals.final_ND is not None
        assert torch.equal(found.final_ND, signals.final_ND.bfloat16())
        assert found.pooled_BD is not None and signals.pooled_BD is not None
        assert torch.equal(found.pooled_BD, signals.pooled_BD)


@pytest.mark.parametrize("temperature", PLAN.temperatures)
def test_the_loss_on_a_cached_signal_is_the_live_one_to_a_thousandth(
    cache_dir: Path, signals: Signals, temperature: float
):
    student_NV = torch.randn(15, 64, generator=torch.Generator().manual_seed(3))
    cached = SignalCache(cache_dir).read(ROWS, CPU).sparse
    assert cached and signals.sparse
    found_N, expected_N = (
        top_k_forward_kl(
            student_NV, sparse.at(temperature, PLAN.temperatures), temperature=temperature
        )
        for sparse in (cached, signals.sparse)
    )
    torch.testing.assert_close(found_N, expected_N, rtol=1e-3, atol=1e-3)


def test_rows_are_read_in_the_order_asked_for_and_as_often(cache_dir: Path):
    cache = SignalCache(cache_dir)
    found, whole = cache.read(np.array([11, 2, 11]), CPU), cache.read(ROWS, CPU)
    assert found.sparse and whole.sparse and found.blocks and whole.blocks
    ids_BTK = whole.sparse.ids_NK.view(3, 5, 5)
    assert torch.equal(found.sparse.ids_NK.view(3, 5, 5), ids_BTK[[2, 0, 2]])
    assert torch.equal(found.blocks[1], whole.blocks[1][[2, 0, 2]])


def test_the_head_comes_back_as_it_was(cache_dir: Path, teacher: LlamaForCausalLM):
    assert torch.equal(SignalCache(cache_dir).head_weight(), teacher.lm_head.weight)


@pytest.mark.parametrize(
    ("vocabulary", "bytes_each"), [(65_536, 2), (65_537, 4), (152_064, 4), (262_144, 4)]
)
def test_the_ids_of_a_vocabulary_come_back_up_to_the_last(
    tmp_path: Path, vocabulary: int, bytes_each: int
):
    # Qwen2.5 has 152,064 rows, above 2^17: 18 bits.
    ids_NK = torch.tensor([[0, vocabulary - 1], [vocabulary // 2, min(131_072, vocabulary - 2)]])
    plan = SignalPlan(top_k=2, temperatures=(1.0,), vocabulary=vocabulary)
    sparse = SparseLogits(ids_NK, -torch.ones(2, 2), torch.zeros(2, 1), -torch.ones(2, 1))
    writer = SignalWriter(tmp_path, np.array([0]), plan, sequence_length=2, width=1)
    writer.write(Signals(sparse), 1)
    writer.close()
    found = SignalCache(tmp_path).read(np.array([0]), CPU).sparse
    assert found and found.ids_NK.dtype == torch.int64
    assert torch.equal(found.ids_NK, ids_NK)
    assert (tmp_path / "top_k_ids.bin").stat().st_size == 4 * bytes_each


def test_log_probabilities_below_the_range_of_float16_stay_finite(tmp_path: Path):
    plan = SignalPlan(top_k=1, temperatures=(1.0,), vocabulary=4)
    far = torch.full((1, 1), -1e6)
    writer = SignalWriter(tmp_path, np.array([0]), plan, sequence_length=1, width=1)
    writer.write(Signals(SparseLogits(torch.zeros(1, 1).long(), far, torch.zeros(1, 1), far)), 1)
    writer.close()
    found = SignalCache(tmp_path).read(np.array([0]), CPU).sparse
    assert found and found.log_p_NK.isfinite().all() and found.log_tail_NM.isfinite().all()


@pytest.mark.parametrize("plan", [PLAN, SignalPlan(pooled=True), SignalPlan(5, (1.0,), 70_000)])
def test_bytes_per_token_are_those_of_the_files(tmp_path: Path, plan: SignalPlan):
    SignalWriter(tmp_path, ROWS, plan, sequence_length=5, width=16)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.bin"))
    assert bytes_per_token(plan, 5, 16) == size / (3 * 5)


@pytest.mark.parametrize(
    "name",
    [
        "top_k_ids.bin",
        "top_k_log_p.bin",
        "offsets.bin",
        "log_tails.bin",
        "final_hidden.bin",
        "blocks.bin",
        "pooled.bin",
        "rows.npy",
        HEAD_NAME,
    ],
)
def test_a_file_with_one_flipped_bit_is_refused_by_its_name(cache_dir: Path, name: str):
    path = cache_dir / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    message = (
        rf"teacher: {re.escape(str(path))} has sha256 \w{{12}}, the index says \w{{12}}; delete"
    )
    with pytest.raises(ValueError, match=message):
        SignalCache(cache_dir)


def test_a_truncated_file_and_a_missing_one_are_refused_by_name(cache_dir: Path):
    path = cache_dir / "blocks.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"blocks\.bin has sha256"):
        SignalCache(cache_dir)
    path.unlink()
    with pytest.raises(ValueError, match=r"blocks\.bin has sha256 none, for it is missing"):
        SignalCache(cache_dir)


@pytest.mark.parametrize("missing", [0, 3, 12])
def test_a_row_that_was_never_cached_is_refused_by_its_number(cache_dir: Path, missing: int):
    message = rf"holds 3 rows and not rows \[{missing}\]; it was built for another schedule"
    with pytest.raises(ValueError, match=message):
        SignalCache(cache_dir).read(np.array([5, missing]), CPU)


def test_a_cache_is_not_closed_before_its_last_row(
    tmp_path: Path, teacher: LlamaForCausalLM, input_BT: Tensor
):
    writer = SignalWriter(tmp_path, ROWS, PLAN, sequence_length=5, width=16)
    writer.write(compute_signals(teacher, input_BT[:2], PLAN), 2)
    with pytest.raises(AssertionError, match=r"\(2, 3\)"):
        writer.close()
    assert not (tmp_path / "signals.json").exists()
