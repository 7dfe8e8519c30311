"""`python -m chem.space` on two small tables."""

from chem.space import main

TABLE = "smiles,score\nCCO,0.9\nc1ccccc1O,0.95\nCCN,0.1\nCCCN,\n"


def test_the_command(tmp_path, capsys):
    for name, rows in (("a", TABLE), ("b", TABLE + "CCCCC(=O)O,0.81\nOCC,0.9\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "molecules.csv").write_text(rows)
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert sorted(path.name for path in (tmp_path / "a" / "space").iterdir()) == [
        "space.csv",
        "space.json",
        "space.png",
        "space.svg",
    ]
    assert "picture" in capsys.readouterr().out
