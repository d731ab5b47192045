"""Logs of four formats, written by hand, as requests in the order of arrival."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from kdwatts.traffic.logged_request import LoggedRequest
from kdwatts.traffic.logs import format_of, read_log, whole_log

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.5000009,374,44\n"
    "2023-11-16 18:15:50.0000000,396,109\n"
    "2023-11-16 18:15:46.2500000,10,7\n"
)
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45,ChatGPT,1087,0,1087,Conversation log\n"
    "118,GPT-4,417,276,693,API log\n"
)
BURSTGPT_2 = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,a1,2.5,ChatGPT,472,18,490,Conversation log\n"
    "6.5,,1.0,GPT-4,417,276,693,API log\n"
    "9,a1,2.5,ChatGPT,500,20,520,Conversation log\n"
)
MOONCAKE = (
    '{"timestamp": 27482, "input_length": 1100, "output_length": 52, "hash_ids": [46, 47, 9]}\n'
    '{"timestamp": 482, "input_length": 600, "output_length": 500, "hash_ids": [46, 47]}\n'
)


def _file(folder: Path, text: str, name: str = "log") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def _jsonl(folder: Path, *rows: dict[str, Any]) -> Path:
    return _file(folder, "".join(json.dumps(row) + "\n" for row in rows))


def test_rows_of_azure_are_sorted_and_count_from_the_first_arrival(tmp_path):
    assert read_log(_file(tmp_path, AZURE)) == [
        LoggedRequest(0.0, 10, 7),
        LoggedRequest(0.25, 374, 44),
        LoggedRequest(3.75, 396, 109),
    ]


def test_moments_of_azure_with_a_zone_are_read(tmp_path):
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.250000+00:00,2162,5\n"
        "2024-05-10 02:00:01.750000+02:00,2399,6\n"
    )
    assert [one.t_s for one in read_log(_file(tmp_path, text))] == [0.0, 1.5]


def test_a_failure_of_burstgpt_is_left_out_and_counted(tmp_path):
    log = whole_log(_file(tmp_path, BURSTGPT))
    assert log.requests == [LoggedRequest(0.0, 472, 18), LoggedRequest(113.0, 417, 276)]
    assert (log.log_format, log.num_left_out) == ("burstgpt", 1)


def test_the_later_release_of_burstgpt_has_sessions_and_more_columns(tmp_path):
    assert read_log(_file(tmp_path, BURSTGPT_2)) == [
        LoggedRequest(0.0, 472, 18, "a1"),
        LoggedRequest(1.5, 417, 276, None),
        LoggedRequest(4.0, 500, 20, "a1"),
    ]


def test_columns_are_found_by_name_in_any_order(tmp_path):
    text = "generatedtokens,model,TIMESTAMP,ContextTokens\n7,x,2024-05-10 00:00:00,12\n"
    assert read_log(_file(tmp_path, text)) == [LoggedRequest(0.0, 12, 7)]


def test_blocks_of_mooncake_have_512_tokens_and_its_times_are_milliseconds(tmp_path):
    first, second = read_log(_file(tmp_path, MOONCAKE))
    assert (first.t_s, first.prompt_tokens, first.output_tokens) == (0.0, 600, 500)
    assert (second.t_s, second.prefix_blocks, second.block_tokens) == (27.0, (46, 47, 9), 512)


def test_every_field_of_our_own_format_is_read(tmp_path):
    path = _jsonl(
        tmp_path,
        {"id": "x", "t_s": 3, "session": 7, "prompt": "why", "output_tokens": 5, "seed": 4},
        {"t_s": 1.5, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9},
        {"t_s": 2.5, "prompt_tokens": 40, "prefix_blocks": [1, 2], "block_tokens": 16,
         "length": "natural", "session": None},
    )  # fmt: skip
    assert read_log(path) == [
        LoggedRequest(0.0, None, None, messages=[{"role": "user", "content": "hello"}],
                      max_tokens=9),
        LoggedRequest(1.0, 40, None, prefix_blocks=(1, 2), block_tokens=16, length="natural"),
        LoggedRequest(1.5, None, 5, "7", prompt="why"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", [AZURE, BURSTGPT, BURSTGPT_2, MOONCAKE])
def test_byte_order_mark_carriage_returns_gzip_and_empty_lines_change_nothing(tmp_path, text):
    plain = read_log(_file(tmp_path, text))
    marked = "\ufeff" + text.replace("\n", "\r\n") + "\r\n"
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(marked.encode()))
    assert read_log(_file(tmp_path, marked, "marked")) == plain == read_log(packed)


def test_a_repeated_header_of_joined_files_is_no_row(tmp_path):
    log = whole_log(_file(tmp_path, AZURE + AZURE))
    assert (len(log.requests), log.num_left_out) == (6, 0)


@pytest.mark.parametrize(
    ("text", "kind"),
    [(AZURE, "azure"), (BURSTGPT, "burstgpt"), (BURSTGPT_2, "burstgpt"), (MOONCAKE, "mooncake"),
     ('{"t_s": 0, "prompt_tokens": 3}\n', "kdwatts")],
)  # fmt: skip
def test_the_first_line_tells_the_format(tmp_path, text, kind):
    assert format_of(_file(tmp_path, text)) == kind


SECRET = "my grandmother's"
ROW = '{"t_s": 0, "prompt_tokens": 3}\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ROW + f'{{"t_s": 1, "prompt": "{SECRET}"\n', "line 2: the row is no JSON object"),
        (ROW + f'["{SECRET}"]\n', "line 2: the row is no JSON object"),
        (ROW + f'{{"t_s": "{SECRET}", "prompt_tokens": 3}}\n', "line 2: .* no number in 't_s'"),
        (ROW + '{"t_s": NaN, "prompt_tokens": 3}\n', "line 2: .* no number in 't_s'"),
        (ROW + '{"t_s": true, "prompt_tokens": 3}\n', "line 2: .* no number in 't_s'"),
        (ROW + '{"t_s": 1, "prompt_tokens": -3}\n', "whole number of tokens from 0"),
        (ROW + f'{{"t_s": 1, "text": "{SECRET}"}}\n', "none of prompt, messages, prompt_tokens"),
        (ROW + '{"t_s": 1, "prompt_tokens": 1e12}\n', "line 2: .* more than 10,000,000 tokens"),
        (ROW + f'{{"t_s": 1, "prompt_tokens": "{"9" * 5000}"}}\n', "no number in 'prompt_tokens'"),
        (ROW + f'{{"t_s": 1, "prompt": "{SECRET} \\ud83d"}}\n', "line 2: .* half of a character"),
        (ROW + '{"t_s": 1, "prompt": "a", "messages": []}\n', "both 'prompt' and 'messages'"),
        (ROW + f'{{"t_s": 1, "messages": ["{SECRET}"]}}\n', "objects with a role"),
        (ROW + f'{{"t_s": 1, "prompt": "a", "length": "{SECRET}"}}\n', "forced or natural"),
        (ROW + f'{{"t_s": 1, "prompt": "a", "session": ["{SECRET}"]}}\n', "'session'"),
        (ROW + f'{{"t_s": 1, "prompt": "a", "prefix_blocks": "{SECRET}"}}\n', "'prefix_blocks'"),
        (AZURE + f"2023-11-16 18:15:46,{SECRET},3\n", "line 5: .* no number in 'ContextTokens'"),
        (AZURE + f"{SECRET},3,3\n", "line 5: .* no moment such as"),
        (AZURE + f"2023-11-16 18:15:46,3,3,{SECRET}\n", "4 cells where the header has 3"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens,timestamp\n", "two columns 'TIMESTAMP'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "has no rows"),
        (BURSTGPT.splitlines()[0] + "\n5,GPT-4,3,0,3,API log\n", "1 rows, none of them"),
        (f"{SECRET}{'x' * 200_000}\n", "begins as no format that is known"),
        ("[" * 200_000 + "\n", "begins as no format that is known"),
        (f"{SECRET}\n", "begins as no format that is known"),
        ("", "is empty; give a log"),
        ("\ufeff\r\n", "is empty; give a log"),
    ],
)
def test_a_bad_log_is_refused_in_one_sentence_that_quotes_no_text(tmp_path, text, words):
    with pytest.raises(ValueError, match=words) as refused:
        read_log(_file(tmp_path, text))
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(refused.value.__cause__)
    assert "\n" not in str(refused.value)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist; give the file of a log"):
        read_log(tmp_path / "none")
    with pytest.raises(ValueError, match=r"cannot be read \(is a directory\)"):
        read_log(tmp_path)
    with pytest.raises(ValueError, match="no text in UTF-8"):
        read_log(_utf16(tmp_path))
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(AZURE.encode())[:-9])
    with pytest.raises(ValueError, match="no whole gzip file"):
        read_log(broken)


def _utf16(folder: Path) -> Path:
    path = folder / "utf16"
    path.write_bytes(AZURE.encode("utf-16"))
    return path


def test_a_format_that_the_header_contradicts_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"header, and has no column 'ContextTokens'"):
        read_log(_file(tmp_path, BURSTGPT), "azure")
    with pytest.raises(ValueError, match="the format csv of the log is not known"):
        read_log(_file(tmp_path, BURSTGPT), "csv")
