"""A teacher that reads the student's text in tokens of its own, with two tokenizers that differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kdwatts.config.paradigm import CrossEntropy, Paradigm, Relational, Response
from kdwatts.data.packing import IGNORE, Batch
from kdwatts.losses.universal import universal
from kdwatts.teacher.cross_tokenizer import UNREAD, Spelling, read_row, spelling, universal_signals
from kdwatts.teacher.signals import signal_plan
from kdwatts.training.micro_batch import MicroBatch
from kdwatts.training.objective import PairSizes, objective_of
from kdwatts.training.terms.head_terms import TeacherHead

PROSE = "the quick brown fox jumps over the lazy dog and the dog sleeps by the river — naïve, café "
NUMBERS = (
    "one two three quick quack quicker jumping over rivers and lakes, sleeping; thé à la crème "
)


def trained(text: str, size: int, *, begin: str | None, end: str) -> Any:
    """A byte-level BPE of `size` tokens, special ones and all bytes among them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[end, "<|aside|>"] + [begin] * (begin is not None),  # pyright: ignore[reportArgumentType]
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end)


@pytest.fixture(scope="module")
def student() -> Spelling:
    return spelling(trained(PROSE, 320, begin=None, end="<end>"), subject="student")


@pytest.fixture(scope="module")
def reader() -> Spelling:
    return spelling(trained(NUMBERS, 330, begin="<s>", end="</s>"), subject="teacher")


def ids_of(one: Spelling, text: str) -> list[int]:
    return one.tokenizer(text, add_special_tokens=False)["input_ids"]


def text_of(one: Spelling, ids: list[int]) -> bytes:
    return b"".join(one.bytes_of.get(token, b"") for token in ids)


TEXT = "the quick dog jumps over naïve rivers — and quicker lakes, sleeping à la café"


def test_a_spelling_is_the_text_byte_for_byte_and_special_tokens_are_no_text(student: Spelling):
    assert text_of(student, ids_of(student, TEXT)) == TEXT.encode()
    assert student.tokenizer.eos_token_id not in student.bytes_of
    assert sorted(student.bytes_of[i] for i in student.bytes_of if len(student.bytes_of[i]) == 1)[
        :256
    ] == [bytes([byte]) for byte in range(256)]


def test_the_two_tokenizers_cut_the_same_text_differently(student: Spelling, reader: Spelling):
    assert len(ids_of(student, TEXT)) != len(ids_of(reader, TEXT))
    assert student.tokenizer.get_vocab() != reader.tokenizer.get_vocab()


def test_positions_correspond_exactly_where_both_have_read_the_same_prefix(
    student: Spelling, reader: Spelling
):
    ids = ids_of(student, TEXT)
    row = read_row(student, reader, ids)
    assert row.ids == [reader.tokenizer.bos_token_id, *ids_of(reader, TEXT)]
    # A second way to say it: every pair of prefixes is compared as bytes.
    prefixes = {text_of(reader, row.ids[: u + 1]): u for u in range(1, len(row.ids))}
    expected = [prefixes.get(text_of(student, ids[: t + 1]), UNREAD) for t in range(len(ids))]
    assert row.place_T.tolist() == expected
    assert expected.count(UNREAD) >= 3 and expected[-1] == len(row.ids) - 1


def test_counting_tokens_from_the_left_would_compare_different_prefixes(
    student: Spelling, reader: Spelling
):
    ids, known = ids_of(student, TEXT), ids_of(reader, TEXT)
    wrong = [t for t in range(5, 15) if text_of(student, ids[:t]) == text_of(reader, known[:t])]
    assert not wrong


def test_the_end_token_becomes_the_teachers_and_other_special_tokens_are_not_read(
    student: Spelling, reader: Spelling
):
    end, aside = (student.tokenizer.convert_tokens_to_ids(t) for t in ("<end>", "<|aside|>"))
    first, second = ids_of(student, "the dog"), ids_of(student, " sleeps")
    row = read_row(student, reader, [*first, end, aside, *second])
    assert row.ids == [
        reader.tokenizer.bos_token_id,
        *ids_of(reader, "the dog"),
        reader.tokenizer.eos_token_id,
        *ids_of(reader, " sleeps"),
    ]
    place = len(first)
    assert row.ids[row.place_T[place]] == reader.tokenizer.eos_token_id
    assert row.place_T[place + 1] == UNREAD and row.place_T[-1] == len(row.ids) - 1


def test_a_document_that_sees_none_before_it_begins_anew_for_the_teacher(
    student: Spelling, reader: Spelling
):
    first, second = ids_of(student, "the dog"), ids_of(student, "a fox")
    row = read_row(student, reader, [*first, *second], frozenset({len(first)}))
    begin = reader.tokenizer.bos_token_id
    assert row.ids == [begin, *ids_of(reader, "the dog"), begin, *ids_of(reader, "a fox")]
    lengths = [1 + len(ids_of(reader, text)) for text in ("the dog", "a fox")]
    assert row.positions == [*range(lengths[0]), *range(lengths[1])]


def test_a_row_may_begin_and_end_inside_a_character(student: Spelling, reader: Spelling):
    byte = {value: token for token, value in student.bytes_of.items() if len(value) == 1}
    dash, text = "—".encode(), ids_of(student, " the fox ")
    ids = [*(byte[dash[i : i + 1]] for i in (1, 2)), *text, byte[dash[:1]], byte[dash[1:2]]]
    row = read_row(student, reader, ids)
    assert text_of(reader, row.ids) == b" the fox "
    assert row.place_T[:2].tolist() == row.place_T[-2:].tolist() == [UNREAD, UNREAD]
    assert row.place_T[1 + len(text)] == len(row.ids) - 1


def test_text_that_the_teachers_tokenizer_changes_is_not_compared(student: Spelling):
    from tokenizers import normalizers

    changing = trained(NUMBERS, 300, begin=None, end="</s>")
    changing.backend_tokenizer.normalizer = normalizers.NFD()
    row = read_row(student, spelling(changing, subject="teacher"), ids_of(student, "café"))
    assert (row.place_T == UNREAD).all()


def test_a_tokenizer_that_is_not_byte_level_is_refused_with_advice():
    words = Tokenizer(models.WordLevel({"a": 0, "<end>": 1}, unk_token="<end>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    with pytest.raises(
        ValueError, match=r"the teacher's tokenizer decodes by None and not by bytes"
    ):
        spelling(tokenizer, subject="teacher")


def llama(seed: int, vocabulary: int, width: int) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def batch_of(student: Spelling, texts: list[str]) -> Batch:
    rows = [ids_of(student, text) for text in texts]
    length = max(map(len, rows)) - 1
    tokens = torch.zeros(len(rows), length + 1, dtype=torch.long)
    valid = torch.zeros(len(rows), length + 1, dtype=torch.bool)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)], valid[row, : len(ids)] = torch.tensor(ids), True
    target = tokens[:, 1:].masked_fill(~valid[:, 1:], IGNORE)
    return Batch(np.arange(len(rows)), tokens[:, :-1], target, valid_BT=valid[:, :-1])


TEXTS = [TEXT, "the lazy dog sleeps by the river and then jumps"]


def test_the_teachers_states_stand_at_the_students_positions(student: Spelling, reader: Spelling):
    teacher, batch = llama(1, 330, 24), batch_of(student, TEXTS)
    paradigm = Paradigm("u", response=Response(divergence="universal", support="dense"))
    plan = signal_plan(paradigm, [], 330)
    signals = universal_signals(teacher, plan, batch, student=student, reader=reader)
    assert signals.final_ND is not None and signals.aligned_N is not None
    length = batch.input_BT.shape[1]
    for row in range(2):
        read = read_row(student, reader, batch.input_BT[row][batch.text_BT[row]].tolist())
        with torch.no_grad():
            state_UD = teacher.model(torch.tensor([read.ids])).last_hidden_state[0]
        for t in range(length):
            place = read.place_T[t] if t < len(read.place_T) else UNREAD
            assert signals.aligned_N[row * length + t] == (place != UNREAD)
            if place != UNREAD:
                found = signals.final_ND[row * length + t]
                torch.testing.assert_close(found, state_UD[place], rtol=1e-4, atol=1e-5)


def test_the_objective_compares_aligned_positions_alone_and_learns_from_them(
    student: Spelling, reader: Spelling
):
    pupil, teacher = llama(0, 320, 16).train(), llama(1, 330, 24)
    batch = batch_of(student, TEXTS)
    paradigm = Paradigm(
        "u",
        teacher="online",
        ce=CrossEntropy(0.3),
        response=Response(0.7, "universal", support="dense", temperature=2.0),
        relational=Relational(0.5, group_size=4),
    )
    plan = signal_plan(paradigm, [], 330)
    objective = objective_of(
        paradigm,
        [],
        plan,
        sizes=PairSizes(320, student_width=16, teacher_width=24),
        chunk_rows=5,
        teacher_head=TeacherHead(teacher.lm_head.weight.detach()),
        seed=0,
    )
    batch = batch_of(student, [*TEXTS, *reversed(TEXTS)])
    signals = universal_signals(teacher, plan, batch, student=student, reader=reader)
    assert signals.final_ND is not None and signals.aligned_N is not None
    assert signals.pooled_BD is not None and signals.pooled_BD.shape == (4, 24)
    size = objective.step_size([batch])
    loss, parts = objective.micro_batch_loss(pupil, MicroBatch(batch, signals), size)
    keep_N = (batch.target_BT != IGNORE).flatten()
    counted_N = keep_N & signals.aligned_N
    assert 0 < counted_N.sum() < keep_N.sum()
    student_NV = pupil(batch.input_BT).logits.flatten(0, 1)[counted_N]
    teacher_NW = teacher.lm_head(signals.final_ND)[counted_N].detach()
    expected = universal(student_NV, teacher_NW, temperature=2.0).sum() / keep_N.sum()
    assert parts["response_nats"].item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    assert pupil.model.layers[0].mlp.up_proj.weight.grad.any()
    assert all(p.grad is None for p in teacher.parameters())
