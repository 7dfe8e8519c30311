"""tools/install_sizes.py: sizes of what is installed, without installing."""

from tools import install_sizes


def test_what_each_extra_adds_is_the_difference(tmp_path, monkeypatch):
    folder = tmp_path / "venv"

    def create(path, **options):
        path.mkdir()
        (path / "first").write_bytes(b"x" * 10)

    def run(command, check):
        name = command[-1].rpartition("[")[2].strip("]").rpartition("/")[2]
        (folder / name).write_bytes(b"x" * (100 if name == "chem" else 7))
        (folder / "link").unlink(missing_ok=True)
        (folder / "link").symlink_to(name)  # counts for nothing

    monkeypatch.setattr(install_sizes.venv, "create", create)
    monkeypatch.setattr(install_sizes.subprocess, "run", run)
    rows = [(name, added) for name, added, _ in install_sizes.measure(folder, ["chem", "lora"])]
    assert rows == [("(none)", 7), ("chem", 100), ("lora", 7)]


def test_the_rows_are_the_extras_of_users(monkeypatch, capsys):
    monkeypatch.setattr(install_sizes, "measure", lambda folder, extras: [(name, 2e6, 3.2) for name in extras])
    install_sizes.main(["folder"])
    rows = capsys.readouterr().out.splitlines()
    assert rows[:2] == ["| extra | MB | seconds |", "|---|---:|---:|"]
    assert "| chem | 2 | 3 |" in rows
    assert not [row for row in rows if "dev" in row]
