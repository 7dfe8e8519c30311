"""The last lines of a command: pictures, and commands as the user types them."""

from launch.cli.command_table import STARTED_AS
from launch.runs.closing import command, next_line, pictures_in, show_pictures, shown_path


def test_paths_are_relative_and_no_options(tmp_path, monkeypatch):
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert shown_path(inner / "a" / "b") == "a/b"
    assert shown_path(inner / "-m") == "./-m"
    assert shown_path(tmp_path / "x") == "../x"
    assert shown_path("/a") == "/a"  # not ../../../a
    monkeypatch.setenv("MARA_CWD", str(tmp_path))
    assert shown_path(inner / "a") == "inner/a"
    assert command("launch.status", tmp_path / "a b", "--json") == "python -m launch.status 'a b' --json"


def test_pictures_are_shown_with_the_main_one_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("answers.png", "figure.png", "notes.txt"):
        (tmp_path / name).touch()
    show_pictures([*pictures_in(tmp_path), tmp_path / "missing.png"])
    assert capsys.readouterr().out == "picture: figure.png\npicture: answers.png\n"


def test_a_command_is_shown_as_it_is_typed(monkeypatch):
    text = command("launch.status", "a b")
    monkeypatch.delenv(STARTED_AS, raising=False)
    assert next_line(text) == "next: python -m launch.status 'a b'"
    monkeypatch.setenv(STARTED_AS, "mara")
    assert next_line(text) == "next: mara status 'a b'"
