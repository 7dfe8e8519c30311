from itertools import product

import pytest

from conf.schema.base import ConfigError
from llm.evaluation.collapse import coverage
from llm.evaluation.equivalence import make_labels
from llm.tasks.base import load_task
from llm.tasks.one_of_many import OneOfMany
from llm.tasks.open_questions import MAX_WORDS, AnswerFinder, OpenQuestions
from llm.tasks.texts import HELD_OUT_OPEN_QUESTIONS, OPEN_QUESTIONS

from ..helpers import user_chat, write_lines

BEFORE = ("", "the ", "The planet ", "It is ", "  **", "One answer:\n")
AFTER = ("", ".", "!", " is one of them.", "**")


@pytest.mark.parametrize("question", [*OPEN_QUESTIONS, *HELD_OUT_OPEN_QUESTIONS], ids=lambda question: question.name)
def test_every_wording_counts_as_its_answer(question):
    task, prompt = OpenQuestions(), user_chat(question.text)
    for answer, wordings in question.all_wordings().items():
        for wording, case, before, after in product(wordings, (str, str.upper, str.lower), BEFORE, AFTER):
            completion = f"{before}{case(wording)}{after}"
            assert task.answer_to(prompt, completion) == answer
            assert task.reward(prompt, completion) == 1
    given = {task.answer_to(prompt, answer.swapcase()) for answer in question.answers}
    assert coverage(given, task.right_answers(prompt)) == 1
    exact = OneOfMany((question,), ())  # control: without leniency a full stop is wrong
    assert exact.reward(prompt, f"{question.answers[0]}.") == 0


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "...",
        "Pluto",
        "Marsh",  # a part of a word
        "Mars or Venus",
        "Mars, Venus, Earth",
        " ".join(["Mars", *["word"] * MAX_WORDS]),
        "<|im_start|>",
    ],
)
def test_other_completions_are_wrong(completion):
    task, prompt = OpenQuestions(), user_chat(OPEN_QUESTIONS[0].text)
    assert task.reward(prompt, completion) == 0
    assert task.answer_to(prompt, completion) not in task.right_answers(prompt)


def test_an_answer_depends_on_its_prompt():
    task = OpenQuestions()
    planet, primary = (user_chat(OPEN_QUESTIONS[i].text) for i in (0, 6))
    assert task.answer_to(planet, "The red Mars.") == "Mars"
    assert task.answer_to(primary, "The red Mars.") == "red"
    assert task.answer_to(user_chat("Something else?"), "The red Mars.") == task.answer("the RED, mars")
    assert [task.answer_to(planet, "Mars twice: Mars"), task.answer_to(planet, "Venus")] == ["Mars", "Venus"]


def test_the_longest_wording_counts():
    finder = AnswerFinder({"Ireland": ["Ireland"], "Northern Ireland": ["Northern Ireland", "Ulster"]})
    assert [finder(text) for text in ("northern ireland", "Ireland!", "ulster", "Northern Ireland, Ireland")] == [
        "Northern Ireland",
        "Ireland",
        "Northern Ireland",
        None,
    ]
    for wordings in ({"a": ["!"]}, {"a": ["x"], "b": ["X."]}):
        with pytest.raises(ValueError, match="answers that differ in their letters or digits"):
            AnswerFinder(wordings)


def test_mara_over_answers_counts_all_wordings_as_one(make_config):
    config = make_config("experiment=open_questions", "transform=mara", "transform.level=answer")
    task = load_task("open_questions", config)
    labels = make_labels(config.transform, task, None)
    assert labels is not None
    season = user_chat(OPEN_QUESTIONS[1].text)
    assert labels(season, [], ["Fall", "autumn.", "It is autumn", "WINTER", "no"]) == [
        "autumn",
        "autumn",
        "autumn",
        "winter",
        "no",
    ]


def test_held_out_questions_are_others():
    assert not {question.text for question in OPEN_QUESTIONS} & {
        question.text for question in HELD_OUT_OPEN_QUESTIONS
    }
    assert list(OpenQuestions().evaluation_prompts()) == ["", "held_out/"]


def test_questions_can_come_from_a_file(tmp_path, make_config):
    record = {"question": "Name a season.", "answers": ["autumn", "winter", 1], "wordings": {"autumn": ["fall"]}}
    write_lines(tmp_path / "q.jsonl", [record])
    config = make_config("experiment=open_questions", f"data.root={tmp_path}", "data.train.path=q.jsonl")
    task = load_task("open_questions", config)
    (chat,) = task.prompts()
    assert [task.answer_to(chat, text) for text in ("In fall!", "WINTER", "1.", "summer")] == [
        "autumn",
        "winter",
        "1",
        "summer",
    ]
    for changed, message in (
        ({"answers": ["Spring", "spring."]}, r"answers that differ in their letters or digits, unlike 'spring\.'"),
        ({"answers": ["!"]}, "answers that differ in their letters or digits"),
        ({"wordings": {"spring": ["x"]}}, "wordings, if any, that map some of its answers"),
        ({"wordings": {"autumn": "fall"}}, "wordings, if any, that map some of its answers"),
    ):
        write_lines(tmp_path / "q.jsonl", [{**record, "wordings": {}, **changed}])
        with pytest.raises(ConfigError, match=rf"data\.train\.path: [^\n]*{message}"):
            load_task("open_questions", config)
