"""The default folder of an evaluation. `python -m llm.evaluate` itself is tested in tests/e2e/test_evaluate.py."""

from llm.evaluate import evaluation_folder


def test_an_evaluation_of_a_run_is_written_into_its_folder(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    assert evaluation_folder(str(run), "elsewhere") == "elsewhere"  # not a run
    (run / "config.yaml").touch()
    assert evaluation_folder(str(run), "elsewhere") == str(run / "evaluation")
    assert evaluation_folder(None, "elsewhere") == "elsewhere"


def test_the_folder_is_relative_to_the_users_folder(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert evaluation_folder("run", "elsewhere") == "run/evaluation"
