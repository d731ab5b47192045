"""The estimate of serving under load, in words: a table, the greatest rates, the range."""

from __future__ import annotations

from collections.abc import Sequence

from kdwatts.config.experiment import Config
from kdwatts.planning.expected_serving import (
    device_of,
    engine_flags,
    is_wanted,
    levels_of,
    limits_of,
    served_models,
    tokens_of,
    why_unknown,
)
from kdwatts.planning.load_estimates import (
    LoadEstimate,
    RateEstimate,
    estimate_load,
    estimate_rate,
)
from kdwatts.planning.measured_rates import Rates, sheet_rates
from kdwatts.planning.serving_roofline import (
    EIGHT_BITS,
    MEMORY_DRAW,
    PRODUCTS_DRAW,
    Device,
    Range,
    Served,
    paces,
    turning_point,
)
from kdwatts.serving.engines.plan import has_flag

ENGINE_WORK_S = (1e-3, 5e-3)
"""Seconds of an engine's own work a step: choosing sequences and tokens, text, HTTP. Our judgement.
It is in no figure. Where it is longer than a step of the device, it decides."""

HEADINGS = ("load", "model", "at once", "tokens/s", "TPOT, ms", "J/output token", "")


def estimate_lines(config: Config, rates: Rates | None = None) -> list[str]:
    """What is expected of serving under load. Empty where neither an engine nor a load is asked.

    Without `rates` they are those of the data sheet.
    """
    if not is_wanted(config):
        return []
    rates = rates or sheet_rates(config)
    if why := why_unknown(config, rates):
        return [f"serving under load is not estimated: {why}"]
    device, tokens, limits = device_of(config, rates), tokens_of(config), limits_of(config)
    slo, (levels, is_closed) = config.eval.serving.slo, levels_of(config)
    models = served_models(config)
    greatest = [
        estimate_rate(model, tokens, device, limits, tpot_s=slo.tpot_p99_s, answer_s=slo.e2e_p99_s)
        for model in models
    ]
    loads = [
        estimate_load(model, tokens, device, limits, level=level, is_closed=is_closed)
        for level in levels
        for model, rate in zip(models, greatest, strict=True)
        if rate.most_at_once
    ]
    turns = {model.subject: turning_point(model, tokens, device) for model in models}
    short = [
        (model.subject, paces(model, tokens, device)[0].tpot_s(1))
        for model in models
        if paces(model, tokens, device)[0].tpot_s(1) < ENGINE_WORK_S[1]
    ]
    return [
        f"serving under load with gpu={config.gpu.name}, estimated by its roofline "
        f"({tokens.prompt:,.0f} tokens read and {tokens.output:,.0f} written a request):",
        *_table(loads),
        *(_rate_line(rate, config) for rate in greatest),
        f"  memory bounds a step, and not products: {_turns(turns)}",
        *_range_lines(config, models, short, device, rates),
    ]


def _table(loads: Sequence[LoadEstimate]) -> list[str]:
    if not loads:
        return []
    rows = [HEADINGS, *(_row(load) for load in loads)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _row(load: LoadEstimate) -> tuple[str, ...]:
    remark = ""
    if not all(load.keeps_up):
        remark = "perhaps too much" if any(load.keeps_up) else "too much"
    elif load.is_closed and load.at_once.high < load.level:
        remark = "the others wait"
    tpot = load.tpot_s and Range(1000 * load.tpot_s.low, 1000 * load.tpot_s.high)
    return (
        f"{load.level:g} at once" if load.is_closed else f"{load.level:.3g} requests/s",
        load.subject,
        *map(_range, (load.at_once, load.output_tokens_per_s, tpot, load.j_per_output_token)),
        remark,
    )


def _rate_line(rate: RateEstimate, config: Config) -> str:
    if not rate.most_at_once:
        return f"  {rate.subject}: no room for one request beside its weights"
    slo, engine = config.eval.serving.slo, config.eval.serving.engine
    own = "the engine's limit" if engine in ("transformers", "vllm") else "as many as vLLM takes"
    line = (
        f"  greatest rate, {rate.subject}: {_range(rate.requests_per_s)} requests/s with "
        f"{rate.most_at_once:,} at once ({'room for keys and values' if rate.is_room else own})"
    )
    if rate.within_limits is None:
        return line
    limits = {"TPOT": slo.tpot_p99_s, "the end-to-end time": slo.e2e_p99_s}
    kept = " and ".join(f"{name} at {limit:g} s" for name, limit in limits.items() if limit)
    if not rate.within_limits.high:
        return f"{line}; not one request with {kept}"
    return f"{line}; {_range(rate.within_limits)} requests/s with {kept} on average"


def _turns(turns: dict[str, float | None]) -> str:
    return ", ".join(
        f"{subject} " + ("at any number" if turn is None else f"below {turn:,.0f} at once")
        for subject, turn in turns.items()
    )


def _range_lines(
    config: Config,
    models: Sequence[Served],
    short: Sequence[tuple[str, float]],
    device: Device,
    rates: Rates,
) -> list[str]:
    engine = config.eval.serving.engine
    memory, products = _percent(device.bandwidth_reached(None)), _percent(device.products_reached)
    if any(model.quantization for model in models):
        quantised = _percent(device.bandwidth_reached(models[-1].quantization or "int8"))
        memory += f" ({quantised} for quantised weights)"
    if any(model.quantization in EIGHT_BITS for model in models):
        products += " (for int8 and fp8 the greater is of the peak in 8 bits)"
    lines = [
        f"  the two ends: memory at {memory} of {_of_what(device.is_memory_measured, rates)} and "
        f"products at {products}{_of_measured_products(device, rates)}, one after the other or "
        "both at once",
    ]
    if config.gpu.tdp_w:
        lines.append(
            f"  joules: of its {config.gpu.tdp_w:,.0f} W the GPU draws {_percent(MEMORY_DRAW)} "
            f"where memory bounds a step, and {_percent(PRODUCTS_DRAW)} where products do"
        )
    lines.append(
        "  not in it: the engine's own work, waiting for a place, prompts that begin alike"
    )
    low_ms, high_ms = (1000 * seconds for seconds in ENGINE_WORK_S)
    if engine == "transformers":
        lines.append(
            "  transformers launches kernels one by one from Python, so expect the low end or less"
        )
    elif short:
        steps = ", ".join(f"the {subject}'s {1000 * step_s:.2g} ms" for subject, step_s in short)
        lines.append(
            f"  an engine's own work takes {low_ms:g} to {high_ms:g} ms a step (our judgement); "
            f"it may decide where steps are as short: {steps}"
        )
    if has_flag(engine_flags(config), ["--enforce-eager"]) and config.gpu.device != "cpu":
        lines.append("  without CUDA graphs (--enforce-eager) expect the low end")
    return lines


def _of_what(is_measured: bool, rates: Rates) -> str:
    return f"what was measured {rates.measured}" if is_measured else "its peak"


def _of_measured_products(device: Device, rates: Rates) -> str:
    """Of which rate, where it is another one than the memory's."""
    if device.are_products_measured == device.is_memory_measured:
        return ""
    return f" of {_of_what(device.are_products_measured, rates)}"


def _percent(shares: tuple[float, float]) -> str:
    low, high = sorted(shares)
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def _range(of: Range | None) -> str:
    if of is None:
        return "-"
    low, high = _figure(of.low), _figure(of.high)
    return low if low == high else f"{low} to {high}"


def _figure(value: float) -> str:
    """Three digits, and whole numbers from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
