"""The Triton kernel that turns a row of logits into loss sums and into its gradient.

One program has one row. Its first pass finds the maxima and all sums that can be had while reading,
which are rescaled when a larger logit comes (Milakov and Gimelshein 2018, arXiv 1805.02867, section
3). Its last pass writes the gradient over the student's logits. Divergences whose slope needs one
more sum read the row once more in between. Each pass begins with the block at which the one before
it ended. That block is still in registers, and the blocks beside it are still in the GPU's cache.

All arithmetic is float32. `losses.fused_rows` launches the kernel and forms the values.
"""

# S student and T teacher logits of one block; a and b are the two temperatures of a head.

from __future__ import annotations

# Only losses.fused_rows imports this file, and only where triton is installed.
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from kdwatts.losses import fused_kinds
from kdwatts.losses.rounding import TIED_EPSILONS

NONE = tl.constexpr(fused_kinds.NONE)
FORWARD_KL = tl.constexpr(fused_kinds.FORWARD_KL)
REVERSE_KL = tl.constexpr(fused_kinds.REVERSE_KL)
JSD = tl.constexpr(fused_kinds.JSD)
SKEW_KL = tl.constexpr(fused_kinds.SKEW_KL)
SKEW_REVERSE_KL = tl.constexpr(fused_kinds.SKEW_REVERSE_KL)
TOTAL_VARIATION = tl.constexpr(fused_kinds.TOTAL_VARIATION)
TOP_K = tl.constexpr(fused_kinds.TOP_K)

LEAST = tl.constexpr(-1e36)
"""Below every logit, and finite, also over a temperature of 0.01: differences are no NaN."""
TINY = tl.constexpr(1.1754943508222875e-38)
"""The least normal float32."""
STAGES = tl.constexpr(fused_kinds.STAGES)
TIED = tl.constexpr(TIED_EPSILONS * 2.0**-23)
"""Probabilities within this share of each other are equal in float32."""


@triton.jit
def _block(pointer, index, width, BLOCK: tl.constexpr):
    """One block of a row in float32, minus infinity beyond its end, and where it is inside."""
    lanes = index * BLOCK + tl.arange(0, BLOCK)
    inside = lanes < width
    return tl.load(pointer + lanes, mask=inside, other=float("-inf")).to(tl.float32), inside


@triton.jit
def _grown(most, total, x, over):
    """The maximum with a block's, the sum of exp((x - most) / temperature), what rescaled it."""
    now = tl.maximum(most, tl.max(x, 0))
    scale = tl.exp((most - now) * over)
    exp = tl.exp((x - now) * over)
    return now, total * scale + tl.sum(exp, 0), scale, exp


@triton.jit
def _softplus_halves(x):
    """log(1 + exp(x)), log(1 + exp(-x)) and 1 / (1 + exp(x)); no large numbers are subtracted."""
    small = tl.exp(-tl.abs(x))
    log = tl.log(1.0 + small)
    share = tl.where(x > 0, small, 1.0) / (1.0 + small)
    return tl.maximum(x, 0.0) + log, tl.maximum(-x, 0.0) + log, share


@triton.jit
def _slope_before_mean(q, p, log_ratio, odds, log_share, KIND: tl.constexpr):
    """df/dq up to a factor of the whole row (losses.response), and f's own addend of the value."""
    if KIND == JSD:
        # log_share is that of the student's part of the mixture, odds the log of the other over it.
        up, down, _share = _softplus_halves(odds - log_ratio)  # pyright: ignore
        slope = -(log_share + up)
        value = -(odds + log_share + down) * p
    elif KIND == SKEW_KL:
        up, _down, share = _softplus_halves(odds + log_ratio)  # pyright: ignore
        slope = -share / tl.exp(log_share)
        value = -(log_share + up) * p
    elif KIND == SKEW_REVERSE_KL:
        up, _down, share = _softplus_halves(odds - log_ratio)  # pyright: ignore
        value = -(log_share + up)
        slope = value + 1.0 - share
        value = value * q
    else:  # TOTAL_VARIATION
        gap = q - p
        value = tl.abs(gap)
        slope = tl.where(gap > 0, 1.0, -1.0)
        slope = tl.where(value <= q * TIED, 0.0, slope)
    return slope, value


@triton.jit
def _ratio(s, t, most_s, most_t, over, shift):
    """log(q / p); `shift` is log of the teacher's sum less log of the student's."""
    return ((s - most_s) - (t - most_t)) * over + shift


@triton.jit
def _mean_sums(
    s, t, inside, most_s, most_t, over, share_s, share_t, shift, odds, log_share,
    KIND: tl.constexpr,
):  # fmt: skip
    """What one block adds to the mean slope and to the value."""
    q = tl.exp((s - most_s) * over) * share_s
    p = tl.exp((t - most_t) * over) * share_t
    log_ratio = tl.where(inside, _ratio(s, t, most_s, most_t, over, shift), 0.0)
    slope, value = _slope_before_mean(q, p, log_ratio, odds, log_share, KIND)
    value = tl.where(inside, value, 0.0)
    return tl.sum(slope * q, 0), tl.sum(value, 0)


@triton.jit
def _gradient(
    s, t, most_s, most_t, over_a, over_b, by_a, by_b, share_s, share_t, shift, mean, factor, odds,
    log_share, KIND: tl.constexpr, TWO: tl.constexpr,
):  # fmt: skip
    """The gradient of the student's logits, for a block or for the named tokens.

    `by_a` and `by_b` are what terms add of the exponentials at either temperature.
    """
    exp = tl.exp((s - most_s) * over_b)
    gradient = by_b * exp
    if TWO:
        gradient += by_a * tl.exp((s - most_s) * over_a)
    if KIND != NONE and KIND != TOP_K:
        q = exp * share_s
        p = tl.exp((t - most_t) * over_b) * share_t
        if KIND == FORWARD_KL:
            gradient += factor * (q - p)
        else:
            log_ratio = _ratio(s, t, most_s, most_t, over_b, shift)
            if KIND == REVERSE_KL:
                slope = log_ratio
            else:
                slope, _value = _slope_before_mean(q, p, log_ratio, odds, log_share, KIND)
            gradient += factor * (slope - mean) * q
    return gradient


@triton.jit
def _write(pointer, gradient, index, inside, BLOCK: tl.constexpr):
    lanes = index * BLOCK + tl.arange(0, BLOCK)
    tl.store(pointer + lanes, gradient.to(pointer.dtype.element_ty), mask=inside)


# Compiled once for any number of rows: chunks differ in length, and the kernel that was checked on
# a few rows is the one that runs.
@triton.jit(do_not_specialize=["num_rows"])
def row_kernel(
    student_SV, teacher_SV, sums_CS, drawn_a_S, drawn_b_S,
    set_aside_SK, tail_S, at_student_SJ, at_teacher_SJ, at_named_SJ, at_gradient_SJ,
    student_stride, teacher_stride, num_rows, width, num_set_aside, num_at,
    over_a, over_b, factor, odds, log_share,
    KIND: tl.constexpr, TWO: tl.constexpr, GRADIENT: tl.constexpr,
    SET_ASIDE: tl.constexpr, AT: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of one row, and the gradient in place of its logits.

    `sums_CS` has for each row the student's maximum, its sums of exponentials at temperatures a and
    b, the teacher's, the sum of the value, and the sum without the tokens that were set aside.
    `drawn_*_S` are what sampled terms weigh the softmax of either temperature with. The arrays
    `at_*` have the logits of the tokens that terms name, and take the dense gradient there.
    """
    row = tl.program_id(0).to(tl.int64)
    student = student_SV + row * student_stride
    teacher = teacher_SV + row * teacher_stride
    DENSE: tl.constexpr = KIND != NONE and KIND != TOP_K
    THIRD: tl.constexpr = (KIND != FORWARD_KL and KIND != REVERSE_KL) and DENSE

    most_s = tl.full((), LEAST, dtype=tl.float32)
    zero = tl.full((), 0.0, dtype=tl.float32)
    most_t, sum_a, sum_b, sum_t, value, mean = most_s, zero, zero, zero, zero, zero
    s = tl.zeros([BLOCK], dtype=tl.float32)
    t = tl.zeros([BLOCK], dtype=tl.float32)
    inside = tl.arange(0, BLOCK) < width
    for index in tl.range(0, BLOCKS, num_stages=STAGES):
        s, inside = _block(student, index, width, BLOCK)
        now_s, sum_b_now, scale_s, exp_s = _grown(most_s, sum_b, s, over_b)
        if TWO:
            sum_a = sum_a * tl.exp((most_s - now_s) * over_a)
            sum_a += tl.sum(tl.exp((s - now_s) * over_a), 0)
        if DENSE:
            t, inside = _block(teacher, index, width, BLOCK)
            now_t, sum_t_now, scale_t, exp_t = _grown(most_t, sum_t, t, over_b)
            if KIND == FORWARD_KL or KIND == REVERSE_KL:  # noqa: SIM109
                # Logits count from the maxima so far. When these move, so does every addend.
                moved = ((most_t - now_t) - (most_s - now_s)) * over_b
                gap = tl.where(inside, ((t - now_t) - (s - now_s)) * over_b, 0.0)
                if KIND == FORWARD_KL:
                    value = (value + sum_t * moved) * scale_t + tl.sum(exp_t * gap, 0)
                else:
                    value = (value - sum_b * moved) * scale_s - tl.sum(exp_s * gap, 0)
            most_t, sum_t = now_t, sum_t_now
        most_s, sum_b = now_s, sum_b_now

    rest = sum_b
    if KIND == TOP_K:
        # The named tokens were set aside, so that what all others have is a sum of its own.
        lanes = tl.arange(0, SET_ASIDE)
        named = tl.load(
            set_aside_SK + row * num_set_aside + lanes,
            mask=lanes < num_set_aside, other=float("-inf"),
        )  # fmt: skip
        now_s = tl.maximum(most_s, tl.max(named, 0))
        rest = tl.maximum(sum_b * tl.exp((most_s - now_s) * over_b), TINY)
        sum_b = sum_b * tl.exp((most_s - now_s) * over_b)
        sum_b += tl.sum(tl.exp((named - now_s) * over_b), 0)
        if TWO:
            sum_a = sum_a * tl.exp((most_s - now_s) * over_a)
            sum_a += tl.sum(tl.exp((named - now_s) * over_a), 0)
        most_s = now_s

    share_s = 1.0 / sum_b
    share_t, shift = zero, zero
    if DENSE:
        share_t = 1.0 / sum_t
        shift = tl.log(sum_t) - tl.log(sum_b)
    if KIND == REVERSE_KL:
        mean = value * share_s + shift
    if THIRD:
        # From the end, where the first pass stopped, to the beginning.
        mean, value = _mean_sums(
            s, t, inside, most_s, most_t, over_b, share_s, share_t, shift, odds, log_share, KIND
        )
        for step in tl.range(1, BLOCKS, num_stages=STAGES):
            index = BLOCKS - 1 - step
            s, inside = _block(student, index, width, BLOCK)
            t, inside = _block(teacher, index, width, BLOCK)
            more_mean, more_value = _mean_sums(
                s, t, inside, most_s, most_t, over_b, share_s, share_t, shift, odds, log_share, KIND
            )
            mean += more_mean
            value += more_value

    sums = sums_CS + row
    tl.store(sums, most_s)
    tl.store(sums + num_rows, sum_a)
    tl.store(sums + 2 * num_rows, sum_b)
    tl.store(sums + 3 * num_rows, sum_t)
    tl.store(sums + 4 * num_rows, value)
    tl.store(sums + 5 * num_rows, rest)
    tl.store(sums + 6 * num_rows, mean)

    if GRADIENT:
        by_a, by_b = zero, tl.load(drawn_b_S + row) * share_s
        if TWO:
            by_a = tl.load(drawn_a_S + row) / sum_a
        by_named = by_b
        if KIND == TOP_K:
            by_named = by_b + factor * share_s
            by_b += factor * (share_s - tl.load(tail_S + row) / rest)
        if AT > 0:
            lanes = tl.arange(0, AT)
            here, place = lanes < num_at, row * num_at + lanes
            at_s = tl.load(at_student_SJ + place, mask=here, other=0.0)
            at_t, by = at_s, by_b
            if KIND == TOP_K:
                by = tl.where(
                    tl.load(at_named_SJ + place, mask=here, other=0.0) > 0, by_named, by_b
                )
            if DENSE:
                at_t = tl.load(at_teacher_SJ + place, mask=here, other=0.0)
            gradient = _gradient(
                at_s, at_t, most_s, most_t, over_a, over_b, by_a, by, share_s, share_t, shift,
                mean, factor, odds, log_share, KIND, TWO,
            )  # fmt: skip
            tl.store(at_gradient_SJ + place, gradient, mask=here)

        # The block at hand is the first one after three passes, else the last one.
        index = 0 if THIRD else BLOCKS - 1
        gradient = _gradient(
            s, t, most_s, most_t, over_a, over_b, by_a, by_b, share_s, share_t, shift, mean, factor,
            odds, log_share, KIND, TWO,
        )  # fmt: skip
        _write(student, gradient, index, inside, BLOCK)
        for step in tl.range(1, BLOCKS, num_stages=STAGES):
            index = step if THIRD else BLOCKS - 1 - step
            s, inside = _block(student, index, width, BLOCK)
            if DENSE:
                t, inside = _block(teacher, index, width, BLOCK)
            gradient = _gradient(
                s, t, most_s, most_t, over_a, over_b, by_a, by_b, share_s, share_t, shift, mean,
                factor, odds, log_share, KIND, TWO,
            )  # fmt: skip
            _write(student, gradient, index, inside, BLOCK)


@triton.jit
def scale_kernel(values_C, scale, count, BLOCK: tl.constexpr):
    """Multiply in place. Nothing is read or written where the scale is 1."""
    by = tl.load(scale)
    if by != 1.0:
        places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        here = places < count
        value = tl.load(values_C + places, mask=here)
        tl.store(values_C + places, value * by, mask=here)
