"""The stage behind an engine: what keys its measurements, what it refuses, where it stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2MoeConfig

from kdwatts.config.checks import check
from kdwatts.config.serving import Serving
from kdwatts.planning.serving_time import load_lines
from kdwatts.records.serving_record import (
    Capacity,
    EngineRecord,
    Figure,
    Percentiles,
    ServingPoint,
    ServingRecord,
)
from kdwatts.stages import evaluate, serving, writers
from kdwatts.stages.engine_measurements import EngineServed, engine_columns
from kdwatts.stages.graph import PlannedStage, plan
from kdwatts.stages.serving_log import check_unchanged
from kdwatts.stages.started_engine import own_flags

Configure = Callable[..., Any]

TRANSFORMERS = ("gpu=cpu", "eval=tiny", "eval.serving.engine=transformers")
WIDE = ("gpu=cpu", "eval=tiny", "model=qwen25_7b_to_0b5", "training.precision=bf16")
"""A pair whose heads are 64 wide."""
VLLM = (*WIDE, "eval.serving.engine=vllm")
URL = (
    *("gpu=cpu", "eval=tiny", "eval.serving.engine=url"),
    *("eval.serving.url.student=http://a:8000", "eval.serving.url.teacher=http://b:8000"),
)


@pytest.fixture(autouse=True)
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Engine to its version, so that no engine has to be installed."""
    known = {"transformers": "5.23.0", "vllm": "0.32.0", "url": "0.1"}

    def key(asked: Serving, _: Any) -> dict[str, Any]:
        name = asked.engine
        return {"name": name, "version": known[name], "flags": own_flags(asked)}

    monkeypatch.setattr(serving, "engine_key", key)
    return known


@pytest.fixture
def planned_of(configure: Configure) -> Callable[..., PlannedStage]:
    def planned_of(*overrides: str, subject: str = "student") -> PlannedStage:
        stages = plan(configure(*overrides), [])
        return next(planned for planned in stages if planned.name == f"serving_{subject}")

    return planned_of


@pytest.mark.parametrize(
    "overrides",
    [
        ["paradigm=response"],
        ["training.seed=7"],
        ["training.target_tokens=65536"],
        ["data.fraction=0.5"],
        ["eval.inference.batch_sizes=[3]"],
        ["eval.serving.measurements=9"],
        ["eval.serving.point=4"],
        ["eval.serving.request_timeout_s=7"],
        ["eval.serving.start_timeout_s=7"],
        ["eval.serving.concurrency=[16,1,4]"],
        ["eval.serving.arrivals=constant"],
        ["eval.serving.vllm.flags=[--enforce-eager]"],
        ["model.teacher=null"],
    ],
    ids=" ".join,
)
def test_what_does_not_change_the_work_of_the_server_is_not_in_the_key(
    overrides: list[str], planned_of: Callable[..., PlannedStage]
):
    asked = (*TRANSFORMERS, "paradigm=sft")
    assert planned_of(*asked, *overrides).key == planned_of(*asked).key


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.student.architecture.intermediate_size=96"],
        ["training.precision=bf16"],
        ["eval.serving.transformers.flags=[--continuous-batching]"],
        ["eval.serving.concurrency=[1,4]"],
        ["eval.serving.rates_per_s=[1,4,16]"],
        ["eval.serving.workload.output_tokens=16"],
        ["eval.serving.workload.prompt_tokens_p95=90"],
        ["eval.serving.workload.length=natural"],
        ["eval.serving.workload.prompts=null"],
        ["eval.serving.slo.ttft_p99_s=1"],
        ["eval.serving.min_window_s=12"],
        ["eval.serving.max_window_s=70"],
        ["eval.serving.parking_s=6"],
        ["eval.serving.parking_settle_s=6"],
    ],
    ids=" ".join,
)
def test_what_changes_what_the_server_does_or_how_it_is_measured_changes_the_key(
    overrides: list[str], planned_of: Callable[..., PlannedStage]
):
    asked = (*TRANSFORMERS, "paradigm=sft")
    assert planned_of(*asked, *overrides).key != planned_of(*asked).key


def test_flags_that_kdwatts_itself_sets_are_in_the_key(
    planned_of: Callable[..., PlannedStage], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.undo()  # The real engine's.
    engine = planned_of(*TRANSFORMERS, "eval.serving.transformers.flags=[--compile]").settings[
        "engine"
    ]
    assert {"--device=cpu", "--dtype=float32", "--compile"} <= set(engine["flags"])
    assert engine["version"] == version("transformers")
    assert not any("student" in flag for flag in engine["flags"])


def test_arrivals_count_where_requests_come_at_a_rate(planned_of: Callable[..., PlannedStage]):
    asked = (*TRANSFORMERS, "eval.serving.rates_per_s=[1,2]")
    keys = [
        planned_of(*asked, *more).key
        for more in (
            [],
            ["eval.serving.arrivals=constant"],
            ["eval.serving.arrivals=gamma"],
            ["eval.serving.arrivals=gamma", "eval.serving.burstiness=0.5"],
        )
    ]
    assert len(set(keys)) == 4


def test_another_version_of_the_engine_is_another_key_and_another_place_of_it_is_not(
    planned_of: Callable[..., PlannedStage], versions: dict[str, str], tmp_path: Path
):
    first = planned_of(*VLLM).key
    assert planned_of(*VLLM, f"eval.serving.vllm.python={tmp_path}/python").key == first
    versions["vllm"] = "0.33.0"
    assert planned_of(*VLLM).key != first


def test_the_bytes_of_the_file_of_prompts_are_in_the_key_and_its_place_is_not(
    planned_of: Callable[..., PlannedStage], tmp_path: Path
):
    keys = []
    for name, text in (("a.txt", "To be. " * 99), ("b.txt", "To be. " * 99), ("a.txt", "To do.")):
        (tmp_path / name).write_text(text)
        asked = f"eval.serving.workload.prompts={tmp_path / name}"
        keys.append(planned_of(*TRANSFORMERS, asked).key)
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    "overrides",
    [
        [*TRANSFORMERS, "eval.serving.workload.length=natural"],
        [*VLLM, 'eval.serving.vllm.flags=["--speculative-config={method:ngram}"]'],
    ],
    ids=["natural lengths", "guessed tokens"],
)
def test_weights_are_in_the_key_of_a_student_whose_work_they_decide(
    overrides: list[str], planned_of: Callable[..., PlannedStage]
):
    one, other = (planned_of(*overrides, "training=smoke", f"training.seed={n}") for n in (0, 1))
    assert one.key != other.key
    assert list(one.parents) == ["distill"]


def test_weights_are_in_the_key_of_a_mixture_of_experts(
    planned_of: Callable[..., PlannedStage], monkeypatch: pytest.MonkeyPatch
):
    mixture = Qwen2MoeConfig(num_hidden_layers=2, hidden_size=16, vocab_size=32, num_experts=4)
    monkeypatch.setattr(serving, "student_configuration", lambda source: mixture)
    one, other = (planned_of(*TRANSFORMERS, f"training.seed={n}") for n in (0, 1))
    assert one.key != other.key


def test_a_forced_student_is_built_from_its_weights_all_the_same(
    planned_of: Callable[..., PlannedStage],
):
    planned = planned_of(*TRANSFORMERS)
    assert (list(planned.parents), list(planned.reads)) == ([], ["distill"])
    corpus = planned_of(*TRANSFORMERS, "eval.serving.workload.prompts=null")
    assert (list(corpus.parents), list(corpus.reads)) == (["shards"], ["distill"])


def test_servers_at_two_addresses_share_no_measurement(planned_of: Callable[..., PlannedStage]):
    elsewhere = "eval.serving.url.student=http://c:8000"
    assert planned_of(*URL, elsewhere).key != planned_of(*URL).key
    assert (
        planned_of(*URL, elsewhere, subject="teacher").key
        == planned_of(*URL, subject="teacher").key
    )


def test_a_server_whose_own_host_is_metered_shares_no_measurement_with_one_without_joules(
    planned_of: Callable[..., PlannedStage],
):
    metered = planned_of(*URL, "eval.serving.url.student_meter=http://a:9400")
    assert metered.key != planned_of(*URL).key
    assert metered.settings["engine"]["meter"] == "http://a:9400"
    assert "meter" not in planned_of(*URL).settings["engine"]


def test_a_server_on_some_gpus_of_a_job_shares_no_joules_with_one_whose_job_counted_them_all(
    configure: Configure,
):
    two = ("gpu=h100", "eval=tiny", "model=qwen25_7b_to_0b5", "eval.serving.engine=vllm")
    config = configure(*two, "eval.serving.vllm.flags=['-tp=2']")
    for number, counted in ((1, {}), (2, {}), (4, {"gpus_of_server": 2})):
        found = serving.settings(config, "student", num_gpus=number)
        assert {k: v for k, v in found.items() if k == "gpus_of_server"} == counted


def test_a_server_on_more_gpus_than_the_job_has_is_refused_before_training(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(serving, "list_gpus", lambda: [None])
    monkeypatch.setattr(serving.starting, "check", lambda settings: None)
    asked = ("gpu=h100", "eval=tiny", "model=qwen25_7b_to_0b5", "eval.serving.engine=vllm")
    config = configure(*asked, "eval.serving.vllm.flags=['-tp=2']")
    with pytest.raises(ValueError, match="a server on 2 GPUs, and this job has 1; give the job"):
        serving.check(config)


def test_an_engine_that_writes_answers_on_more_gpus_than_the_job_has_is_refused_before_training(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(writers, "list_gpus", lambda: [None])
    config = configure(
        *("gpu=h100", "eval=tiny", "model=qwen25_7b_to_0b5", "eval.engine=vllm"),
        "eval.serving.vllm.flags=['-tp=2']",
    )
    with pytest.raises(ValueError, match="a server on 2 GPUs, and this job has 1; give the job"):
        evaluate.check(config)


def test_each_measurement_has_a_key_of_its_own_and_the_first_one_that_of_the_node(
    planned_of: Callable[..., PlannedStage],
):
    planned = planned_of(*TRANSFORMERS)
    first, second, third = planned.numbered()
    assert first.key == planned.key and len({first.key, second.key, third.key}) == 3
    assert [one.settings.get("measurement", 1) for one in (first, second, third)] == [1, 2, 3]


def test_serving_is_the_last_stage_and_is_left_out_where_it_is_not_asked_for(
    configure: Configure,
):
    names = [planned.name for planned in plan(configure(*TRANSFORMERS), [])]
    assert names[-4:] == [f"{s}_{m}" for s in ("inference", "serving") for m in
                          ("student", "teacher")]  # fmt: skip
    for less in (["eval.serving.engine=loop"], ["until=inference"]):
        shorter = [planned.name for planned in plan(configure(*TRANSFORMERS, *less), [])]
        assert shorter == names[:-2]
    alone = [planned.name for planned in plan(configure(*TRANSFORMERS, "eval.inference=null"), [])]
    assert [name for name in alone if name.startswith("inference")] == []
    assert alone[-2:] == ["serving_student", "serving_teacher"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            [*TRANSFORMERS, "eval.serving.workload.prompt_tokens=97"],
            r"eval\.serving\.workload: 97 prompt \+ 32 output tokens exceed the student's context "
            r"of 128; shorten one of them",
        ),
        (
            ["gpu=cpu", "eval=tiny", "eval.serving.engine=vllm"],
            r"eval\.serving\.engine=vllm needs heads at least 32 wide, and the student of "
            r"model=tiny has heads \d+ wide; choose engine=transformers or another pair",
        ),
        (
            [
                "gpu=cpu",
                "eval=tiny",
                "eval.serving.engine=url",
                "eval.serving.url.student=http://a",
            ],
            r"eval\.serving\.engine=url needs the address of the teacher's server, and "
            r"eval\.serving\.url\.teacher is null; give one such as http://127\.0\.0\.1:8000",
        ),
        (
            [*URL, "eval.serving.url.teacher=http://a:8000"],
            r"eval\.serving\.url has the address http://a:8000 for student and teacher, and no two "
            r"names, so one model would be measured as both; give each an address, or set "
            r"student_model and teacher_model",
        ),
        (
            [
                *("gpu=h100", "eval=tiny", "model=qwen25_7b_to_0b5", "eval.serving.engine=vllm"),
                "model.teacher.quantization=int8",
            ],
            r"model\.teacher\.quantization=int8 with eval\.serving\.engine=vllm is not supported: "
            r"vLLM quantises to 8 bits only what was saved so; set int4 or null, .*",
        ),
    ],
    ids=["context", "narrow heads", "no address", "one model", "int8"],
)
def test_what_an_engine_cannot_serve_is_refused_in_a_sentence(
    overrides: list[str], words: str, configure: Configure
):
    with pytest.raises(ValueError, match=f"^{words}$"):
        configure(*overrides)
    configure(*overrides, "until=inference")


def test_one_address_may_have_two_models(configure: Configure):
    names = ("eval.serving.url.student_model=small", "eval.serving.url.teacher_model=big")
    configure(*URL, "eval.serving.url.teacher=http://a:8000", *names)


def test_a_launch_of_several_ranks_is_refused_with_what_measures_its_student(configure: Configure):
    config = configure(*TRANSFORMERS, "training.accumulation=2")
    check(config, ranks=1)
    with pytest.raises(
        ValueError,
        match=r"one process, and this launch has 2 ranks; .* `python -m kdwatts\.serving`",
    ):
        check(config, ranks=2)


def test_a_text_that_is_too_short_is_refused_before_training(configure: Configure, tmp_path: Path):
    path = tmp_path / "service.jsonl"
    config = configure(*TRANSFORMERS, f"eval.serving.workload.prompts={path}")
    path.write_text(json.dumps({"text": "Too short."}) + "\n")
    with pytest.raises(ValueError, match=r"a prompt of 64 tokens is longer than the text"):
        serving.check_requests(config)
    path.write_text('{"prompt": "x"}\n')
    with pytest.raises(ValueError, match=r"^eval\.serving\.workload\.prompts=.* a line is not"):
        serving.check_requests(config)
    path.write_text(json.dumps({"text": "Long enough. " * 200}) + "\n")
    serving.check_requests(config)


def test_lengths_that_no_lognormal_has_are_refused_before_training(configure: Configure):
    asked = ("eval.serving.workload.prompts=null", "eval.serving.workload.output_tokens_p95=200")
    with pytest.raises(ValueError, match=r"output_tokens_p95=200 is more than a lognormal .* 123$"):
        serving.check_requests(configure(*TRANSFORMERS, *asked))


@pytest.mark.parametrize(
    ("engine", "bits", "flag"),
    [
        ("transformers", "int8", "--quantization=bnb-8bit"),
        ("transformers", "int4", "--quantization=bnb-4bit"),
        ("vllm", "int4", "--quantization=bitsandbytes"),
    ],
)
def test_a_quantised_teacher_is_served_so_and_its_student_is_not(
    engine: str, bits: str, flag: str, configure: Configure
):
    asked = ("gpu=h100", "eval=tiny", "model=qwen25_7b_to_0b5", f"eval.serving.engine={engine}")
    config = configure(*asked, f"model.teacher.quantization={bits}")
    teacher, student = (serving._engine(config, subject) for subject in ("teacher", "student"))
    assert (teacher["flags"], student["flags"]) == ([flag], [])
    own = configure(
        *(*asked, f"model.teacher.quantization={bits}"),
        f"eval.serving.{engine}.flags=['--quantization=fp8']",
    )
    assert serving._engine(own, "teacher")["flags"] == ["--quantization=fp8"]


def test_the_plan_says_the_engine_the_loads_and_the_least_and_most_minutes(configure: Configure):
    """Of each model 3 loads of 10 to 60 s, and 8 s of parking."""
    config = configure(*TRANSFORMERS)
    stages = plan(config, [])
    assert load_lines(config, stages) == [
        "serving under load: student and teacher behind transformers 5.23.0, 1, 4, 16 requests at "
        "once",
        "  1.3 to 6.3 min, with the start of each server on top",
    ]
    assert load_lines(config, stages[:-1])[0].startswith("serving under load: student behind")
    assert load_lines(config, stages[:-2]) == []
    asked = ("eval.serving.rates_per_s=[0.5,2]", "eval.serving.slo.ttft_p99_s=1")
    config = configure(*TRANSFORMERS, *asked)
    first, second = load_lines(config, plan(config, []))
    assert first.endswith("0.5, 2 requests/s (poisson)")
    assert second.endswith("start of each server and the search for the greatest rate on top")


def record(j_per_output_token: float, level: float = 16.0, **more: Any) -> dict[str, Any]:
    """serving.json of one measurement, whose other figures are twice, three times so much."""
    point = ServingPoint(
        "closed",
        level,
        "steady",
        completed=9,
        energy_quality="measured",
        j_per_output_token=Figure(j_per_output_token, quality="measured"),
        j_per_request=Figure(2 * j_per_output_token, quality="measured"),
        power_w=Figure(3 * j_per_output_token, quality="measured"),
        ttft_s=Percentiles(p99=Figure(0.5)),
        requests_per_s=Figure(4.0),
    )
    engine = EngineRecord("transformers", "5.23.0", [], "float32", None)
    found = ServingRecord("student", engine, {}, {}, [point], **more)
    return asdict(found)


def test_metrics_state_the_reported_load_of_every_measurement(configure: Configure):
    asked = configure(*TRANSFORMERS).eval.serving
    capacity = Capacity(6.0, 8.0, "found")
    parking = Figure(50.0, quality="measured")
    served = EngineServed(
        "k", [record(j, capacity=capacity, parking_power_w=parking) for j in (1.0, 2.0)]
    )
    columns = engine_columns({"student": served}, asked, has_loop=True)
    assert columns["serving_engine"] == "transformers"
    assert columns["serving_engine_version"] == "5.23.0"
    assert (columns["serving_load"], columns["serving_level"]) == ("closed", 16.0)
    assert columns["student_engine_j_per_output_token"] == 1.5
    # Two measurements 1 and 2: t[0.975, 1] = 12.706 times 0.7071 / sqrt 2.
    assert columns["student_engine_j_per_output_token_high"] == pytest.approx(1.5 + 6.353, rel=1e-3)
    assert columns["student_engine_j_per_request"] == 3.0
    assert columns["student_engine_j_per_good_request"] is None
    assert columns["student_engine_power_w"] == 4.5
    assert columns["student_engine_parking_power_w"] == 50.0
    assert columns["student_engine_ttft_p99_s"] == 0.5
    assert columns["student_engine_tpot_p99_s"] is None
    assert columns["student_engine_capacity_per_s"] == 6.0
    assert columns["student_engine_measurements"] == 2
    assert columns["student_engine_verdict"] == "steady"


def test_the_capacity_is_the_least_and_the_idle_power_of_sensors_alone(configure: Configure):
    """At 5.0, the mean of 4 and 6, the first server did not keep the SLO."""
    asked = configure(*TRANSFORMERS).eval.serving
    parking = Figure(0.004, quality="estimated")
    found = [Capacity(4.0, 4.5, "found"), Capacity(6.0, 8.0, "found")]
    records = [record(1.0, capacity=one, parking_power_w=parking) for one in found]
    columns = engine_columns({"student": EngineServed("k", records)}, asked, has_loop=True)
    assert columns["student_engine_capacity_per_s"] == 4.0
    assert columns["student_engine_parking_power_w"] is None


def test_a_load_that_no_measurement_has_yet_is_0_measurements_and_no_figure(configure: Configure):
    asked = configure(*TRANSFORMERS).eval.serving
    columns = engine_columns({"student": EngineServed("k", [])}, asked, has_loop=True)
    assert columns["student_engine_measurements"] == 0
    assert "student_engine_j_per_token" not in columns
    assert columns["serving_engine"] == "transformers"


def test_where_no_engine_is_asked_the_loop_is_named_if_it_was_measured(configure: Configure):
    asked = configure("gpu=cpu", "eval=tiny").eval.serving
    assert engine_columns({}, asked, has_loop=True) == {"serving_engine": "loop"}
    assert engine_columns({}, asked, has_loop=False) == {"serving_engine": None}


ROWS = [
    {"t_s": 10.0, "prompt_tokens": 8, "output_tokens": 4},
    {"t_s": 40.0, "prompt_tokens": 8, "output_tokens": 4},
    {"t_s": 90.0, "prompt_tokens": 8, "output_tokens": 4},
]


def a_log(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"eval.serving.replay.log={path}"


def test_the_key_of_a_replay_has_the_logs_content_and_never_its_place(
    planned_of: Callable[..., PlannedStage], tmp_path: Path
):
    asked = (*TRANSFORMERS, "paradigm=sft")
    log, moved = a_log(tmp_path / "a.jsonl", *ROWS), a_log(tmp_path / "b.jsonl", *ROWS)
    planned = planned_of(*asked, log)
    assert planned.key == planned_of(*asked, moved).key
    assert planned.key == planned_of(*asked, log, "eval.serving.replay.format=kdwatts").key
    assert str(tmp_path) not in json.dumps(planned.settings)
    others = [
        a_log(tmp_path / "c.jsonl", *ROWS[:2]),
        *(f"eval.serving.replay.{word}" for word in ("from_s=10", "for_s=50", "sessions=apart")),
        "eval.serving.replay.speeds=[2]",
        "eval.serving.rates_per_s=[2]",
    ]
    keys = {planned_of(*asked, log, other).key for other in others}
    assert len(keys | {planned.key, planned_of(*asked).key}) == len(others) + 2


def test_a_log_that_grows_during_the_run_is_not_kept_as_the_log_that_it_was(
    planned_of: Callable[..., PlannedStage], configure: Configure, tmp_path: Path
):
    asked = (*TRANSFORMERS, a_log(tmp_path / "a.jsonl", *ROWS))
    planned, config = planned_of(*asked), configure(*asked)
    log = serving._replayed(config, "student")
    assert log
    check_unchanged(log, planned.settings)
    a_log(tmp_path / "a.jsonl", *ROWS, ROWS[0])
    grown = serving._replayed(config, "student")
    assert grown
    with pytest.raises(RuntimeError, match=r"changed while this run trained.*; replay a copy"):
        check_unchanged(grown, planned.settings)


def test_a_log_with_natural_lengths_has_the_student_itself_in_the_key(
    configure: Configure, tmp_path: Path
):
    forced = configure(*TRANSFORMERS, a_log(tmp_path / "a.jsonl", *ROWS))
    assert serving.stands_on(forced, "student") == ([], ["distill"])
    natural = a_log(tmp_path / "b.jsonl", *ROWS, {**ROWS[0], "length": "natural"})
    assert serving.stands_on(configure(*TRANSFORMERS, natural), "student") == (["distill"], [])


def test_a_log_that_is_not_there_or_does_not_fit_is_refused_before_training(
    configure: Configure, tmp_path: Path
):
    gone = configure(*TRANSFORMERS, f"eval.serving.replay.log={tmp_path}/gone")
    with pytest.raises(ValueError, match=r"replay.log=.*gone does not exist; give the file"):
        plan(gone, [])
    with pytest.raises(ValueError, match=r"replay.log=.*gone does not exist; give the file"):
        serving.check_requests(gone)
    one = configure(*TRANSFORMERS, a_log(tmp_path / "one.jsonl", ROWS[0]))
    with pytest.raises(ValueError, match=r"holds 1 requests, of one moment or none"):
        serving.check_requests(one)
    row = {"t_s": 95, "messages": [{"role": "user", "content": "x"}]}
    chat = configure(*TRANSFORMERS, a_log(tmp_path / "chat.jsonl", *ROWS, row))
    with pytest.raises(ValueError, match=r"no chat template to render them with"):
        serving.check_requests(chat)
    serving.check_requests(configure(*TRANSFORMERS, a_log(tmp_path / "good.jsonl", *ROWS)))


def test_a_plan_says_how_long_a_replay_takes(configure: Configure, tmp_path: Path):
    log = a_log(tmp_path / "a.jsonl", *ROWS)
    asked = (*TRANSFORMERS, log, "eval.serving.replay.speeds=[1,4]")
    config = configure(*asked, "model.teacher=null", "paradigm=sft")
    first, second = load_lines(config, plan(config, []))
    # 60 s is the most for one load: of the log at speed 1 that is the requests at 0 and 30 s.
    assert first.endswith(
        "a replay of 2 requests in 30 s (speed 1), then 3 requests in 20 s (speed 4)"
    )
    # 50 s of replay, 8 s of the idle server.
    assert second == "  1.0 min, with the start of each server on top"


def test_metrics_state_the_speed_that_is_reported(configure: Configure, tmp_path: Path):
    log = a_log(tmp_path / "a.jsonl", *ROWS)
    asked = configure(*TRANSFORMERS, log, "eval.serving.replay.speeds=[1,4]").eval.serving
    found = record(1.0)
    points = [
        found["points"][0] | {"load": "replay", "level": 0.0375 * speed, "speed": speed}
        for speed in (1.0, 4.0)
    ]
    served = EngineServed("k", [found | {"points": points}])
    columns = engine_columns({"student": served}, asked, has_loop=True)
    assert (columns["serving_load"], columns["serving_level"]) == ("replay", 0.15)
    assert columns["student_engine_measurements"] == 1
