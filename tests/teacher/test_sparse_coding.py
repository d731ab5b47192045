"""The compact coding gives ids back exactly and log-probabilities within the bounds it states."""

from __future__ import annotations

import numpy as np
import pytest

from kdwatts.teacher.sparse_coding import (
    IdDecoder,
    decode_log_p,
    decode_offsets,
    decode_samples,
    depth_fields,
    encode_depths,
    encode_ids,
    encode_offsets,
    encode_samples,
    entry_bytes,
    id_code,
    packed_entries,
)


def coded_bytes(vocabulary: int, k: int) -> int:
    return sum(int(shape[0]) for _, shape in id_code(vocabulary, k).fields().values())


@pytest.mark.parametrize(
    ("vocabulary", "k"),
    [
        (128_256, 64),
        (152_064, 64),
        (262_144, 64),
        (1024, 64),
        (64, 5),
        (4, 1),
        (262_144, 2),
        (300_000, 7),
        (131_072, 512),
        (256, 255),
    ],
)
def test_ids_come_back_wherever_in_the_vocabulary_they_lie(vocabulary: int, k: int):
    generator = np.random.default_rng(0)
    drawn = [np.sort(generator.choice(vocabulary, k, replace=False)) for _ in range(37)]
    lowest, highest = np.arange(k), np.arange(vocabulary - k, vocabulary)
    ids_NK = np.stack([lowest, highest, *drawn])
    code = id_code(vocabulary, k)
    out_NK = np.empty_like(ids_NK)
    IdDecoder(code, 64).decode(encode_ids(ids_NK, code), out_NK)
    assert np.array_equal(out_NK, ids_NK)


def test_ids_of_a_long_block_come_back_though_their_places_exceed_16_bits():
    """2,048 positions have 196,608 bits of unary code; places are kept modulo 65,536."""
    generator = np.random.default_rng(0)
    ids_NK = np.sort(generator.integers(0, 128_256 - 64, (2048, 64)), axis=1) + np.arange(64)
    code = id_code(128_256, 64)
    assert len(ids_NK) * code.high_bytes * 8 > 1 << 16
    out_NK = np.empty_like(ids_NK)
    IdDecoder(code).decode(encode_ids(ids_NK, code), out_NK)
    assert np.array_equal(out_NK, ids_NK)


def test_one_position_is_coded_as_by_hand():
    """Ids 3, 4097 and 8200 of 12 low bits: steps 0, 1 and 1, so ones at places 0, 2 and 4."""
    fields = encode_ids(np.array([[3, 4097, 8200]]), id_code(8_201, 3))
    assert id_code(8_201, 3).low_bits == 12
    assert fields["id_high"].tolist() == [[0b10101]]
    assert fields["id_low8"].tolist() == [[3, 1, 8]]
    assert fields["id_low4"].tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("vocabulary", "expected"), [(128_256, 108), (152_064, 109), (262_144, 112), (1024, 48)]
)
def test_64_ids_take_fewer_bytes_than_at_18_bits_each(vocabulary: int, expected: int):
    assert coded_bytes(vocabulary, 64) == expected < 64 * 18 / 8


def depths() -> np.ndarray:
    """Depths in nats over many scales; the likeliest token's is 0."""
    generator = np.random.default_rng(1)
    scale_N1 = 10 ** generator.uniform(-3, 3, (200, 1))
    depth_NK = (scale_N1 * generator.random((200, 30))).astype(np.float32)
    depth_NK[:, 7] = 0.0
    return depth_NK


def decoded(depth_NK: np.ndarray, precision: str) -> np.ndarray:
    log_p_NK = np.empty(depth_NK.shape, np.float32)
    decode_log_p(encode_depths(depth_NK, precision), log_p_NK)
    return -log_p_NK.astype(np.float64)


def test_eight_bits_err_by_no_more_than_the_stated_bound_and_not_by_much_less():
    depth_NK = depths()
    deepest_N1 = np.maximum(depth_NK.max(1, keepdims=True) * (1 + 2.0**-10), 2.0**-14)
    bound_NK = np.sqrt(depth_NK * deepest_N1) / 255 + deepest_N1 / 510**2
    error_NK = np.abs(decoded(depth_NK, "u8") - depth_NK)
    assert np.all(error_NK <= bound_NK * 1.001)
    assert (error_NK / bound_NK).max() > 0.9


def test_half_precision_errs_by_a_2048th_of_the_depth():
    depth_NK = np.maximum(depths(), 1e-3)
    assert np.all(np.abs(decoded(depth_NK, "f16") - depth_NK) <= depth_NK / 2048)


@pytest.mark.parametrize("precision", ["u8", "f16"])
def test_the_likeliest_token_is_exact_and_equal_depths_stay_equal(precision: str):
    assert np.all(decoded(depths(), precision)[:, 7] == 0)
    level = np.full((1, 4), 2.5, np.float32)
    level[0, 0] = 0.0
    assert np.unique(decoded(level, precision)[0, 1:]) == pytest.approx([2.5], abs=2.5e-3)
    assert np.all(decoded(np.zeros((2, 4), np.float32), precision) == 0)


def test_even_steps_of_eight_bits_would_err_more_where_the_mass_is():
    """Of 20 nats even steps are 0.078: at a depth of 0.3 they err up to 0.039, the squares 0.01."""
    depth_NK = np.concatenate([np.linspace(0.01, 0.3, 50), [0.0, 20.0]])[None].astype(np.float32)
    even = np.rint(depth_NK / 20 * 255) / 255 * 20
    error = np.abs(decoded(depth_NK, "u8") - depth_NK)
    assert error.max() < 0.0105 < 0.03 < np.abs(even - depth_NK).max()


@pytest.mark.parametrize("precision", ["u8", "f16"])
def test_depths_beyond_float16_stay_finite(precision: str):
    found = decoded(np.array([[0.0, 1e6]], np.float32), precision)
    assert np.isfinite(found).all() and found[0, 1] >= 59_000


def test_offsets_up_to_the_logarithm_of_a_vocabulary_err_by_an_8192nd_of_a_nat():
    offset_NM = np.random.default_rng(0).uniform(0, np.log(262_144), (1000, 3)).astype(np.float32)
    found_NM = np.empty_like(offset_NM)
    decode_offsets(encode_offsets(offset_NM, "u8"), found_NM)
    assert 1e-4 < np.abs(found_NM - offset_NM).max() <= 1 / 8192 * 1.01
    decode_offsets(encode_offsets(offset_NM, "f16"), found_NM)
    assert np.array_equal(found_NM, offset_NM)


def test_fields_are_as_wide_as_they_say():
    for precision in ("u8", "f16"):
        fields = encode_depths(depths(), precision)
        stated = depth_fields(30, precision)
        assert set(fields) == set(stated)
        for name, (kind, shape) in stated.items():
            assert fields[name].dtype == np.dtype(kind) and fields[name].shape[1:] == shape


@pytest.mark.parametrize("num_samples", [50, 63, 64, 300])
def test_samples_come_back_with_their_counts_position_by_position(num_samples: int):
    """Among them the last id of 18 bits, a token that took all draws, and as many as draws."""
    generator = np.random.default_rng(0)
    ids_NK = np.zeros((3000, num_samples), np.int64)
    counts_NK = np.zeros_like(ids_NK)
    for row in range(len(ids_NK)):
        distinct = int(generator.integers(1, 14))
        ids_NK[row, :distinct] = np.sort(generator.choice(262_144, distinct, replace=False))
        counts_NK[row, :distinct] = 1
        counts_NK[row, 0] = num_samples - distinct + 1
    ids_NK[0, 0], counts_NK[0], ids_NK[0, 1:] = 262_143, [num_samples] + [0] * (num_samples - 1), 0
    ids_NK[1], counts_NK[1] = np.arange(num_samples), 1
    entries, distinct_N = encode_samples(ids_NK, counts_NK, num_samples)
    assert entries.shape == (distinct_N.sum(), 3 if num_samples < 64 else 4)
    content = np.append(entries.reshape(-1), np.uint8(0))
    found = decode_samples(packed_entries(content, num_samples), distinct_N, num_samples)
    assert np.array_equal(found[0], ids_NK) and np.array_equal(found[1], counts_NK)


def test_three_bytes_hold_63_draws_and_four_the_rest():
    assert [entry_bytes(count) for count in (1, 63, 64, 1000)] == [3, 3, 4, 4]


@pytest.mark.parametrize(("last", "num_samples"), [(262_144, 50), (5, 16_384)])
def test_samples_that_do_not_fit_are_refused_with_advice(last: int, num_samples: int):
    ids_NK, counts_NK = np.array([[0, last]]), np.array([[1, 1]])
    message = "samples can store ids below 262,144 and fewer than 16,384 draws, but there is id"
    with pytest.raises(ValueError, match=message):
        encode_samples(ids_NK, counts_NK, num_samples)
