"""MARA in a reward function of OpenRLHF: its rewards, and the expected gradient of OpenRLHF's own loss with them.

The tests that call OpenRLHF need it on the path:

    pip install --no-deps --target trainers openrlhf==0.11.2
    python -m pytest -o "pythonpath=. trainers" tests/core/integrations/test_openrlhf.py
"""

import asyncio
import textwrap
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers")

from benchmarks.kl_conformance.openrlhf_trainer import OpenRLHF
from benchmarks.kl_conformance.problem import all_sequences, expected_gradient, random_logits
from benchmarks.kl_conformance.stand_ins import load
from core.classes import PromptClasses
from core.integrations.openrlhf import MaraReward, PromptFacts
from core.targets import reverse_kl_target
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import Prompts, pad_completions

needs_openrlhf = pytest.mark.skipif(find_spec("openrlhf") is None, reason="openrlhf is not on the path")
BETA, END = 0.1, "<|im_end|>"
PROMPT = "<|im_start|>user\none or two<|im_end|>\n<|im_start|>assistant\n"


def digit(prompt, completion, label):
    return float(completion in label)


def make(folder, **settings):
    arguments = {"beta": BETA, "threshold": 0.8, "max_new_tokens": 24, "reference_samples": 32, **settings}
    return MaraReward(digit, reference=str(folder), **arguments)


ANSWERS = ["<answer>1</answer>", "<answer>2</answer>"]


@pytest.fixture(scope="module")
def function(tiny_folder):
    return make(tiny_folder)


def test_the_reward_is_that_of_algorithm_1_with_the_references_anchor(function, tokenizer):
    queries = [f"{PROMPT}{text}{END}" for text in (*ANSWERS, "nothing")]
    result = function(queries, [PROMPT] * 3, [ANSWERS] * 3)
    prompt = torch.tensor([tokenizer(PROMPT, add_special_tokens=False)["input_ids"]])
    rows = [tokenizer(query[len(PROMPT) :], add_special_tokens=False)["input_ids"] for query in queries]
    tokens, mask = pad_completions(rows, tokenizer.pad_token_id)
    with torch.no_grad():
        logp = completion_logp(
            function.model,
            Prompts(prompt.expand(3, -1), torch.ones(3, prompt.shape[1], dtype=torch.bool)),
            tokens,
            mask,
        ).sum(-1)
    torch.testing.assert_close(result["extra_logs"]["mara_ref_seq_logp"], logp, rtol=1e-4, atol=1e-4)
    assert result["scores"].tolist() == [1.0, 1.0, 0.0]
    assert result["extra_logs"]["mara_good"].tolist() == [1.0, 1.0, 0.0]
    difference = result["rewards"][1] - result["rewards"][0]
    torch.testing.assert_close(difference, BETA * (logp[0] - logp[1]), rtol=1e-3, atol=1e-4)
    assert abs(float(difference)) > 0.05  # control: the reference prefers one of them
    assert result["rewards"][2] == 0.0


def test_a_truncated_completion_is_never_good(function):
    cut = function([f"{PROMPT}{ANSWERS[0]}"], [PROMPT], [ANSWERS])
    assert (cut["scores"], cut["rewards"], cut["extra_logs"]["mara_good"]) == (1.0, 1.0, 0.0)


def test_the_references_completions_are_the_same_in_every_process(function, tiny_folder):
    other = make(tiny_folder)
    torch.manual_seed(9)
    query = f"{PROMPT}{ANSWERS[0]}{END}"
    assert other([query], [PROMPT], [ANSWERS])["rewards"] == function([query], [PROMPT], [ANSWERS])["rewards"]
    (facts,), (same,) = function.facts.values(), other.facts.values()
    assert facts == same
    assert facts.anchor is not None
    assert make(tiny_folder, seed=1)._prompt_facts(PROMPT, ANSWERS) != facts  # control


def test_answers_are_counted_among_the_references_completions(tiny_folder):
    function = make(tiny_folder, level="answer", answer=lambda text: text[8:9], reference_samples=64)
    queries = [f"{PROMPT}{text}{END}" for text in ANSWERS]
    rewards = function(queries, [PROMPT] * 2, [ANSWERS] * 2)["rewards"]
    (facts,) = function.facts.values()
    masses = [facts.classes.log_mass(name) for name in ("1", "2")]
    torch.testing.assert_close(float(rewards[1] - rewards[0]), BETA * (masses[0] - masses[1]), rtol=1e-5, atol=1e-6)
    assert max(float(reward) for reward in rewards) > min(float(reward) for reward in rewards)
    assert rewards.min() == 1.0  # the answer with the largest mass is the anchor


def test_without_a_good_completion_the_first_one_that_is_seen_is_the_anchor(function):
    facts = PromptFacts(0.8, PromptClasses(estimates=10))
    assert function.transform(facts, 0.2, -1.0, "", True) == (0.2, False)
    assert function.transform(facts, 1.0, -3.0, "", True) == (1.0, True)
    shaped, good = function.transform(facts, 1.0, -5.0, "", True)
    assert good
    assert shaped == pytest.approx(1.0 + BETA * 2.0)


REFUSED = {
    "direction": "forward",
    "quantile": 0.5,
    "mass": "remembered",
    "anchor": "group",
    "beta": 0.0,
    "reference_samples": 0,
    "level": "answer",
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_a_reward_cannot_do_is_refused(tmp_path, key):
    with pytest.raises(ValueError, match="answer" if key == "level" else key) as error:
        make(tmp_path / "no model is loaded before", **{key: REFUSED[key]})
    assert "\n" not in str(error.value)


def test_an_error_is_also_printed(function, capsys):
    with pytest.raises(ValueError, match="must start with their prompt"):
        function(["other"], [PROMPT], [ANSWERS])
    assert capsys.readouterr().err.startswith("mara: reward_func: ValueError: queries: must start with their prompt")


# --- with OpenRLHF -------------------------------------------------------------------------------------------


@needs_openrlhf
def test_openrlhf_reads_the_function_from_a_file(tiny_folder, tokenizer, tmp_path):
    """Its single-turn executor, with an engine that answers with given tokens."""
    (agent,) = load("openrlhf", "utils.agent")
    (tmp_path / "reward.py").write_text(
        textwrap.dedent(f"""
        from core.integrations.openrlhf import MaraReward

        def digit(prompt, completion, label):
            return float(completion in label)

        reward_func = MaraReward(digit, reference={str(tiny_folder)!r}, beta={BETA}, threshold=0.8, max_new_tokens=24,
                                 reference_samples=32)
        """)
    )
    executor = agent.SingleTurnAgentExecutor([str(tmp_path / "reward.py")])
    ids = tokenizer(f"{ANSWERS[1]}{END}", add_special_tokens=False)["input_ids"]

    class Engine:
        async def generate(self, *_, **__):
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)])

    parameters = SimpleNamespace(max_tokens=24, logprobs=None)
    output = asyncio.run(executor.execute(PROMPT, ANSWERS, parameters, 200, tokenizer, Engine()))
    expected = make(tiny_folder)([f"{PROMPT}{ANSWERS[1]}{END}"], [PROMPT], [ANSWERS])
    assert torch.tensor([output["reward"]]) == expected["rewards"]  # as it is made into a tensor there
    assert torch.tensor([output["scores"]]) == expected["scores"]
    assert output["extra_logs"]["mara_good"] == 1.0


SEQUENCES = all_sequences(2, 3)
POLICY, REFERENCE = random_logits(SEQUENCES, 0, 0.8), random_logits(SEQUENCES, 1, 0.8)
REWARD = torch.tensor([0.2, 1.0, 1.0, 0.0], dtype=torch.float64)


@needs_openrlhf
def test_the_expected_gradient_is_that_of_the_objective_of_mara(function):
    ref_logp = SEQUENCES.seq_logp(REFERENCE)
    facts = PromptFacts(0.9, PromptClasses(estimates=1), (1.0, float(ref_logp[1:3].max())))
    shaped = torch.tensor(
        [
            function.transform(facts, raw, logp, "", True)[0]
            for raw, logp in zip(REWARD.tolist(), ref_logp.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )
    target = reverse_kl_target(ref_logp, shaped, BETA)
    torch.testing.assert_close(target[1], target[2])  # the good completions are equally likely at the optimum

    trainer = OpenRLHF()

    def exact(reward):
        logits = POLICY.detach().requires_grad_()
        logp = SEQUENCES.seq_logp(logits)
        value = (logp.exp() * (reward - BETA * (logp - ref_logp))).sum()
        return -torch.autograd.grad(value, logits)[0]

    def loss(batch):
        return trainer.reward_kl(batch, estimator="k1", adv_estimator="rloo", loss_agg_mode="token-mean")

    ours = expected_gradient(SEQUENCES, loss, POLICY, REFERENCE, reward=shaped, beta=BETA, group=2)
    torch.testing.assert_close(ours, exact(shaped), rtol=1e-9, atol=1e-12)
    assert float((ours - exact(REWARD)).norm() / ours.norm()) > 1e-3  # control: without MARA
