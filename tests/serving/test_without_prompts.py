"""A server's words end where they quote the prompt."""

from __future__ import annotations

from kdwatts.serving.client.without_prompts import without_prompt, without_prompts

PROMPT = "the quick brown fox jumps\nover the lazy dog"


def test_words_of_the_servers_own_stay():
    words = "This model's maximum context length is 2048 tokens"
    assert without_prompt(words, PROMPT) == words


def test_words_end_where_they_quote_the_prompt():
    words = "bad input 'the quick brown fox jumps\\nover the lazy dog' at 3"
    assert without_prompt(words, PROMPT) == "bad input '(it quotes the prompt)"


def test_a_part_of_the_prompt_is_a_quotation_too():
    assert without_prompt("near:over the lazy", PROMPT) == "near:(it quotes the prompt)"


def test_a_short_prompt_is_found_whole():
    assert (
        without_prompt("cannot read 'hush' here", "hush") == "cannot read '(it quotes the prompt)"
    )


def test_a_list_of_tokens_is_left_out():
    assert without_prompt("prompt: [12, 7, 99, 3] is bad", PROMPT) == "prompt: [(numbers)] is bad"


def test_words_are_one_line_of_300_characters_at_most():
    words = without_prompt("a\nb " + "x y " * 200, PROMPT)
    assert words.startswith("a b x y")
    assert len(words) == 300


def test_words_end_where_they_quote_any_of_many_prompts_and_else_stay_whole():
    words = "it ended: " + "x" * 400 + " at 'jumps over the lazy' and then 'hush hush hush hush'"
    prompts = ["hush hush hush hush hush", PROMPT, "never seen anywhere"]
    assert without_prompts(words, prompts) == words.partition("jumps")[0] + "(it quotes the prompt)"
    assert without_prompts(words, ["never seen anywhere"]) == words
    assert without_prompts("at the lazy dog", [PROMPT, "none of it"]) == "at(it quotes the prompt)"
    assert without_prompts("of [1, 2, 3, 4]", []) == "of [(numbers)]"
