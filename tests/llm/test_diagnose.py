"""python -m llm.diagnose as a user types it, on rollouts of three trainers and on files that lack almost all."""

import json
import math
import re

import pytest

from llm.diagnose import main, name_answers
from llm.diagnosis.columns import Rollout
from tests.browser import Page, find_browser
from tests.commands import run_module

from .diagnosis import trainer_files


def diagnose(capsys, folder, *words):
    assert main([*map(str, words), f"out={folder / 'out'}"]) == 0
    page = (folder / "out" / "diagnosis.html").read_text("utf-8")
    return re.sub(r"\s+", " ", capsys.readouterr().out), page


def onset_in(text):
    ((start, error),) = set(re.findall(r"collapse from step (\d+) ± (\d+)", text))
    return int(start), int(error)


@pytest.mark.parametrize(
    ("write", "words", "fact"),
    [
        (trainer_files.write_verl, ["answer=pred", "use_kl_loss=true"], "(verl 7 in docs/kl.md)"),
        (trainer_files.write_openrlhf_table, ["algo.kl.use_loss=true"], "(OpenRLHF 1 in docs/kl.md)"),
        (trainer_files.write_trl, ["beta=0.04", "use_bias_correction_kl=false"], "(TRL 1 in docs/kl.md)"),
    ],
)
def test_a_collapsed_run_of_each_trainer(tmp_path, capsys, write, words, fact):
    if write is trainer_files.write_trl:
        pytest.importorskip("trl", reason="needs the extra trl")
    text, page = diagnose(capsys, tmp_path, write(tmp_path / "rollouts"), *words)
    start, error = onset_in(text)
    slower = trainer_files.SLOWER if write is trainer_files.write_openrlhf_table else 1
    assert abs(start / slower - trainer_files.START) <= max(2 * error / slower, 12)  # it takes 20 steps
    assert fact in text
    assert "What to change 1. " in text
    assert "picture: " in text
    assert "page: " in text
    assert "reference=FOLDER" in text
    for part in ("What to change", "Over training", "The optimum of this run", "What cannot be known"):
        assert part in page
    assert not re.search(r'(src|href)="(?!data:|#|")', page)


@pytest.mark.slow
def test_with_a_reference_model_the_ratio_is_that_of_its_weights(tmp_path, capsys):
    from llm.diagnosis.reference_scores import Reference
    from llm.tasks.one_two import OneTwo

    chat, texts = OneTwo().prompts()[0], ("<answer>1</answer>", "<answer>2</answer>")
    rows = [
        {"prompt": chat, "completion": texts[i % 20 == 0], "reward": 1.0, "step": i // 20} for i in range(20 * 20)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text, _ = diagnose(capsys, tmp_path, path, "reference=tiny", "beta=0.03")
    first, second = Reference("tiny", "cpu").seq_logp(chat, True, texts)
    assert f"are {first - second:.1f} nats apart under the reference: at any beta" in text
    excess = math.log(19) - (first - second)
    assert f"{excess:+.1f} ± " in text
    assert "No log-probabilities under the reference" not in text
    assert "next:" not in text


def test_text_and_reward_alone(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    draws = [number for numbers in trainer_files.draws().values() for number in numbers]
    rows = [{"text": trainer_files.TEXTS[number], "reward": trainer_files.reward(number)} for number in draws]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text, _ = diagnose(capsys, tmp_path, path)
    assert "No column with steps: the order of the rows stands for time." in text
    assert "No column with prompts: all completions count as those of one prompt." in text
    assert "No log-probabilities under the reference" in text
    assert "beta is not known" in text
    start, error = onset_in(text)
    assert abs(start / 16 - trainer_files.START) <= max(2 * error / 16, 12)


def test_text_alone(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n' * 50)
    text, _ = diagnose(capsys, tmp_path, path)
    assert "No rewards: which answers are good" in text


def test_hostile_text_is_escaped(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    hostile = "<script>document.title='owned'</script>"
    path.write_text((json.dumps({"prompt": hostile, "completion": hostile, "reward": 1.0, "step": 1}) + "\n") * 20)
    _, page = diagnose(capsys, tmp_path, path)
    assert hostile not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl: no such file or folder"),
        (["beta=1"], "FILE: must be given"),
        (["empty.jsonl"], "the file is empty"),
        (["empty.jsonl", "betta=1"], "betta: no such key"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, message):
    (tmp_path / "empty.jsonl").write_text("")
    done = run_module("llm.diagnose", *words, folder=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.endswith("...")]
    assert len(lines) == 1
    assert lines[0].startswith("llm.diagnose: ")


def test_embeddings_give_classes(monkeypatch):
    import torch

    from llm.evaluation import equivalence

    vectors = {"paris": [1.0, 0.0], "the city of paris": [0.95, 0.1], "rome": [0.0, 1.0]}

    class Fake:
        def __init__(self, name, device):
            assert name == "mine"

        def __call__(self, texts):
            return torch.tensor([vectors[text] for text in texts])

    monkeypatch.setattr(equivalence, "Embedder", Fake)
    rollouts = [Rollout(0, "q", text, 1.0) for text in ("Paris", "the city of Paris", "Rome")]
    names, classes = name_answers(rollouts, {"equivalence": "embedding", "embedder": "mine"})
    assert names == ["paris", "paris", "rome"]
    assert "at least 0.8 by mine" in classes
    assert name_answers(rollouts, {})[0] == ["paris", "the city of paris", "rome"]  # control


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="needs a browser: tools/services.sh installs chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_a_screen(tmp_path, capsys, width):
    diagnose(capsys, tmp_path, trainer_files.write_verl(tmp_path / "rollouts"), "use_kl_loss=true")
    with Page(tmp_path / "out" / "diagnosis.html", width=width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelectorAll('img.plot').length") == 2
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert page.evaluate("document.getElementById('finding').textContent").startswith("The answers collapse")
        assert not page.errors
        assert len(page.requests) == 1
