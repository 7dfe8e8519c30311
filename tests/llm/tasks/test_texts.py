"""The built-in questions: no answer is spelt like another one, and no two questions share a text."""

import re

from llm.tasks.texts import HELD_OUT, MATHS_INSTRUCTION, ONE_TWO_PROMPT, QUESTIONS, SPELT_QUESTIONS


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


def test_answers_have_3_to_30_spellings_and_no_spelling_is_of_two_answers():
    for question in SPELT_QUESTIONS:
        assert sorted(map(len, question.spellings.values())) == [3, 6, 12, 30]
    counts = [[len(texts) for texts in question.spellings.values()] for question in SPELT_QUESTIONS]
    assert counts[0][0] == min(counts[0])  # the likeliest answer has the fewest spellings
    assert counts[1][0] == max(counts[1])  # and the most
    texts = [text for question in SPELT_QUESTIONS for spellings in question.spellings.values() for text in spellings]
    assert len(set(texts)) == len(texts) == 3 * 51
    assert max(len(text.encode()) for text in texts) < 16  # with the end token, max_new_tokens of the experiment
