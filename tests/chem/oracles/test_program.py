"""Command lines with placeholders and paths, and numbers in what a program writes."""

import pytest

from chem.oracles.program import CommandLine, NumberPattern, existing_path, find_program, relative_path
from conf.schema.base import ConfigError


def test_placeholders_are_filled_in_after_paths(tmp_path, monkeypatch):
    """Braces in the name of a folder are no placeholders."""
    folder = tmp_path / "a{b}"
    folder.mkdir()
    (folder / "file").touch()
    monkeypatch.chdir(folder)
    line = CommandLine(["echo", "file", "{seed}:{here}", 20, "-x=file"], ["seed"], None, 1.0)
    assert line.filled({"seed": 3})[1:] == [f"{folder}/file", f"3:{folder}", "20", f"-x={folder}/file"]
    assert line.fields == {"seed", "here"}
    assert line.run({"seed": 3}, tmp_path).split()[0] == f"{folder}/file"


def test_which_arguments_are_paths(tmp_path):
    (tmp_path / "file").touch()
    assert [relative_path(argument) for argument in ("a", "a=b", "--a=b", "--a", "-")] == ["a", "a=b", "b", "", ""]
    assert existing_path("file", tmp_path) == existing_path("--in=file", tmp_path) == tmp_path / "file"
    for argument in ("--file", "other", str(tmp_path / "file"), "", "\0", "-"):
        assert existing_path(argument, tmp_path) is None


def test_a_program_is_found_on_the_path_or_by_its_own(tmp_path):
    program = tmp_path / "program"
    program.touch()
    assert find_program("sh", tmp_path).is_absolute()
    with pytest.raises(ConfigError, match=r"^command: the program \./program was not found, or is not executable$"):
        find_program("./program", tmp_path)
    program.chmod(0o755)
    assert find_program("./program", tmp_path) == program


@pytest.mark.parametrize(
    ("text", "pattern", "number"),
    [
        ("RESULT: -7.25 0.0", r"RESULT:\s+(\S+)", -7.25),
        ("RESULT: 1.2e+03 0.0", r"RESULT:\s+(\S+)", 1200),
        ("RESULT: 1.2e+03 0.0", r"RESULT:\s+(-?[\d.]+)", None),
        ("RESULT: -7.2e", r"RESULT:\s+(-?[\d.]+)", -7.2),  # a letter that is no exponent
    ],
)
def test_a_number_is_read_with_its_exponent(text, pattern, number):
    numbers = NumberPattern(pattern, "first")
    if number is None:
        with pytest.raises(ValueError, match=r"^pattern: reads 1\.2 without its exponent; write \(\\S\+\) for"):
            numbers.pick(text, "stdout")
    else:
        assert numbers.pick(text, "stdout") == number


def test_numbers_that_are_not_picked_do_not_matter():
    text = "12 /tmp/mara-0e3_/molecule.smi"
    assert NumberPattern(r"(\d+)", "first").pick(text, "stdout") == 12
    for pick in ("last", "min"):
        with pytest.raises(ValueError, match="without its exponent"):
            NumberPattern(r"(\d+)", pick).pick(text[:15] + "1e3", "stdout")
    with pytest.raises(ValueError, match="without its exponent"):
        NumberPattern(r"(\d+)", "first").numbers(text, "stdout")
