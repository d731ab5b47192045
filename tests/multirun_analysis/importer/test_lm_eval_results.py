import json
from pathlib import Path

import pytest

from kdwatts.records.files import read_json
from multirun_analysis.importer.foreign import Source, load
from multirun_analysis.importer.lm_eval_results import (
    differences,
    om_perf_and_kept,
    read_evaluation,
)


def evaluation(content, subject="student"):
    source = Source(Path("eval.json"), json.dumps(content).encode())
    return read_evaluation(source, subject=subject)


def real(foreign, run, **changes):
    source = load(foreign.h100_dir / run, "eval.json")
    subject = "teacher" if run == "teacher" else "student"
    return evaluation(json.loads(source.data) | changes, subject)


def test_the_92_real_results_are_four_benchmarks(foreign):
    found = real(foreign, "relation_1")
    assert [(s.task, s.metric, s.num_fewshot, s.num_samples) for s in found.scores] == [
        ("mmlu", "acc", 0, 14042),
        ("arc_challenge", "acc_norm", 0, 1172),
        ("hellaswag", "acc_norm", 0, 10042),
        ("bbh", "exact_match,get-answer", 3, 6511),
    ]
    assert found.left_out == []
    values = [score.value for score in found.scores]
    assert values == pytest.approx([0.646988, 0.529010, 0.743477, 0.656735], abs=1e-6)
    assert found.scores[1].stderr == pytest.approx(0.014587, abs=1e-6)
    assert {score.harness_version for score in found.scores} == {"0.4.9.1"}
    assert (found.model, found.params) == ("meta-llama/Llama-3.1-8B-Instruct", 8_072_204_288)


def test_a_group_counts_once_with_the_samples_of_its_tasks(foreign):
    found = evaluation(foreign.results())
    (score,) = found.scores
    assert (score.task, score.value, score.stderr) == ("mmlu", 0.6, 0.02)
    assert (score.num_fewshot, score.num_samples) == (5, 150)
    assert found.left_out == ["piqa"]


def test_an_uncomputed_standard_error_is_missing(foreign):
    content = foreign.results()
    content["results"]["mmlu"]["acc_stderr,none"] = "N/A"
    assert evaluation(content).scores[0].stderr is None


@pytest.mark.parametrize("run", ["feature_1", "relation_1", "response_1"])
def test_real_students_and_their_teacher_were_not_asked_alike(foreign, run):
    plain, kept, reason = om_perf_and_kept(real(foreign, run), real(foreign, "teacher"))
    assert (plain.ratio, plain.corrected, kept.value) == (None, None, None)
    assert reason == (
        "student and teacher were evaluated differently: fewshot_as_multiturn is true for the "
        "student and false for the teacher"
    )


def test_asked_alike_each_benchmark_weighs_the_same(foreign):
    student = real(foreign, "relation_1", fewshot_as_multiturn=False)
    plain, kept, reason = om_perf_and_kept(student, real(foreign, "teacher"))
    # MMLU, ARC, HellaSwag and BBH, rounded to six places by hand.
    ratios = [0.646988 / 0.806011, 0.529010 / 0.633959, 0.743477 / 0.788190, 0.656735 / 0.358317]
    assert plain.ratio == pytest.approx(sum(ratios) / 4, abs=1e-5)
    corrected = [0.396988 / 0.556011, 0.279010 / 0.383959, 0.493477 / 0.538190, ratios[3]]
    assert kept.value == plain.corrected == pytest.approx(sum(corrected) / 4, abs=1e-5)
    assert kept.low < kept.value < kept.high
    assert reason is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chat_template": "x" * 99}, "chat_template is a text of 101 characters for the student"),
        ({"system_instruction": "be brief"}, 'system_instruction is "be brief" for the student'),
        ({"lm_eval_version": "0.4.8"}, 'lm_eval_version is "0.4.8" for the student and "0.4.9.1"'),
        ({"config": {"limit": 10}}, "limit is 10 for the student and null for the teacher"),
        ({"configs": {}}, "doc_to_text differs in 3 tasks, such as mmlu_anatomy"),
        ({"versions": {"mmlu_virology": 2}}, "versions differs in 1 tasks, such as mmlu_virology"),
    ],
)
def test_every_difference_in_harness_prompt_or_sample_is_named(foreign, changes, words):
    student = evaluation(foreign.results(**changes))
    (found,) = differences(student, evaluation(foreign.results(), "teacher"))
    assert words in found


def test_fewer_samples_than_the_teacher_had_are_a_difference(foreign):
    content = foreign.results()
    content["n-samples"]["mmlu_virology"]["effective"] = 10
    (found,) = differences(evaluation(content), evaluation(foreign.results()))
    assert found == "n-samples differs in 1 tasks, such as mmlu_virology"


def test_names_of_models_are_no_difference(foreign):
    content = foreign.results(model="another", date=5)
    content["configs"]["mmlu_virology"]["metadata"] = {"pretrained": "another"}
    assert differences(evaluation(content), evaluation(foreign.results())) == []


def test_a_missing_or_foreign_partner_gives_no_ratio_but_a_reason(foreign):
    student = evaluation(foreign.results())
    assert om_perf_and_kept(None, student)[2] == "there is no eval.json of the student"
    assert om_perf_and_kept(student, None)[2] == "there is no eval.json of the teacher"
    other = foreign.results()
    del other["results"]["mmlu"]
    plain, kept, reason = om_perf_and_kept(student, evaluation(other))
    assert plain.ratio is kept.value is None and "share no benchmark" in reason
    zero = evaluation(foreign.results(value=0.0))
    assert om_perf_and_kept(student, zero)[2] == "the teacher scores 0 on a benchmark"


def changed(foreign, *path, value=None):
    content = foreign.results()
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("results",), {}, r"eval\.json: has no results of lm-evaluation-harness"),
        (("results",), [1], r"eval\.json: results: holds list"),
        (("results", "mmlu"), {"acc,other": 1}, r"results\.mmlu: has no acc,none, .*only acc,o"),
        (("results", "mmlu", "acc,none"), "high", r"acc,none is 'high', expected a number"),
        (("group_subtasks", "mmlu"), 3, r"group_subtasks\.mmlu is no list of tasks"),
        (("group_subtasks", "mmlu"), ["mmlu"], r"group mmlu holds itself"),
        (("n-shot", "mmlu_virology"), 0, r"the tasks of mmlu should have one n-shot"),
        (("n-samples", "mmlu_virology"), {}, r"n-samples\.mmlu_virology: effective is None"),
    ],
)
def test_results_that_lack_what_a_score_needs_are_refused(foreign, path, value, message):
    with pytest.raises(ValueError, match=message):
        evaluation(changed(foreign, *path, value=value))


def test_scores_of_student_and_teacher_stay_though_no_ratio_may_be_formed(imported_dir):
    scores = read_json(imported_dir / "feature_1" / "eval.json")
    assert [(s["subject"], s["task"]) for s in scores] == [
        (subject, task)
        for subject in ("student", "teacher")
        for task in ("mmlu", "arc_challenge", "hellaswag", "bbh")
    ]
    metrics = read_json(imported_dir / "feature_1" / "metrics.json")
    assert metrics["om_perf"] is metrics["om_perf_corrected"] is metrics["eff_overall"] is None
