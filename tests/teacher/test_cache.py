"""What is read back from a cache is what the teacher said, or an error that names the file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from kdwatts.losses.sparse import sampled_forward_kl, top_k_forward_kl
from kdwatts.records.files import read_json
from kdwatts.teacher import cache_parts
from kdwatts.teacher.cache import SignalCache
from kdwatts.teacher.cache_parts import HEAD_NAME
from kdwatts.teacher.cache_record import Form, bytes_per_token
from kdwatts.teacher.signals import SignalPlan, Signals, SparseLogits, compute_signals
from tests.teacher.whole_cache import write_cache

ROWS = np.array([2, 5, 11])
PLAN = SignalPlan(
    5,
    (1.0, 2.0),
    64,
    samples=20,
    final_hidden=True,
    blocks=(0, 1),
    block_positions=2,
    pooled=True,
    token_positions=3,
)
SHIPPED = SignalPlan(64, (1.0, 2.0, 4.0), 128_256)


@pytest.fixture
def signals(teacher: LlamaForCausalLM, input_BT: Tensor) -> Signals:
    return compute_signals(teacher, input_BT, PLAN, rows=ROWS)


def write(
    out_dir: Path, teacher: LlamaForCausalLM, input_BT: Tensor, plan: SignalPlan = PLAN
) -> Path:
    """A cache of the three rows, in parts of two rows and of one, with the teacher's head."""
    out_dir.mkdir(exist_ok=True)
    save_file({"head": teacher.lm_head.weight.detach().clone()}, out_dir / HEAD_NAME)

    def signals_of(rows: NDArray[np.int64]) -> Signals:
        return compute_signals(teacher, input_BT[np.searchsorted(ROWS, rows)], plan, rows=rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_parts, "PART_POSITIONS", 10)
        write_cache(out_dir, ROWS, Form(plan, 5, 16), signals_of, sources={"data": "d41d8"})
    return out_dir


@pytest.fixture
def cache_dir(tmp_path: Path, teacher: LlamaForCausalLM, input_BT: Tensor) -> Path:
    return write(tmp_path / "cache", teacher, input_BT)


def by_ids(sparse: SparseLogits) -> tuple[Tensor, Tensor]:
    """Ids in ascending order, and log-probabilities over the likeliest token's in that order."""
    ids_NK, order_NK = sparse.ids_NK.sort(-1)
    log_p_NK = sparse.log_p_NK - sparse.log_p_NK.amax(-1, keepdim=True)
    return ids_NK, log_p_NK.gather(-1, order_NK)


def test_cached_signals_are_the_live_ones_within_the_precision_they_are_kept_in(
    cache_dir: Path, teacher: LlamaForCausalLM, input_BT: Tensor
):
    """Compared part by part as written: products of another shape may round differently."""
    cache = SignalCache(cache_dir)
    assert cache.plan == PLAN
    for some in ([0, 1], [2]):
        found = cache.read(ROWS[some])
        live = compute_signals(teacher, input_BT[some], PLAN, rows=ROWS[some])
        assert found.sparse and live.sparse and found.sampled and live.sampled
        (ids_NK, log_p_NK), (expected_ids_NK, expected_NK) = map(
            by_ids, (found.sparse, live.sparse)
        )
        assert torch.equal(ids_NK, expected_ids_NK) and ids_NK.dtype == torch.int64
        deepest_N1 = -expected_NK.amin(-1, keepdim=True)
        bound_NK = (-expected_NK * deepest_N1).sqrt() / 255 + deepest_N1 / 510**2 + 1e-5
        assert torch.all((log_p_NK - expected_NK).abs() <= 1.01 * bound_NK)
        torch.testing.assert_close(
            found.sparse.log_tail_NM, live.sparse.log_tail_NM, rtol=2**-11, atol=0
        )
        for name in ("ids_NK", "counts_NK"):
            assert torch.equal(getattr(found.sampled, name), getattr(live.sampled, name))
        assert found.blocks and live.blocks and list(found.blocks) == [0, 1]
        for block in (0, 1):
            assert found.blocks[block].shape == (len(some), 2, 16)
            assert torch.equal(found.blocks[block], live.blocks[block].bfloat16())
        assert found.final_ND is not None and live.final_ND is not None
        assert torch.equal(found.final_ND, live.final_ND.bfloat16())
        assert found.tokens_BMD is not None and live.tokens_BMD is not None
        assert torch.equal(found.tokens_BMD, live.tokens_BMD.bfloat16())
        assert found.pooled_BD is not None and live.pooled_BD is not None
        assert torch.equal(found.pooled_BD, live.pooled_BD)


@pytest.mark.parametrize(("precision", "tolerance"), [("u8", 1e-3), ("f16", 1e-4)])
@pytest.mark.parametrize("temperature", SHIPPED.temperatures)
def test_a_batchs_loss_on_a_cached_signal_is_the_live_one_within_the_stated_tolerance(
    tmp_path: Path, precision: str, tolerance: float, temperature: float
):
    """512 positions of a sharp teacher over 5,000 tokens, 64 kept; the student is near it."""
    generator = torch.Generator().manual_seed(0)
    order_V = torch.randperm(5000, generator=generator)
    zipf_V = -1.8 * torch.arange(1.0, 5001).log()[order_V]
    teacher_NV = zipf_V + 2 * torch.randn(512, 5000, generator=generator)
    student_NV = teacher_NV + torch.randn(512, 5000, generator=generator)
    from kdwatts.teacher.signals import sparse_logits

    plan = replace(SHIPPED, vocabulary=5000, precision=precision)
    live = sparse_logits(teacher_NV, k=64, temperatures=plan.temperatures)
    write_cache(tmp_path, np.arange(8), Form(plan, 64, 1), lambda rows: Signals(live))
    cached = SignalCache(tmp_path).read(np.arange(8)).sparse
    assert cached
    found_N, expected_N = (
        top_k_forward_kl(
            student_NV.double(), sparse.at(temperature, plan.temperatures), temperature=temperature
        )
        for sparse in (cached, live)
    )
    found, expected = found_N.mean().item(), expected_N.mean().item()
    assert found == pytest.approx(expected, rel=tolerance)
    assert found != expected
    # A cache that kept no log Z would take the T = 1 probabilities at every temperature.
    if temperature != 1.0:
        wrong = cached.at(1.0, plan.temperatures)
        wrong_N = top_k_forward_kl(student_NV.double(), wrong, temperature=temperature)
        assert abs(wrong_N.mean().item() / expected - 1) > 0.05


def test_a_loss_on_cached_samples_is_the_live_one_exactly(cache_dir: Path, signals: Signals):
    student_NV = torch.randn(15, 64, generator=torch.Generator().manual_seed(3))
    cached = SignalCache(cache_dir).read(ROWS).sampled
    assert cached and signals.sampled
    found_N, expected_N = (
        sampled_forward_kl(student_NV, one.ids_NK, one.counts_NK / one.num_samples)
        for one in (cached, signals.sampled)
    )
    assert torch.equal(found_N, expected_N)


def test_rows_of_several_parts_are_read_in_the_order_asked_for_and_as_often(cache_dir: Path):
    cache = SignalCache(cache_dir)
    assert len(cache.index["parts"]) == 2
    found, whole = cache.read(np.array([11, 2, 11, 5])), cache.read(ROWS)
    order = [2, 0, 2, 1]
    assert found.sparse and whole.sparse and found.sampled and whole.sampled
    assert found.blocks and whole.blocks
    for kept, name in (("sparse", "ids_NK"), ("sampled", "ids_NK"), ("sampled", "counts_NK")):
        one, other = (getattr(getattr(signals, kept), name) for signals in (found, whole))
        assert torch.equal(one.view(4, 5, -1), other.view(3, 5, -1)[order])
    assert torch.equal(found.blocks[1], whole.blocks[1][order])


def test_the_head_comes_back_as_it_was(cache_dir: Path, teacher: LlamaForCausalLM):
    assert torch.equal(SignalCache(cache_dir).head()["head"], teacher.lm_head.weight)


@pytest.mark.parametrize("vocabulary", [65_536, 65_537, 152_064, 262_144])
def test_the_ids_of_a_vocabulary_come_back_up_to_the_last(tmp_path: Path, vocabulary: int):
    # Qwen2.5 has 152,064 rows, above 2^17: 18 bits.
    ids_NK = torch.tensor(
        [[0, vocabulary - 1], [vocabulary // 2 + 1, min(131_072, vocabulary - 2)]]
    )
    plan = SignalPlan(top_k=2, temperatures=(1.0,), vocabulary=vocabulary)
    sparse = SparseLogits(ids_NK, -torch.ones(2, 2), torch.zeros(2, 1), -torch.ones(2, 1))
    write_cache(tmp_path, np.array([0]), Form(plan, 2, 1), lambda rows: Signals(sparse))
    found = SignalCache(tmp_path).read(np.array([0])).sparse
    assert found and torch.equal(found.ids_NK, ids_NK.sort(-1).values)


def test_log_probabilities_below_the_range_of_float16_stay_finite(tmp_path: Path):
    plan = SignalPlan(top_k=2, temperatures=(1.0,), vocabulary=4)
    log_p_NK, far = torch.tensor([[0.0, -1e6]]), torch.full((1, 1), -1e6)
    sparse = SparseLogits(torch.tensor([[1, 3]]), log_p_NK, torch.zeros(1, 1), far)
    write_cache(tmp_path, np.array([0]), Form(plan, 1, 1), lambda rows: Signals(sparse))
    found = SignalCache(tmp_path).read(np.array([0])).sparse
    assert found and found.log_p_NK.isfinite().all() and found.log_tail_NM.isfinite().all()


@pytest.mark.parametrize(
    ("plan", "most"),
    [
        (SHIPPED, 190),
        (replace(SHIPPED, vocabulary=152_064), 190),
        (replace(SHIPPED, vocabulary=262_144), 190),
        (replace(SHIPPED, precision="f16"), 260),
        (SignalPlan(vocabulary=128_256, samples=50), 48),
    ],
)
def test_a_token_costs_no_more_than_promised(plan: SignalPlan, most: float):
    """64 tokens at three temperatures; or 12 distinct samples."""
    assert bytes_per_token(plan, 2048, 4096) <= most


@pytest.mark.parametrize("plan", [replace(PLAN, samples=0), SignalPlan(5, (1.0,), 70_000)])
def test_bytes_per_token_are_those_of_the_files(
    tmp_path: Path, teacher: LlamaForCausalLM, input_BT: Tensor, plan: SignalPlan
):
    write(tmp_path, teacher, input_BT, plan)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.bin"))
    assert bytes_per_token(plan, 5, 16) == size / 15
    assert read_json(tmp_path / "signals.json")["bytes_per_token"] == size / 15


def test_the_index_says_what_the_signals_are_of(cache_dir: Path):
    index = read_json(cache_dir / "signals.json")
    assert index["sources"] == {"data": "d41d8"}
    assert [part["rows"] for part in index["parts"]] == [[2, 5], [11, 11]]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


MESSAGE = r"teacher: {} has sha256 \w{{12}}, but the index says \w{{12}}; delete"


@pytest.mark.parametrize(
    "name", ["part-000001/top_k.bin", "part-000001/states.bin", "part-000001/samples.bin"]
)
def test_a_part_with_one_flipped_bit_is_refused_when_a_row_of_it_is_first_read(
    cache_dir: Path, name: str
):
    flip(cache_dir / name)
    cache = SignalCache(cache_dir)
    cache.read(ROWS[:2])
    with pytest.raises(ValueError, match=MESSAGE.format(re.escape(str(cache_dir / name)))):
        cache.read(ROWS[2:])
    with pytest.raises(ValueError, match=MESSAGE.format(re.escape(str(cache_dir / name)))):
        SignalCache(cache_dir, verify=True)


def test_flipped_bits_of_rows_are_refused_at_once_and_of_the_head_when_it_is_read(cache_dir: Path):
    flip(cache_dir / HEAD_NAME)
    cache = SignalCache(cache_dir)
    with pytest.raises(ValueError, match=r"head\.safetensors has sha256"):
        cache.head()
    with pytest.raises(ValueError, match=r"head\.safetensors has sha256"):
        SignalCache(cache_dir, verify=True)
    flip(cache_dir / "rows.npy")
    with pytest.raises(ValueError, match=r"rows\.npy has sha256"):
        SignalCache(cache_dir)


def test_a_truncated_file_and_a_missing_one_are_refused_by_name_when_a_cache_is_opened(
    cache_dir: Path,
):
    path = cache_dir / "part-000000" / "states.bin"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(
        ValueError, match=rf"has {size - 2} bytes, but the index says {size}; delete"
    ):
        SignalCache(cache_dir)
    path.unlink()
    with pytest.raises(ValueError, match=r"states\.bin is missing; delete"):
        SignalCache(cache_dir)


@pytest.mark.parametrize("missing", [0, 3, 12])
def test_a_row_that_was_never_cached_is_refused_by_its_number(cache_dir: Path, missing: int):
    message = rf"holds 3 rows, but not rows \[{missing}\]; it was built for another schedule"
    with pytest.raises(ValueError, match=message):
        SignalCache(cache_dir).read(np.array([5, missing]))


def test_two_threads_read_one_cache_at_a_time_and_find_the_same(cache_dir: Path):
    from concurrent.futures import ThreadPoolExecutor

    cache = SignalCache(cache_dir)
    expected = cache.read(ROWS).sparse
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: cache.read(ROWS).sparse, range(40)))
    assert expected
    for sparse in found:
        assert sparse and torch.equal(sparse.ids_NK, expected.ids_NK)
        assert torch.equal(sparse.log_p_NK, expected.log_p_NK)
