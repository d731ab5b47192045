"""What a plan says of serving under load, and what it refuses as a run would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdwatts.cli.preflight import preflight
from kdwatts.planning.expected_serving import limits_of, served_models
from kdwatts.planning.feasibility import check_requests
from kdwatts.planning.load_estimates import estimate_load
from kdwatts.planning.serving_roofline import Device, Tokens
from kdwatts.planning.serving_words import estimate_lines

Configure = Callable[..., Any]
LLAMA = ("model=llama31_8b_to_1b", "gpu=h100")
URL = (
    "eval.serving.engine=url",
    *(
        f"eval.serving.url.{subject}=http://127.0.0.1:1/{subject}"
        for subject in ("student", "teacher")
    ),
)
TRANSFORMERS = ("gpu=cpu", "eval=tiny", "eval.serving.engine=transformers")


def test_student_and_teacher_stand_beside_each_other_for_each_load(configure: Configure):
    config = configure(*LLAMA, *URL, "eval.serving.concurrency=[1,16]")
    title, headings, *rows = estimate_lines(config)
    assert title == (
        "serving under load with gpu=h100, estimated by its roofline "
        "(512 tokens read and 128 written a request):"
    )
    assert headings.split("  ")[1:2] == ["load"]
    assert [row.split()[:4] for row in rows[:4]] == [
        [level, "at", "once", subject]
        for level in ("1", "16")
        for subject in ("student", "teacher")
    ]
    # Columns are aligned: each range begins where its heading does.
    for heading in ("tokens/s", "TPOT, ms", "J/output token"):
        start = headings.index(heading)
        assert all(row[start - 1] == " " and row[start] != " " for row in rows[:4])
    found = estimate_load(
        served_models(config)[1],
        Tokens(512, 128),
        Device(3.35e12, 989.4e12, 700),
        limits_of(config),
        level=1,
        is_closed=True,
    )
    low, high = found.output_tokens_per_s.low, found.output_tokens_per_s.high
    assert f"{low:.3g} to {high:,.0f}" in rows[1]
    assert "the GPU draws 20 to 43 % where memory bounds a step" in "\n".join(rows)


def test_a_plan_has_the_estimate_where_a_load_or_an_engine_is_given(configure: Configure):
    assert estimate_lines(configure(*LLAMA)) == []
    assert estimate_lines(configure(*LLAMA, *URL))
    # Without an engine, and so without one installed here.
    assert estimate_lines(configure(*LLAMA, "eval.serving.concurrency=[4]"))
    word = "eval.serving.rates_per_s=[2]"
    (planned,) = preflight([word, "until=plan", "gpu=h100"], multirun=False)
    assert estimate_lines(planned)
    with pytest.raises(ValueError, match=r"engine=transformers, vllm or url, and by until=plan"):
        preflight([word, "gpu=cpu"], multirun=False)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["gpu=cpu", "eval.serving.concurrency=[4]"],
            "gpu=cpu does not state gpu.memory_bandwidth_gb_s and gpu.fp32_dense_tflops; set them, "
            "or name another GPU",
        ),
        (
            ["vllm.flags=['--tensor-parallel-size=2']"],
            "--tensor-parallel-size=2 takes several GPUs, and the estimate is of one",
        ),
        (
            ["vllm.flags=['--speculative-config={}']"],
            "its engine guesses tokens ahead, and how many are right is not known before",
        ),
        (
            ["vllm.flags=['--quantization=awq']"],
            "the bytes of a weight with --quantization=awq are not known",
        ),
    ],
    ids=["no figures", "several GPUs", "drafts", "unknown bits"],
)
def test_what_is_not_estimated_says_why_in_a_sentence(
    overrides: list[str], words: str, configure: Configure
):
    if overrides[0].startswith("vllm"):
        overrides = [*LLAMA, "eval.serving.engine=vllm", f"eval.serving.{overrides[0]}"]
    assert estimate_lines(configure(*overrides)) == [
        f"serving under load is not estimated: {words}"
    ]


def test_figures_of_a_processor_may_be_given(configure: Configure):
    figures = ("gpu=cpu", "gpu.memory_bandwidth_gb_s=15", "gpu.fp32_dense_tflops=0.17")
    lines = estimate_lines(configure(*figures, "eval.serving.concurrency=[1]"))
    assert lines[2].endswith("  -")  # No rated power, no joules.


@pytest.mark.parametrize(
    ("overrides", "most"),
    [
        (["gpu=h100"], 1024),
        (["gpu=a100_80"], 256),
        (["gpu=l40s"], 256),
        (["gpu=cpu"], 128),
        (["gpu=h100", "eval.serving.vllm.flags=['--max-num-seqs=32']"], 32),
    ],
)
def test_vllm_takes_as_many_at_once_as_its_flag_or_the_gpu_says(
    overrides: list[str], most: int, configure: Configure
):
    asked = ("model=llama31_8b_to_1b", "eval.serving.engine=vllm")
    assert limits_of(configure(*asked, *overrides)).engine_most == most


def test_transformers_takes_one_at_a_time_unless_it_batches(configure: Configure):
    assert limits_of(configure(*TRANSFORMERS)).engine_most == 1
    flags = "eval.serving.transformers.flags=[--continuous-batching]"
    assert limits_of(configure(*TRANSFORMERS, flags)).engine_most == 1024


def test_a_quantised_teacher_is_estimated_with_its_bits_and_its_student_without(
    configure: Configure,
):
    asked = ("model=llama31_8b_to_1b", "gpu=h100", "eval.serving.engine=vllm")
    student, teacher = served_models(configure(*asked, "model.teacher.quantization=int4"))
    assert (student.quantization, teacher.quantization) == (None, "int4")
    assert teacher.weights_bytes < 0.35 * served_models(configure(*asked))[1].weights_bytes
    flag = "eval.serving.vllm.flags=['--quantization=fp8']"
    assert [one.quantization for one in served_models(configure(*asked, flag))] == ["fp8", "fp8"]


def test_models_in_few_bits_stand_beside_those_that_are_not_rounded(configure: Configure):
    asked = (*LLAMA, "eval.serving.engine=vllm", "eval.serving.quantizations=[fp8,int4]")
    models = [(one.subject, one.quantization) for one in served_models(configure(*asked))]
    assert models == [
        ("student", None),
        ("teacher", None),
        *((f"{subject} in fp8", "fp8") for subject in ("student", "teacher")),
        *((f"{subject} in int4", "int4") for subject in ("student", "teacher")),
    ]
    (ends,) = [one for one in estimate_lines(configure(*asked)) if "the two ends" in one]
    assert "products at 33 to 80 % (for int8 and fp8 the greater is of the peak in 8 bits)" in ends


def test_a_model_without_room_says_so_and_has_no_row(configure: Configure):
    lines = estimate_lines(configure("gpu=h100", "model=llama31_70b_to_8b", *URL))
    assert "  teacher: no room for one request beside its weights" in lines
    assert not any(" at once  teacher" in line for line in lines)


def test_a_plan_refuses_lengths_that_no_lognormal_has(configure: Configure):
    p95 = "eval.serving.workload.output_tokens_p95=200"
    with pytest.raises(ValueError, match=r"output_tokens_p95=200 is more than a lognormal .* 123$"):
        check_requests(configure(*TRANSFORMERS, p95))
    check_requests(configure("gpu=cpu", "eval=tiny", p95))  # No request is sent.


def test_a_plan_refuses_prompts_that_a_run_could_not_read(configure: Configure, tmp_path: Path):
    path = tmp_path / "service.jsonl"
    config = configure(*TRANSFORMERS, f"eval.serving.workload.prompts={path}")
    hub = configure(*LLAMA, *URL, f"eval.serving.workload.prompts={path}")
    for one in (config, hub):
        path.write_text('{"prompt": "x"}\n')
        with pytest.raises(ValueError, match=r"^eval\.serving\.workload\.prompts=.* a line is not"):
            check_requests(one)
    path.write_text(json.dumps({"text": "Too short."}) + "\n")
    with pytest.raises(ValueError, match=r"a prompt of 64 tokens is longer than the text"):
        check_requests(config)
    check_requests(hub)  # Its tokenizer is on a hub, which a plan asks for nothing.
    path.write_text(json.dumps({"text": "Long enough. " * 200}) + "\n")
    check_requests(config)


def test_the_command_prints_the_plan_before_it_refuses_the_lengths(
    kdwatts: Callable[..., int | str | None], capsys: pytest.CaptureFixture[str]
):
    p95 = "eval.serving.workload.prompt_tokens_p95=9999"
    assert kdwatts("until=plan", *TRANSFORMERS, p95) == 2
    printed = capsys.readouterr()
    assert "serving under load: student and teacher behind transformers" in printed.out
    assert printed.err.startswith("kdwatts: eval.serving.workload.prompt_tokens_p95=9999 is more")


def test_a_replay_is_estimated_at_the_log_s_rate_and_mean_lengths(
    configure: Configure, tmp_path: Path
):
    path = tmp_path / "log.jsonl"
    rows = [
        {"t_s": 0.5 * n, "prompt_tokens": 100 + 200 * (n % 2), "output_tokens": 50}
        for n in range(21)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    replay = (f"eval.serving.replay.log={path}", "eval.serving.replay.speeds=[1,2]")
    lines = estimate_lines(configure(*LLAMA, *URL, *replay))
    assert "(195 tokens read and 50 written a request)" in lines[0]
    assert [line.split()[:3] for line in lines[2:6]] == [
        [level, "requests/s", subject] for level in "24" for subject in ("student", "teacher")
    ]
