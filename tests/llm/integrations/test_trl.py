"""MARA in TRL's trainer: the gradient of a step against core's, refused options, and the 1-2 task end to end."""

import copy
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason="needs the extra trl")

from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback

from core.objective import make_objective
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import encode_chats, pad_completions
from llm.integrations.trl import ALLOWED, MaraGRPOConfig, MaraGRPOTrainer

from ..helpers import user_chat

ROOT = Path(__file__).parents[3]
GROUP, LENGTH, BETA = 8, 22, 0.3
CHATS = [user_chat("one or two"), user_chat("a longer question: 1 or 2?")]
CPU = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
MARA = {"mara_beta": BETA, "mara_threshold": 0.8}
IDENTITY = {"transform": "identity", "transform_options": {}, "threshold": {"kind": "constant", "value": 0.8}}
QUANTILE = {"mara_threshold": None, "mara_quantile": 0.6, "mara_floor": 0.1}


def reward_of(ids):
    """A number that depends on the tokens; None, which excludes the completion, for one in seven."""
    return None if sum(ids) % 7 == 0 else sum(ids) % 3 / 2


class OneStep(TrainerCallback):
    """Records the completions of a step and the gradients of its update."""

    def __init__(self):
        self.prompts, self.ids, self.gradients = [], [], {}

    def reward(self, prompts, completion_ids, **_):
        self.prompts, self.ids = prompts, completion_ids
        return [reward_of(ids) for ids in completion_ids]

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def perturbed(folder):
    """The tiny model with perturbed weights, so that it differs from its reference on disk."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    return model


def one_step(folder, tokenizer, out, options, **arguments):
    """A training step of two micro-batches, each with completions of both groups."""
    args = MaraGRPOConfig(
        output_dir=str(out),
        num_generations=GROUP,
        per_device_train_batch_size=GROUP,
        gradient_accumulation_steps=2,
        max_completion_length=LENGTH,
        max_steps=1,
        max_grad_norm=0.0,
        gradient_checkpointing=False,
        **CPU,
        **options,
    )
    record = OneStep()
    trainer = MaraGRPOTrainer(
        perturbed(folder),
        record.reward,
        args,
        train_dataset=Dataset.from_list([{"prompt": chat} for chat in CHATS]),
        processing_class=copy.deepcopy(tokenizer),
        callbacks=[record],
        **arguments,
    )
    trainer.train()
    return record, trainer


def core_gradient(folder, tokenizer, record, objective, beta, truncated):
    """The gradient of core's loss on the same completions, with the log-probabilities of llm."""
    policy, reference = perturbed(folder).eval(), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = encode_chats(tokenizer, record.prompts[::GROUP])
    tokens, mask = pad_completions(record.ids, tokenizer.pad_token_id)
    complete = torch.tensor([ids[-1] == tokenizer.eos_token_id for ids in record.ids]).view(-1, GROUP)
    rewards = [reward_of(ids) for ids in record.ids]
    valid = torch.tensor([reward is not None for reward in rewards]).view(-1, GROUP)
    reward = torch.tensor([reward or 0.0 for reward in rewards]).view(-1, GROUP)
    assert not complete.all()
    assert (complete & valid & (reward > 0.8)).any()
    assert (~complete & valid & (reward > 0.8)).any()  # it would be good if it were complete
    shape = (-1, GROUP, tokens.shape[1])
    with torch.no_grad():
        ref_logp = completion_logp(reference, prompts, tokens, mask).view(shape)
    policy_logp = completion_logp(policy, prompts, tokens, mask).view(shape)
    counted = valid & complete if truncated == "drop" else valid
    loss, metrics = objective.loss(
        reward, policy_logp, ref_logp, mask.view(shape), beta=beta, valid=counted, complete=complete
    )
    loss.backward()
    return {name: p.grad for name, p in policy.named_parameters()}, metrics


def distance(ours, theirs):
    """Relative distance over all parameters."""
    assert ours.keys() == theirs.keys()
    difference = sum((ours[name] - theirs[name]).square().sum() for name in ours).sqrt()
    return float(difference / sum(value.square().sum() for value in theirs.values()).sqrt())


@pytest.mark.parametrize(
    "options",
    [
        MARA,
        MARA | {"importance_sampling_level": "sequence", "mara_direction": "forward"} | QUANTILE,
        MARA | {"mask_truncated_completions": True, "mara_direction": "forward"},
    ],
    ids=["reverse", "forward, quantile", "forward, truncated dropped"],
)
def test_the_gradient_of_a_step_is_that_of_core(tiny_folder, tokenizer, tmp_path, options):
    record, trainer = one_step(tiny_folder, tokenizer, tmp_path, options)
    arguments = trainer.args.objective_arguments()
    truncated = "drop" if options.get("mask_truncated_completions") else "keep"

    def expected(beta=BETA, **changes):
        objective = make_objective(**arguments | changes)
        return core_gradient(tiny_folder, tokenizer, record, objective, beta, truncated)

    gradient, metrics = expected()
    assert distance(record.gradients, gradient) < 5e-6
    logged = {name: value for row in trainer.state.log_history for name, value in row.items()}
    for name, value in metrics.items():
        assert logged[name] == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    assert 0 < logged["mara/good_share"] < 1
    assert logged[f"kl/{arguments['direction']}_nats"] != 0
    assert "kl" not in logged  # TRL's own, in the loss

    # Controls: another beta, no MARA, division by the standard deviation, the other treatment of truncation.
    controls = [expected(beta=2 * BETA), expected(**IDENTITY), expected(advantage="group_normalised")]
    for other, _ in controls:
        assert distance(record.gradients, other) > 1e-3
    truncated = "keep" if truncated == "drop" else "drop"
    assert distance(record.gradients, expected()[0]) > 1e-3


def test_with_lora_the_reference_is_the_base(tiny_folder, tokenizer, tmp_path):
    peft = pytest.importorskip("peft", reason="needs the extra lora")
    record, trainer = one_step(
        tiny_folder, tokenizer, tmp_path, MARA, peft_config=peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    )
    assert trainer.ref_model is None
    assert all("lora" in name for name in record.gradients)
    logged = {name: value for row in trainer.state.log_history for name, value in row.items()}
    assert logged["kl/reverse_nats"] == pytest.approx(0, abs=1e-6)  # an adapter starts at zero
    assert max(float(g.abs().max()) for g in record.gradients.values()) > 0


REFUSED = {
    "beta": 0.1,
    "scale_rewards": "group",
    "multi_objective_aggregation": "normalize_then_sum",
    "loss_type": "dapo",
    "num_iterations": 2,
    "entropy_coef": 0.01,
    "use_adaptive_entropy": True,
    "top_entropy_quantile": 0.2,
    "off_policy_mask_threshold": 0.5,
    "sync_ref_model": True,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 50,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "generation_kwargs": {"min_new_tokens": 4},
    "steps_per_generation": 2,
    "delta": 0.5,
    "mara_beta": 0.0,
    "mara_threshold": None,
    "mara_quantile": 0.5,
    "mara_floor": 0.1,
    "mara_direction": "sideways",
    "mara_algorithm": "3",
    "mara_max_log_weight": 5.0,
}


def test_without_a_number_the_weights_have_the_cap_of_core(tmp_path):
    legal = {"output_dir": str(tmp_path), **CPU, **MARA, "mara_direction": "forward"}
    for given, cap in ((None, "auto"), (5.0, 5.0), (float("inf"), None)):
        arguments = MaraGRPOConfig(**legal, mara_max_log_weight=given, mara_reward_range=3.0).objective_arguments()
        assert (arguments["max_log_weight"], arguments["reward_range"]) == (cap, 3.0)


@pytest.mark.parametrize("key", REFUSED)
def test_options_that_change_the_optimum_are_refused_by_name(tmp_path, key):
    legal = {"output_dir": str(tmp_path), **CPU, **MARA}
    MaraGRPOConfig(**legal)  # control
    other_names = {"mara_beta": "beta", "mara_quantile": "mara_threshold", "mara_direction": "direction"}
    name = other_names.get(key, key.removeprefix("mara_"))
    with pytest.raises(ValueError, match=rf"{name}.*got") as refusal:
        MaraGRPOConfig(**legal | {key: REFUSED[key]})
    assert "\n" not in str(refusal.value)


def test_every_refused_key_of_trl_is_tested():
    assert ALLOWED.keys() <= REFUSED.keys()


def test_the_trainer_checks_its_configuration_again(tiny_folder, tmp_path):
    from trl import GRPOConfig

    data = Dataset.from_list([{"prompt": chat} for chat in CHATS])
    for args in (None, GRPOConfig(str(tmp_path), **CPU)):
        with pytest.raises(ValueError, match="args: must be a MaraGRPOConfig, got"):
            MaraGRPOTrainer(str(tiny_folder), OneStep().reward, args, train_dataset=data)
    args = MaraGRPOConfig(str(tmp_path), **CPU, **MARA)
    args.scale_rewards = "group"
    with pytest.raises(ValueError, match=r"scale_rewards: must be 'none' with MARA .*got 'group'"):
        MaraGRPOTrainer(str(tiny_folder), OneStep().reward, args, train_dataset=data)


def test_without_trl_the_import_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "llm.integrations.trl")
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ImportError, match=r"^llm\.integrations\.trl needs TRL: pip install 'mara-rl\[trl\]'$"):
        importlib.import_module("llm.integrations.trl")


def guide_script():
    script = re.search(r"```python\n(.*?)```", (ROOT / "docs/trl.md").read_text(), re.DOTALL).group(1)
    assert len(script.splitlines()) <= 30
    return script


def run_guide(folder, *changes):
    """Run the guide's script with some text replaced; returns its output."""
    script = guide_script()
    for old, new in changes:
        assert old in script
        script = script.replace(old, new)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment.pop(
        "LOCAL_RANK", None
    )  # an engine in an earlier test may have set it; accelerate would then expect several ranks
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rarer_share(folder, tokenizer):
    """The probability of the rarer right answer over that of both."""
    from llm.tasks.texts import ONE_TWO_PROMPT

    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = tokenizer([f"<answer>{n}</answer>" for n in (1, 2)], add_special_tokens=False)["input_ids"]
    tokens, mask = pad_completions([[*ids, tokenizer.eos_token_id] for ids in answers], tokenizer.pad_token_id)
    with torch.no_grad():
        logp = completion_logp(policy, encode_chats(tokenizer, [user_chat(ONE_TWO_PROMPT)]), tokens, mask)
    share = logp.sum(-1).exp()
    assert share.sum() > 0.7  # most completions are correct
    return float(share.min() / share.sum())


def test_the_guide_runs(tiny_folder, tmp_path):
    out = run_guide(tmp_path, ("max_steps=60", "max_steps=1"))
    assert "mara/good_share" in out
    assert "kl/reverse_nats" in out
    assert out.splitlines()[-1].startswith("Counter(")
    assert (tmp_path / "policy" / "model.safetensors").exists()


FORWARD = (('"reverse"', '"forward"'), ("1.5e-3", "7e-4"))
VANILLA = (
    "trainer.train()",
    "from core.objective import make_objective\n"
    f"trainer.objective = make_objective(**args.objective_arguments() | {IDENTITY})\n"
    "trainer.train()",
)


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "balanced"),
    [((), True), (FORWARD, True), ((VANILLA,), False)],
    ids=["reverse", "forward", "without MARA"],
)
def test_the_guide_balances_the_one_two_task(tiny_folder, tokenizer, tmp_path, changes, balanced):
    run_guide(tmp_path, *changes)
    share = rarer_share(tmp_path / "policy", tokenizer)
    print(f"share of the rarer answer: {share:.3f}")
    assert share >= 0.35 if balanced else share < 0.25
