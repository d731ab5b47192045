"""Teacher and student are asked in the same words, on whatever day."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from kdwatts.config.evaluation import EvalTask
from kdwatts.evaluation.chat_prompts import check_same_prompts
from kdwatts.evaluation.lm_eval import evaluate
from kdwatts.evaluation.lm_tasks import TaskSources
from kdwatts.telemetry.meter import Meter

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today: {{ date_string }}"
)
ASKS_THE_CLOCK = "{{ strftime_now('%d %B %Y') }}"
"""As newer templates do, whatever variable they are given."""
NEEDS_2024 = "{% if strftime_now('%Y') != '2024' %}{{ raise_exception('today') }}{% endif %}"
NEEDS_A_DATE = "{% if not date_string is defined %}{{ raise_exception('no date') }}{% endif %}"


def with_template(tokenizer: Any, template: str | None) -> Any:
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def check(student: Any, teacher: Any) -> None:
    check_same_prompts(student, teacher, student_path="S", teacher_path="T", task="gsm8k")


def test_templates_that_print_the_same_are_alike_however_they_are_written(tokenizer: Any):
    spelled = TURNS.replace("m.role", "m['role']")
    check(with_template(tokenizer, TURNS), with_template(tokenizer, spelled))


def test_a_template_with_todays_date_is_like_one_with_a_fixed_date(tokenizer: Any):
    """Llama 3.2's and Llama 3.1's, which differ in this alone."""
    fixed = DATED.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'")
    check(with_template(tokenizer, DATED + TURNS), with_template(tokenizer, fixed + TURNS))
    asking = with_template(tokenizer, ASKS_THE_CLOCK + TURNS)
    check(asking, with_template(tokenizer, "26 July 2024" + TURNS))


def test_a_template_that_draws_by_chance_is_refused(tokenizer: Any):
    chance = with_template(tokenizer, "{{ ['a', 'b'] | random }}" + TURNS)
    with pytest.raises(ValueError, match="chat template uses random numbers"):
        check(chance, chance)


def test_another_template_is_refused_with_the_words_that_differ(tokenizer: Any):
    other = with_template(tokenizer, TURNS.replace("<assistant>", "[INST]"))
    with pytest.raises(
        ValueError,
        match=r"gsm8k would be asked in different words, since .* of S prints .*<assistant>' "
        r"where that of the teacher T prints .*\[INST\]'; set apply_chat_template=false",
    ):
        check(with_template(tokenizer, TURNS), other)


def test_templates_that_differ_only_after_a_system_turn_are_refused(tokenizer: Any):
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}" + TURNS
    with pytest.raises(ValueError, match="refused: none"):
        check(with_template(tokenizer, TURNS), with_template(tokenizer, strict))


def test_a_tokenizer_without_a_template_is_refused_of_either(tokenizer: Any):
    bare, full = with_template(tokenizer, None), with_template(tokenizer, TURNS)
    with pytest.raises(ValueError, match="the tokenizer S has none"):
        check(bare, full)
    with pytest.raises(ValueError, match="the teacher's tokenizer T has none"):
        check(full, bare)
    check(full, None)  # A teacher that was saved without one is asked through the student's.


def test_each_task_is_asked_through_the_template_or_not_at_the_fixed_date(
    tokenizer: Any, meter: Meter, make_llama: Any
):
    model = make_llama(vocab_size=1024, max_position_embeddings=1024)
    tasks = [
        (EvalTask("mmlu_dev", "acc", limit=4), True),
        (EvalTask("tiny:word_order", "acc", limit=4), False),
    ]
    dated = with_template(tokenizer, NEEDS_A_DATE + NEEDS_2024 + TURNS)
    asked, plain = (
        evaluate(
            model,
            dated,
            [(tasks[0][0], templated), tasks[1]],
            subject="student",
            batch_size=4,
            sources=TaskSources(),
            meter=meter,
        )
        for templated in (True, False)
    )
    # "<user>" and "<assistant>" stand before and after each of the four questions.
    turns = len(tokenizer("<user>")["input_ids"]) + len(tokenizer("<assistant>")["input_ids"])
    assert 4 * (turns - 2) <= asked[0].tokens - plain[0].tokens <= 4 * (turns + 2)
    assert asked[1].tokens == plain[1].tokens


def test_a_template_that_the_tokenizer_lacks_is_no_reason_against_a_task_without_one(
    configure: Any, tmp_path: Path
):
    from kdwatts.stages.evaluate import check

    off = ("eval=mmlu_dev", "eval.apply_chat_template=true")
    with pytest.raises(ValueError, match="the tokenizer tiny:tokenizer has none"):
        check(configure(*off))
    check(configure(*off, "eval.tasks.0.apply_chat_template=false"))
