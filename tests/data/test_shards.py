"""Token shards: what is a target, what is on the disk, what is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kdwatts.data.shards import NO_TARGET, TokenShards, encode_document, write_shards
from tests.conftest import CHAT_TEMPLATE

END = "<|end_of_text|>"


def _ids(tokens: NDArray[np.uint32]) -> list[int]:
    return (tokens & ~NO_TARGET).tolist()


def _targets(tokens: NDArray[np.uint32], tokenizer: Any) -> str:
    return tokenizer.decode(tokens[tokens < NO_TARGET].tolist())


def _turns(*contents: str, first: str = "user") -> list[dict[str, str]]:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]


def test_text_is_all_target_and_closed_by_the_end_token(tokenizer: Any):
    tokens = encode_document("To be, or not", tokenizer)
    assert tokens.tolist() == [*tokenizer("To be, or not")["input_ids"], tokenizer.eos_token_id]
    assert (tokens < NO_TARGET).all()
    assert encode_document("", tokenizer).tolist() == [tokenizer.eos_token_id]


def test_a_control_token_quoted_in_a_text_is_words_and_ends_nothing(tokenizer: Any):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    for text in (f"Close with {END}, always.", "Qwen writes <|im_end|>", END):
        tokens = encode_document(text, tokenizer)
        marks = np.isin(tokens, tokenizer.all_special_ids)
        assert marks.tolist() == [False] * (len(tokens) - 1) + [True]
        assert tokenizer.decode(tokens.tolist()) == text + END
    # A template's own marks stay what they are, before and after.
    tokens = encode_document(_turns("Who?", "I."), tokenizer)
    assert _ids(tokens).count(tokenizer.eos_token_id) == 2


def test_of_a_conversation_only_the_answers_and_their_ends_are_targets(tokenizer: Any):
    turns = [{"role": "system", "content": "Be brief."}, *_turns("Who?", "I.", "Why?", "So ☃.")]
    tokens = encode_document(turns, tokenizer)
    assert tokenizer.decode(_ids(tokens)) == (
        f"<system>Be brief.{END}<user>Who?{END}<assistant>I.{END}"
        f"<user>Why?{END}<assistant>So ☃.{END}"
    )
    assert _targets(tokens, tokenizer) == f"I.{END}So ☃.{END}"


def test_a_conversation_s_tokens_are_those_of_its_whole_text_where_parts_would_cut_a_word(
    tokenizer: Any,
):
    # The header ends in the middle of a word: its parts and the whole have different tokens.
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}answer: th{% endif %}"
        "{{ m.content }}" + END + "{% endfor %}{% if add_generation_prompt %}answer: th{% endif %}"
    )
    whole = f"Where?{END}answer: there now{END}"
    tokens = encode_document(_turns("Where?", "ere now"), tokenizer)
    assert _ids(tokens) == tokenizer(whole)["input_ids"]
    header, answer = f"Where?{END}answer: th", f"ere now{END}"
    assert _ids(tokens) != tokenizer(header)["input_ids"] + tokenizer(answer)["input_ids"]
    # The word that straddles the border begins in the header and is no target.
    assert _targets(tokens, tokenizer).endswith(f" now{END}")
    assert "th" not in _targets(tokens, tokenizer)


def test_the_header_of_every_answer_is_given_and_not_trained_also_of_the_second_in_a_row(
    tokenizer: Any,
):
    turns = [*_turns("Who?", "I."), {"role": "assistant", "content": "And you."}]
    assert _targets(encode_document(turns, tokenizer), tokenizer) == f"I.{END}And you.{END}"


LLAMA = (
    "{{- '<|begin|>' }}{%- if messages[0]['role'] == 'system' %}"
    "{%- set said = messages[0]['content']|trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set said = '' %}{%- endif %}"
    "{{- '<|head|>system<|tail|>\\n\\n' + said + '<|eot|>' }}"
    "{%- for m in messages %}"
    "{{- '<|head|>' + m['role'] + '<|tail|>\\n\\n' + m['content']|trim + '<|eot|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|head|>assistant<|tail|>\\n\\n' }}{%- endif %}"
)
"""As Llama 3.1's: a system turn is always there, and contents are stripped."""
QWEN = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{%- endif %}"
    "{%- for m in messages %}{%- if not (loop.first and m.role == 'system') %}"
    "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""As Qwen2.5's: a system turn of its own where none is given."""


@pytest.mark.parametrize(
    ("template", "header", "end"),
    [
        (CHAT_TEMPLATE, "<assistant>", END),
        (
            LLAMA,
            "<|begin|><|head|>system<|tail|>\n\n<|eot|><|head|>assistant<|tail|>\n\n",
            "<|eot|>",
        ),
        (
            QWEN,
            "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>assistant\n",
            "<|im_end|>\n",
        ),
    ],
)
def test_an_assistant_that_speaks_first_has_its_header_which_is_given_and_not_trained(
    template: str, header: str, end: str, tokenizer: Any
):
    marks = ["<|begin|>", "<|head|>", "<|tail|>", "<|eot|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = template
    for content in ("Hail.", "0 to 1", "assistant"):
        tokens = encode_document(_turns(content, "Who?", "I.", first="assistant"), tokenizer)
        assert tokenizer.decode(_ids(tokens)).startswith(f"{header}{content}{end}")
        assert _targets(tokens, tokenizer) == f"{content}{end}I.{end}"
        context = tokenizer.decode((tokens[tokens >= NO_TARGET] & ~NO_TARGET).tolist())
        assert context.startswith(header)
    system = {"role": "system", "content": "Be brief."}
    tokens = encode_document([system, *_turns("Hail.", first="assistant")], tokenizer)
    assert _targets(tokens, tokenizer) == f"Hail.{end}"


def test_a_template_without_a_header_for_an_assistant_that_speaks_first_is_refused(tokenizer: Any):
    # What begins an answer stands behind what was asked, so nothing begins one that was not.
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]{% if not loop.last or "
        "add_generation_prompt %}answer:\\n{% endif %}{% else %}{{ m.content }}"
        + END
        + "{% endif %}"
        "{% endfor %}"
    )
    asked = _turns("Who?", "I.")
    assert _targets(encode_document(asked, tokenizer), tokenizer).endswith(f"I.{END}")
    with pytest.raises(
        ValueError, match=r"a.jsonl:3: .* the tokenizer's chat template has no header"
    ):
        encode_document(asked[1:], tokenizer, place="a.jsonl:3")


def test_what_a_template_refuses_is_told_with_its_row_in_one_sentence(tokenizer: Any):
    tokenizer.chat_template = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(
        ValueError, match=r"^a.jsonl:3: .* refuses this conversation \(Roles must .*; .*[^\n]*$"
    ):
        encode_document(_turns("I.", first="assistant"), tokenizer, place="a.jsonl:3")


def test_a_conversation_without_an_answer_has_no_target(tokenizer: Any):
    tokens = encode_document(_turns("Who?"), tokenizer)
    assert len(tokens) > 0 and (tokens >= NO_TARGET).all()
    assert len(encode_document([], tokenizer)) == 0


def test_the_corpus_does_not_depend_on_the_day_it_is_tokenized(tokenizer: Any):
    # As Llama 3.2's template does.
    tokenizer.chat_template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}Today: {{ date_string }}" + END + tokenizer.chat_template
    )
    tokens = encode_document(_turns("Who?", "I."), tokenizer)
    assert tokenizer.decode(_ids(tokens)).startswith(f"Today: 26 Jul 2024{END}<user>Who?")


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Any):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% if loop.last %}!{% endif %}{% endfor %}"
    )
    with pytest.raises(ValueError, match=r"prints turn 2 of a conversation differently when more"):
        encode_document(_turns("Who?", "I.", "Why?"), tokenizer)


def test_conversations_without_a_chat_template_are_refused(tokenizer: Any):
    tokenizer.chat_template = None
    with pytest.raises(
        ValueError, match=r"the tokenizer has no chat template; choose the tokenizer of an instruct"
    ):
        encode_document(_turns("Who?", "I."), tokenizer)


def _write(directory: Path, documents: list[list[int]], *, shard_tokens: int) -> TokenShards:
    arrays = (np.asarray(document, dtype=np.uint32) for document in documents)
    write_shards(directory, arrays, shard_tokens=shard_tokens, source={"path": "p"})
    return TokenShards(directory)


def test_documents_of_several_shards_read_as_one_sequence_across_their_borders(tmp_path: Path):
    documents = [[1, 2, 3], [4, 5], [6], [7, 8, 9, 10], [11]]
    shards = _write(tmp_path, documents, shard_tokens=4)
    assert [shard["tokens"] for shard in shards.index["shards"]] == [5, 5, 1]
    assert shards.num_tokens == 11
    everything = list(range(1, 12))
    for start in range(11):
        for stop in range(start + 1, 12):
            assert shards.read(start, stop).tolist() == everything[start:stop]


def test_the_index_counts_documents_tokens_and_targets_and_names_the_source(tmp_path: Path):
    masked = int(NO_TARGET)
    shards = _write(tmp_path, [[1 | masked, 2], [3 | masked, 4 | masked, 5]], shard_tokens=100)
    index = shards.index
    assert (index["num_documents"], index["num_tokens"], index["num_targets"]) == (2, 5, 2)
    assert index["source"] == {"path": "p"}
    assert shards.read(0, 2).tolist() == [1 | masked, 2]


def test_token_ids_beyond_16_and_17_bits_come_back_as_they_were(tmp_path: Path):
    ids = [65_535, 65_536, 131_071, 131_072, 152_063, 2**31 - 1]
    assert _write(tmp_path, [ids], shard_tokens=100).read(0, 6).tolist() == ids
    assert (tmp_path / "tokens-00000.bin").read_bytes()[4:8] == b"\x00\x00\x01\x00"


def test_a_changed_or_missing_shard_is_refused_with_both_checksums_and_the_remedy(tmp_path: Path):
    _write(tmp_path, [[1, 2], [3, 4]], shard_tokens=2)
    path = tmp_path / "tokens-00001.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    message = (
        rf"{path} has sha256 [0-9a-f]{{12}}, but the index says [0-9a-f]{{12}}; delete {tmp_path}"
    )
    with pytest.raises(ValueError, match=message):
        TokenShards(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"has sha256 no file, but the index says"):
        TokenShards(tmp_path)


def test_documents_begin_where_they_were_written_across_shards_and_empty_ones_nowhere(
    tmp_path: Path,
):
    lengths = [3, 0, 2, 4, 1]
    documents = (np.arange(length, dtype=np.uint32) for length in lengths)
    write_shards(tmp_path, documents, shard_tokens=5, source={})
    shards = TokenShards(tmp_path)
    assert len(shards.index["shards"]) == 2
    assert shards.starts_between(0, 10).tolist() == [0, 3, 5, 9]
    assert shards.starts_between(3, 9).tolist() == [3, 5]
    assert shards.starts_between(6, 9).tolist() == []
    assert (shards.num_first_targets, shards.index["num_documents"]) == (4, 5)
    path = tmp_path / "documents-00001.bin"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"documents-00001.bin has sha256 .*, but the index says"):
        TokenShards(tmp_path)


@pytest.mark.parametrize("documents", [[], [[]], [[1 | int(NO_TARGET)]]])
def test_a_corpus_without_a_target_is_refused(documents: list[list[int]], tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"data.source.path=p: there is no text to train on in \d documents"
    ):
        _write(tmp_path, documents, shard_tokens=4)


def test_empty_documents_at_the_end_make_no_empty_shard(tmp_path: Path):
    shards = _write(tmp_path, [[1, 2, 3, 4], [], []], shard_tokens=4)
    assert len(shards.index["shards"]) == 1
    assert shards.num_tokens == 4
