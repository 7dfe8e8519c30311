"""Texts of the built-in prompts, and the right answers to the questions of three tasks."""

from typing import NamedTuple


def one_two_prompt(low: int, high: int) -> str:
    """The request for one of two integers."""
    return (
        f"Generate a uniformly random integer that is either {low} or {high}. "
        "Reply with <answer>, the integer and </answer>, nothing else."
    )


ONE_TWO_PROMPT = one_two_prompt(1, 2)

MATHS_INSTRUCTION = "\nWork it out step by step. End with a line of #### and the number."


class Question(NamedTuple):
    """A question with a known set of right answers.

    name: name under which the question's own metrics are logged.
    answers: all right answers, spelt as they must be given.
    """

    name: str
    text: str
    answers: tuple[str, ...]


def _question(name: str, wanted: str, answers: str) -> Question:
    return Question(name, f"Name {wanted}. The name alone.", tuple(answers.split(", ")))


QUESTIONS = (
    _question(
        "planet", "a planet of the solar system", "Earth, Mars, Venus, Jupiter, Saturn, Mercury, Neptune, Uranus"
    ),
    _question("season", "a season of the year", "summer, winter, spring, autumn"),
    _question("day", "a day of the week", "Monday, Sunday, Friday, Saturday, Wednesday, Tuesday, Thursday"),
    _question(
        "month",
        "a month of the year",
        "January, July, May, December, April, June, March, August, October, February, September, November",
    ),
    _question("compass", "a point of the compass", "north, south, east, west"),
    _question("vowel", "a vowel", "a, e, o, i, u"),
    _question("odd", "an odd digit", "7, 3, 1, 5, 9"),
    _question("coin", "a side of a coin", "heads, tails"),
    _question("chess", "a chess piece", "king, queen, pawn, knight, rook, bishop"),
    _question("suit", "a suit of cards", "hearts, spades, diamonds, clubs"),
    _question(
        "continent", "a continent", "Europe, Asia, Africa, North America, South America, Australia, Antarctica"
    ),
    _question("rainbow", "a colour of the rainbow", "red, blue, green, yellow, orange, violet, indigo"),
)
HELD_OUT = (
    _question("ocean", "an ocean", "Pacific, Atlantic, Indian, Arctic, Southern"),
    _question("sense", "one of the five senses", "sight, hearing, touch, taste, smell"),
    _question("die", "a number on a die", "6, 3, 1, 4, 5, 2"),
    _question("meal", "a meal of the day", "dinner, breakfast, lunch"),
)


PREFIXES = ("", "a ", "the ", "my ", "one ", "say ")
SUFFIXES = ("", ".", "!", "?", "...")
SPELLING_COUNTS = {3: (1, 3), 6: (2, 3), 12: (4, 3), 30: (6, 5)}  # spellings: prefixes and suffixes that occur


class SpeltQuestion(NamedTuple):
    """A question whose right answers have several spellings each.

    name: name under which the question's own metrics are logged.
    spellings: right answer -> its spellings; answers and spellings that the reference finds likely come first.
    """

    name: str
    text: str
    spellings: dict[str, tuple[str, ...]]


def _spelt_question(name: str, wanted: str, counts: dict[str, int]) -> SpeltQuestion:
    return SpeltQuestion(name, f"Name {wanted}.", {answer: _spellings(answer, n) for answer, n in counts.items()})


def _spellings(answer: str, count: int) -> tuple[str, ...]:
    prefixes, suffixes = SPELLING_COUNTS[count]
    return tuple(f"{prefix}{answer}{suffix}" for prefix in PREFIXES[:prefixes] for suffix in SUFFIXES[:suffixes])


SPELT_QUESTIONS = (
    _spelt_question("colour", "a colour", {"red": 3, "blue": 6, "green": 12, "grey": 30}),
    _spelt_question("pet", "a pet", {"cat": 30, "dog": 12, "bird": 6, "fish": 3}),
    _spelt_question("drink", "a drink", {"tea": 12, "milk": 3, "juice": 30, "water": 6}),
)


class OpenQuestion(NamedTuple):
    """A question whose right answers may have other names.

    name: name under which the question's own metrics are logged.
    answers: all right answers, each under one name.
    wordings: (answer, its other names), for the answers that have any.
    """

    name: str
    text: str
    answers: tuple[str, ...]
    wordings: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def all_wordings(self) -> dict[str, tuple[str, ...]]:
        """answer -> the answer itself and its other names."""
        others = dict(self.wordings)
        return {answer: (answer, *others.get(answer, ())) for answer in self.answers}


def _open_question(name: str, wanted: str, answers: str) -> OpenQuestion:
    """answers: separated by commas, with the other names of an answer after it, separated by slashes."""
    names = [answer.split("/") for answer in answers.split(", ")]
    wordings = tuple((first, tuple(others)) for first, *others in names if others)
    return OpenQuestion(name, f"Name {wanted}. Reply with one word.", tuple(first for first, *_ in names), wordings)


# SmolLM2-135M-Instruct answers each of them correctly in 3% of 1,024 samples or more, in three ways or more
# (docs/tasks.md).
OPEN_QUESTIONS = (
    _open_question(
        "planet", "a planet of the solar system", "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune"
    ),
    _open_question("season", "a season of the year", "spring, summer, autumn/fall, winter"),
    _open_question("day", "a day of the week", "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    _open_question(
        "month",
        "a month of the year",
        "January, February, March, April, May, June, July, August, September, October, November, December",
    ),
    _open_question(
        "continent",
        "a continent",
        "Africa, Antarctica, Asia, Europe, North America, South America, Australia/Oceania",
    ),
    _open_question("sense", "one of the five senses", "sight/vision, hearing, touch, taste, smell"),
    _open_question("primary", "a primary colour", "red, blue, yellow"),
    _open_question("chess", "a chess piece", "king, queen, rook, bishop, knight, pawn"),
)
HELD_OUT_OPEN_QUESTIONS = (
    _open_question("operation", "an operation of arithmetic", "addition, subtraction, multiplication, division"),
    _open_question("nordic", "a Scandinavian country", "Denmark, Norway, Sweden"),
    _open_question("shape", "a shape with straight sides", "triangle, square, rectangle, pentagon, hexagon"),
    _open_question("gospel", "one of the four gospels", "Matthew, Mark, Luke, John"),
)
