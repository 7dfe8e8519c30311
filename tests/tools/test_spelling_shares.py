"""The measures of answers and spellings, by hand, by brute force and by sampling; the optima by direct search."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from llm.inference.prompts import encode_chats
from llm.inference.sampling import sample
from llm.tasks.texts import SPELT_QUESTIONS, SpeltQuestion
from llm.testbed.tiny_models import byte_tokenizer, tiny_model
from tools.spelling_shares import best_policies, main, measure, optimum, settings, spelling_logp


def log(*shares):
    return [torch.tensor(row, dtype=torch.float64).log() for row in shares]


REFERENCE = log([0.4, 0.1], [0.2, 0.1])  # two answers with two spellings each; .2 is wrong


def random_model(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen3Config(**sizes, num_key_value_heads=1, head_dim=16, vocab_size=len(tokenizer))
    model = Qwen3ForCausalLM(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model


def test_measures_by_hand():
    measures = measure(log([0.3, 0.3], [0.2, 0.1]), REFERENCE)
    assert measures["right"] == pytest.approx(0.9)
    assert measures["smallest"] == pytest.approx(1 / 3)
    assert measures["answers"] == pytest.approx(-(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3))
    assert measures["TV"] == pytest.approx((0.3 + 0.0) / 2)  # (.5, .5) beside (.8, .2), and the same phrasing
    second = -(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3)
    assert measures["spellings"] == pytest.approx((math.log(2) + second) / 2)
    assert measures["KL"] == pytest.approx(0.3 * math.log(0.3 / 0.4) + 0.3 * math.log(3) + 0.1 * math.log(0.5))
    same = measure(REFERENCE, REFERENCE)
    assert (same["TV"], same["KL"]) == (0, 0)


def test_spellings_are_scored_as_by_a_plain_forward_pass():
    """Spellings of one byte: the product of two next-token probabilities, without any of our packing."""
    tokenizer = byte_tokenizer()
    model = random_model(tokenizer)
    question = SpeltQuestion("q", "Say.", {"x": ("x", "y"), "z": ("z",)})
    scored = torch.cat(spelling_logp(model, tokenizer, question))
    prompt = encode_chats(tokenizer, [[{"role": "user", "content": "Say."}]]).ids
    with torch.no_grad():
        first = model(prompt).logits[0, -1].double().log_softmax(-1)
        expected = []
        for text in "xyz":
            token = tokenizer(text)["input_ids"]
            second = model(torch.cat([prompt, torch.tensor([token])], 1)).logits[0, -1].double().log_softmax(-1)
            expected.append(first[token[0]] + second[tokenizer.eos_token_id])
    torch.testing.assert_close(scored, torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert scored.std() > 0.1
    assert not torch.allclose(scored, first[tokenizer("xyz")["input_ids"]], atol=0.1)  # control: the end counts


@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("level", ["-", "sequence", "answer"])
def test_optima_maximise_their_objective(direction, level):
    """Exact optima: shares in closed form, and those of the other levels are far away."""
    transform = "identity" if level == "-" else "mara"
    target = [row.exp() for row in optimum(REFERENCE, transform, level, direction, 0.1)]
    right = sum(float(row.sum()) for row in target)
    expected = {
        "-": [[0.5, 0.125], [0.25, 0.125]],
        "sequence": [[0.25, 0.25], [0.25, 0.25]],
        "answer": [[0.4, 0.1], [1 / 3, 1 / 6]],
    }
    for row, values in zip(target, expected[level], strict=True):
        torch.testing.assert_close(row / right, torch.tensor(values, dtype=torch.float64))
    assert 0.9 < right < 1
    for other in set(expected) - {level}:
        assert not torch.allclose(target[0] / right, torch.tensor(expected[other][0], dtype=torch.float64), atol=0.01)


def test_the_command_prints_runs_means_and_optima(tmp_path, capsys, monkeypatch):
    """Policies that are their own reference: no distance to it; the table has a row for each run and setting."""
    tokenizer = byte_tokenizer()
    random_model(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        run = tmp_path / "sweep" / str(seed)
        run.mkdir(parents=True)
        (run / "policy").symlink_to(tmp_path / "base")
        (run / "config.yaml").write_text(
            f"seed: {seed}\nmodel: {{name_or_path: {tmp_path / 'base'}}}\n"
            "transform: {name: mara, level: answer, mass: group}\n"
            "objective: {direction: reverse, placement: reward, beta: 0.1}\n"
        )
    assert main([str(tmp_path / "sweep")]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    assert [row[:6] for row in rows[2:4]] == [["mara", "answer", "group", "reverse", "reward", s] for s in "01"]
    assert [row[-2:] for row in rows[2:4]] == [["0.000", "0.000"]] * 2
    assert rows[6][5] == "2"
    assert rows[6][-1] == "0.000 ± 0.000"
    assert rows[9][0] == "mara answer reverse beta=0.1"
    assert rows[9][2] == "1.386"
    assert rows[10][0] == "reference"


def test_settings_that_a_transform_does_not_use_are_dashes():
    objective = {"direction": "reverse", "placement": "reward"}
    config = {"transform": {"name": "mara", "level": "sequence", "mass": "remembered"}, "objective": objective}
    assert settings(config) == ("mara", "sequence", "-", "reverse", "reward")
    config["transform"] = {"name": "identity"}
    assert settings(config) == ("identity", "-", "-", "reverse", "reward")
    assert set(best_policies([REFERENCE], settings(config), 0.1)) == {"reference", "identity reverse beta=0.1"}


@pytest.mark.long
def test_exact_shares_are_those_of_samples():
    """2,000 completions of the tiny policy, each share of an answer within four standard errors."""
    folder, count = tiny_model("tiny_spellings"), 2_000
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    for question in SPELT_QUESTIONS:
        exact = [float(logp.exp().sum()) for logp in spelling_logp(model, tokenizer, question)]
        prompts = encode_chats(tokenizer, [[{"role": "user", "content": question.text}]])
        uniforms = torch.rand(count, 16)
        eos_ids = torch.tensor([tokenizer.eos_token_id])
        rollout = sample(model, prompts, uniforms, group_size=count, eos_ids=eos_ids, pad_id=tokenizer.pad_token_id)
        texts = rollout.texts(tokenizer)
        for share, spellings in zip(exact, question.spellings.values(), strict=True):
            drawn = sum(text in spellings for text in texts) / count
            assert abs(drawn - share) < 4 * math.sqrt(share * (1 - share) / count)
