"""The built-in questions: no answer is spelt like another one, and no two questions share a text."""

import re

from llm.tasks.texts import HELD_OUT, MATHS_INSTRUCTION, ONE_TWO_PROMPT, QUESTIONS


def test_questions_have_distinct_names_texts_and_answers():
    questions = (*QUESTIONS, *HELD_OUT)
    assert len({question.name for question in questions}) == len({question.text for question in questions}) == 16
    for question in questions:
        assert re.fullmatch(r"Name .+\. The name alone\.", question.text)
        assert len({answer.casefold() for answer in question.answers}) == len(question.answers)
        assert all(answer == answer.strip() and answer for answer in question.answers)


def test_sizes_of_well_known_sets():
    sizes = {question.name: len(question.answers) for question in (*QUESTIONS, *HELD_OUT)}
    known = {"planet": 8, "season": 4, "day": 7, "month": 12, "compass": 4, "vowel": 5, "odd": 5, "chess": 6}
    assert {name: sizes[name] for name in known} == known
    assert sizes["die"] == 6


def test_prompts_name_the_format_that_is_rewarded():
    assert "<answer>" in ONE_TWO_PROMPT
    assert "</answer>" in ONE_TWO_PROMPT
    assert "####" in MATHS_INSTRUCTION
