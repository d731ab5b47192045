"""Logs as requests: stretches, lengths, shared beginnings, texts."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdwatts.config.serving import Replay, Workload
from kdwatts.models.load import load_tokenizer
from kdwatts.serving.load.logged_prompts import LoggedPrompts
from kdwatts.serving.load.replayed_log import Part, part_of, replay_words, replayed_log
from kdwatts.serving.load.requests import Request

SECRET = "my grandmother's illness"
IDS = np.arange(300, 1000)
PLAIN = load_tokenizer("tiny:tokenizer")


def a_log(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prompts(
    log: str, tokenizer: Any = PLAIN, *, limit: int | None = None, **settings: Any
) -> LoggedPrompts:
    workload = settings.pop("workload", Workload(output_tokens=9))
    found = replayed_log(Replay(log, **settings), tokenizer)
    return LoggedPrompts(found, workload, IDS, tokenizer, seed=0, max_positions=limit)


def replayed(made: LoggedPrompts, speed: float = 1.0, most_s: float = 1e6) -> list[Request]:
    return list(made.replay(part_of(made.log.times_s, speed, most_s)))


def lengths(t_s: float, prompt: int, output: int = 4, **more: Any) -> dict[str, Any]:
    return {"t_s": t_s, "prompt_tokens": prompt, "output_tokens": output, **more}


def test_requests_are_due_at_their_logged_times_over_the_speed(tmp_path):
    log = a_log(tmp_path, lengths(5, 10), lengths(6, 20), lengths(9, 30))
    found = replayed(prompts(log), speed=4.0)
    assert [one.due_s for one in found] == [0.0, 0.25, 1.0]
    assert [len(one.prompt_ids) for one in found] == [10, 20, 30]
    assert [one.prompt for one in found] == [PLAIN.decode(one.prompt_ids) for one in found]


def test_a_stretch_begins_at_its_first_request_and_ends_before_its_end(tmp_path):
    rows = [lengths(float(t_s), 10 + t_s) for t_s in range(10)]
    found = replayed(prompts(a_log(tmp_path, *rows), from_s=2.5, for_s=3.5))
    assert [(one.due_s, len(one.prompt_ids)) for one in found] == [(0.0, 13), (1.0, 14), (2.0, 15)]


def test_a_replay_is_cut_at_max_window_s_and_its_rate_is_that_of_what_is_replayed():
    times_s = np.array([0.0, 1.0, 2.0, 30.0])
    assert part_of(times_s, 1.0, 2.0) == Part(3, 1.0, 2.0, 30.0)
    assert part_of(times_s, 1.0, 2.0).rate_per_s == 1.0
    assert part_of(times_s, 2.0, 15.0) == Part(4, 2.0, 15.0, 15.0)
    assert part_of(times_s, 2.0, 15.0).rate_per_s == 0.2
    with pytest.raises(ValueError, match=r"max_window_s=2 holds 1 requests of one moment"):
        part_of(times_s, 0.1, 2.0)


def test_blocks_of_one_name_are_the_same_tokens_and_what_follows_is_not(tmp_path):
    log = a_log(
        tmp_path,
        lengths(0, 40, prefix_blocks=[7, 8], block_tokens=16),
        lengths(1, 40, prefix_blocks=[7, 9], block_tokens=16),
        lengths(2, 40, prefix_blocks=[7, 8], block_tokens=16),
        lengths(3, 20, prefix_blocks=[7, 8], block_tokens=16),
    )
    one, other, same, short = (request.prompt_ids for request in replayed(prompts(log)))
    assert [len(ids) for ids in (one, other, same, short)] == [40, 40, 40, 20]
    assert one[:16] == other[:16] == same[:16] == short[:16]
    assert one[16:32] == same[16:32] != other[16:32]
    assert short == one[:20]
    assert len({one[32], other[32], same[32]}) == 3


def test_a_block_is_cut_no_longer_than_its_prompt(tmp_path):
    made = prompts(a_log(tmp_path, *(lengths(t, 4, prefix_blocks=[7]) for t in (0, 1))))
    cut: list[int] = []
    real = np.take
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "take", lambda a, at, **how: cut.append(len(at)) or real(a, at, **how))
        replayed(made)
    assert cut == [4, 4]


def test_turns_of_a_session_begin_as_the_earlier_prompt_where_they_are_ordered(tmp_path):
    log = a_log(
        tmp_path,
        lengths(0, 10, session="a"),
        lengths(1, 10, session="b"),
        lengths(2, 25, session="a"),
        lengths(3, 5, session="a"),
        lengths(4, 8),
    )
    first, other, later, shorter, alone = replayed(prompts(log))
    assert [one.session for one in (first, other, later, shorter, alone)] == [0, 1, 0, 0, None]
    assert later.prompt_ids[:10] == first.prompt_ids
    assert shorter.prompt_ids == first.prompt_ids[:5]
    assert other.prompt_ids[0] != first.prompt_ids[0] != alone.prompt_ids[0]
    apart = replayed(prompts(log, sessions="apart"))
    assert {one.session for one in apart} == {None}
    assert len({one.prompt_ids[0] for one in apart}) == 5


def test_a_second_replay_finds_nothing_of_its_own_in_a_cache(tmp_path):
    log = a_log(tmp_path, *(lengths(t, 20, session=t % 3) for t in range(9)))
    made = prompts(log)
    first, second = replayed(made), replayed(made)
    assert not {one.prompt_ids[0] for one in first} & {one.prompt_ids[0] for one in second}
    assert replayed(prompts(log)) == first


def test_what_a_request_asks_for_follows_its_own_length_and_limit(tmp_path):
    log = a_log(
        tmp_path,
        {"t_s": 0, "prompt_tokens": 5, "output_tokens": 20, "max_tokens": 50},
        {"t_s": 1, "prompt_tokens": 5, "output_tokens": 20, "max_tokens": 50, "length": "natural"},
        {"t_s": 2, "prompt_tokens": 5, "output_tokens": 20, "length": "natural"},
        {"t_s": 3, "prompt_tokens": 5, "max_tokens": 7},
        {"t_s": 4, "prompt_tokens": 5},
        {"t_s": 5, "prompt_tokens": 5, "output_tokens": 60, "max_tokens": 50},
    )
    found = replayed(prompts(log))
    assert [one.output_tokens for one in found] == [20, 50, 20, 7, 9, 50]
    assert [one.length for one in found] == ["forced", "natural", "natural"] + 3 * ["forced"]


def test_requests_that_exceed_the_context_are_cut_and_say_so(tmp_path):
    log = a_log(tmp_path, lengths(0, 90, 20), lengths(1, 50, 90), lengths(2, 300, 90))
    found = replayed(prompts(log, limit=100))
    asked = [(len(one.prompt_ids), one.output_tokens, one.is_cut) for one in found]
    assert asked == [(80, 20, True), (50, 50, True), (50, 50, True)]
    assert not any(one.is_cut for one in replayed(prompts(log)))


def test_a_prompt_is_sent_as_it_is_and_in_the_models_tokens(tmp_path):
    log = a_log(tmp_path, {"t_s": 0, "prompt": "The  moon\n"}, lengths(1, 3))
    made = prompts(log)
    found = replayed(made)[0]
    assert found.prompt == "The  moon\n"
    assert found.prompt_ids == PLAIN("The  moon\n")["input_ids"]
    lengths_found = made.log.traffic.prompt_tokens
    assert lengths_found and lengths_found.p95 == len(found.prompt_ids)
    (short, _) = replayed(prompts(log, limit=4, workload=Workload(output_tokens=2)))
    assert (short.prompt, short.is_cut) == (PLAIN.decode(found.prompt_ids[:2]), True)


def test_messages_are_read_through_the_chat_template(tmp_path, tokenizer):
    messages = [{"role": "user", "content": "why?"}]
    log = a_log(tmp_path, {"t_s": 0, "messages": messages}, lengths(1, 3))
    (found, _) = replayed(prompts(log, tokenizer))
    how = {"tokenize": False, "add_generation_prompt": True}
    assert found.prompt == tokenizer.apply_chat_template(messages, **how)
    assert found.prompt_ids == tokenizer(found.prompt, add_special_tokens=False)["input_ids"]


def test_messages_without_a_template_are_refused_and_no_error_quotes_them(tmp_path, tokenizer):
    row = {"t_s": 0, "messages": [{"role": "user", "content": SECRET}]}
    log = a_log(tmp_path, row, lengths(1, 3))
    with pytest.raises(ValueError, match="no chat template to render them with; give a model"):
        prompts(log)
    tokenizer.chat_template = "{{ raise_exception(messages[0].content) }}"
    with pytest.raises(ValueError, match="refuses the messages of request 1 of the") as refused:
        prompts(log, tokenizer)
    assert SECRET not in str(refused.value)
    assert refused.value.__suppress_context__


def test_all_requests_come_once_in_each_round_of_a_seeded_order(tmp_path):
    log = a_log(tmp_path, *(lengths(t, 10 + t) for t in range(20)))
    found = list(itertools.islice(prompts(log).shuffled(), 40))
    rounds = [[len(one.prompt_ids) for one in part] for part in (found[:20], found[20:])]
    assert sorted(rounds[0]) == sorted(rounds[1]) == list(range(10, 30))
    assert list(range(10, 30)) != rounds[0] != rounds[1]
    assert {one.due_s for one in found} == {None}
    assert list(itertools.islice(prompts(log).shuffled(), 40)) == found


def test_a_text_that_is_sent_again_says_so(tmp_path):
    made = prompts(a_log(tmp_path, {"t_s": 0, "prompt": "a"}, lengths(1, 3)))
    assert [one.is_repeated for one in replayed(made) + replayed(made)] == [
        False,
        False,
        True,
        False,
    ]


def test_a_record_states_a_log_without_its_text_or_place(tmp_path):
    log = a_log(tmp_path, {"t_s": 0, "prompt": SECRET, "output_tokens": 5}, lengths(2, 3, 8))
    found = replayed_log(Replay(log), PLAIN)
    words = replay_words(Workload(), found, Replay(log))
    assert SECRET not in repr(words) and str(tmp_path) not in repr(words)
    assert (words["replay_format"], words["replay_requests"]) == ("kdwatts", 2)
    assert (words["output_tokens"], words["output_tokens_p95"]) == (6, 8)
    assert words["replay_rate_per_s"] == 0.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"from_s": 9.0}, "the stretch from_s=9, for_s=None holds 0 requests"),
        ({"for_s": 0.5}, "holds 1 requests, of one moment or none, and the log lasts 3 s"),
    ],
)
def test_a_stretch_without_a_rate_is_refused(tmp_path, settings, words):
    log = a_log(tmp_path, lengths(0, 3), lengths(3, 3))
    with pytest.raises(ValueError, match=words):
        replayed_log(Replay(log, **settings), PLAIN)


def test_a_log_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"replay.log=/no/log does not exist; give the file of"):
        replayed_log(Replay("/no/log"), PLAIN)
    with pytest.raises(ValueError, match=r" is no file; give the file of a log"):
        replayed_log(Replay(str(tmp_path)), PLAIN)
