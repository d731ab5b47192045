"""MMLU's development questions as lm-evaluation-harness carries them, in its examples."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_EXAMPLE = re.compile(
    r"(?s)(?P<question>.*?)\s+\(A\) (?P<A>.*?)\s+\(B\) (?P<B>.*?)\s+\(C\) (?P<C>.*?)\s+\(D\) "
    r"(?P<D>.*?)\nA: .*?[Tt]he answer is \((?P<answer>[A-D])\)\.?\s*"
)


def read_questions() -> list[dict[str, Any]]:
    """`subject`, `question`, four `choices` and the index of the `answer`, 281 in all.

    Five of each of 57 subjects, without the one of college chemistry that has five choices and
    three that the harness lacks. Their reasoning is left out: it would give the answer away.
    """
    import lm_eval

    path = Path(lm_eval.__file__).parent / "tasks/mmlu/flan_cot_fewshot/_cot_prompts.json"
    questions = []
    for subject, prompt in json.loads(path.read_text("utf-8")).items():
        for example in prompt.split("\nQ: ")[1:]:
            found = _EXAMPLE.fullmatch(example)
            if found:
                questions.append(
                    {
                        "subject": subject.replace("_", " "),
                        "question": found["question"].strip(),
                        "choices": [found[letter].strip() for letter in "ABCD"],
                        "answer": "ABCD".index(found["answer"]),
                    }
                )
    return questions


def questions(**_: Any) -> dict[str, Any]:
    """The only split, for the harness."""
    from datasets import Dataset

    return {"test": Dataset.from_list(read_questions())}
