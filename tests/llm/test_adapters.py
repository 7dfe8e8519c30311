"""Adapters: their reference is the base model, they are exported alone and merged, and they are loaded as models."""

import json
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from conf.schema.base import ConfigError
from core.objective import make_objective
from launch.engines.factory import make_engine
from llm.adapters import adapter_base, add_adapter, load_pretrained, load_tokenizer
from llm.batch import BatchSettings, draw_batch
from llm.ensemble import load_causal_model
from llm.inference.logprobs import completion_logp
from llm.inference.norms import fuse_rms_norms
from llm.models import load_models, save_policy
from llm.plan.settings import read_model_config
from llm.rewards import ModelReward
from llm.train import make_learner, train_step

SMALL = ("group_size=6", "prompts_per_step=3", "max_new_tokens=6", "steps=3", "threads=null", "optimizer.lr=.01")
LORA = ("model.lora.rank=2", "model.lora.alpha=4")


def logp(model, completions):
    with torch.no_grad():
        return completion_logp(model, *completions)


def step_of_loaded_models(config, task):
    """A training step of the models that `load_models` returns; the models and what the step reports."""
    models = load_models(config.model, config.seed)
    engine = make_engine("torch", models.policy, config.optimizer, config.steps)
    objective = make_objective(**config.objective_arguments())
    batch = draw_batch(BatchSettings.from_config(config), models, task, 0)
    return models, train_step(make_learner(config, task, models, engine), objective, batch, config.objective.beta)


def test_an_adapters_reference_is_the_base(model_folder, completions, odd_length, make_config):
    """One copy of the weights: the policy changes, and with its adapter off it computes what the base model does."""
    config = make_config(*SMALL, *LORA, f"model.name_or_path={model_folder}")
    plain = AutoModelForCausalLM.from_pretrained(model_folder)
    untouched = logp(plain, completions)
    assert fuse_rms_norms(plain)
    base = logp(plain, completions)
    torch.testing.assert_close(base, untouched, rtol=0, atol=1e-5)
    models, result = step_of_loaded_models(config, odd_length)
    assert models.reference is None
    with models.as_reference(models.policy) as reference:
        assert torch.equal(logp(reference, completions), base)
    assert (logp(models.policy, completions) - base).abs().max() > 1e-3  # control: the step changed the policy
    assert float(result.metrics["kl/reverse_nats"]) == pytest.approx(0.0, abs=1e-6)  # measured before the update
    trained = {name for name, p in models.policy.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    before = load_models(config.model, config.seed).reference_hash()
    assert models.reference_hash() == before


def test_an_adapter_is_exported_merged_and_alone(model_folder, completions, odd_length, make_config, tmp_path):
    from peft import PeftModel

    config = make_config(*SMALL, *LORA, f"model.name_or_path={model_folder}")
    models, _ = step_of_loaded_models(config, odd_length)
    trained = logp(models.policy, completions)
    save_policy(models.policy, models.tokenizer, config.model, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert type(merged) is type(AutoModelForCausalLM.from_pretrained(model_folder))
    torch.testing.assert_close(logp(merged, completions), trained, atol=1e-5, rtol=1e-5)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), tmp_path / "adapter")
    torch.testing.assert_close(logp(adapted.get_base_model(), completions), trained, atol=1e-6, rtol=1e-6)
    base = logp(AutoModelForCausalLM.from_pretrained(model_folder), completions)
    assert (base - trained).abs().max() > 1e-3  # control


def test_without_peft_the_error_says_what_to_install(random_model, make_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"^model\.lora\.rank: peft is not installed \(extra lora\): pip"):
        add_adapter(random_model, make_config(*LORA).model.lora, seed=0)


def test_an_adapter_depends_on_the_seed_and_names_layers(model_folder, make_config):
    config = make_config(*LORA, f"model.name_or_path={model_folder}")

    def first_weights(seed):
        policy = load_models(config.model, seed).policy
        return torch.cat([p.detach().flatten() for name, p in policy.named_parameters() if ".lora_A" in name])

    assert torch.equal(first_weights(0), first_weights(0))
    assert not torch.equal(first_weights(0), first_weights(1))
    for targets, message in (("nothing", "must name layers"), ("lm_head", "must not include the output embedding")):
        bad = make_config(*LORA, f"model.lora.target_modules=[{targets}]", f"model.name_or_path={model_folder}")
        with pytest.raises(ConfigError, match=rf"^model\.lora\.target_modules: {message}"):
            load_models(bad.model)


# --- an adapter as the model ---------------------------------------------------------------------------------


def save_random_adapter(base_folder, folder, kind="LoraConfig", auto_class=AutoModelForCausalLM, **options):
    """Save an adapter whose weights are far from 0, made by peft alone."""
    import peft

    if kind == "LoraConfig":
        options = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False} | options
    torch.manual_seed(7)
    config = getattr(peft, kind)(task_type=options.pop("task_type", "CAUSAL_LM"), **options)
    model = peft.get_peft_model(auto_class.from_pretrained(base_folder), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".modules_to_save." in name:
                parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def row_logp(model, completions):
    """Log-probability of each row, read alone without padding by the model's own forward: [4] nats."""
    prompts, tokens, mask = completions
    values = []
    for row in range(len(tokens)):
        prompt = prompts.ids[row // 2][prompts.mask[row // 2]]
        completion = tokens[row][mask[row]]
        with torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, completion]).unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
        values.append(logits.double().log_softmax(-1).gather(-1, completion.unsqueeze(-1)).sum())
    return torch.stack(values)


def adapted_model(base_folder, adapter):
    from peft import PeftModel

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), adapter).eval()


@pytest.mark.parametrize("own_lora", [(), LORA], ids=["all_weights", "with_lora_of_its_own"])
def test_an_adapter_is_a_model_for_policy_and_reference(
    own_lora, model_folder, completions, odd_length, make_config, tmp_path, capsys
):
    folder = save_random_adapter(model_folder, tmp_path / "theirs")
    expected = row_logp(adapted_model(model_folder, folder), completions)
    bare = row_logp(AutoModelForCausalLM.from_pretrained(model_folder), completions)
    assert ((expected - bare).abs() > 0.05).all()  # control: what the reference was
    config = make_config(*SMALL, *own_lora, f"model.name_or_path={folder}")
    models, result = step_of_loaded_models(config, odd_length)
    with models.as_reference(models.policy) as reference:
        torch.testing.assert_close(row_logp(reference, completions), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(logp(reference, completions).sum(-1).double(), expected, rtol=0, atol=1e-4)
    trained = row_logp(models.policy, completions)
    assert ((trained - expected).abs() > 1e-3).any()  # control: the step changed the policy
    assert float(result.metrics["kl/reverse_nats"]) == pytest.approx(0.0, abs=1e-5)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("is an adapter; it is merged into its base") == 1
    save_policy(models.policy, models.tokenizer, config.model, tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    torch.testing.assert_close(row_logp(saved, completions), trained, rtol=0, atol=1e-4)
    assert not (tmp_path / "policy" / "adapter_config.json").exists()
    if own_lora:  # the run's adapter/, whose base is an adapter again
        again = load_models(make_config(f"model.name_or_path={tmp_path / 'adapter'}").model)
        torch.testing.assert_close(row_logp(again.policy, completions), trained, rtol=0, atol=1e-4)


def test_every_reader_of_a_model_takes_an_adapter(model_folder, completions, tokenizer, tmp_path):
    folder = save_random_adapter(model_folder, tmp_path / "theirs")
    expected = row_logp(adapted_model(model_folder, folder), completions)
    torch.testing.assert_close(
        row_logp(load_causal_model("policy", folder), completions), expected, rtol=0, atol=1e-4
    )
    assert adapter_base(str(folder)) == str(model_folder)
    assert adapter_base(str(model_folder)) is None
    assert read_model_config("m", str(folder)) == read_model_config("m", str(model_folder))
    assert load_tokenizer(str(folder)).get_vocab() == tokenizer.get_vocab()
    own = AutoTokenizer.from_pretrained(model_folder)
    own.chat_template = "mine"
    own.save_pretrained(folder)
    assert load_tokenizer(str(folder)).chat_template == "mine" != load_tokenizer(str(model_folder)).chat_template


def test_a_reward_model_may_be_an_adapter_with_a_head_of_its_own(model_folder, tmp_path):
    from peft import PeftModel

    def base():
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=1)

    class Base:
        from_pretrained = staticmethod(lambda folder: base())

    folder = save_random_adapter(model_folder, tmp_path / "judge", auto_class=Base, task_type="SEQ_CLS")
    reward = ModelReward("reward.parts.q", str(folder), torch.device("cpu"), torch.float32, 4)
    chat, text = [{"role": "user", "content": "hi"}], "a long answer"
    theirs = PeftModel.from_pretrained(base(), folder).eval()
    ids = reward.tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": text}], return_dict=False)
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([ids])).logits.item()
        bare = base().eval()(input_ids=torch.tensor([ids])).logits.item()
    assert reward([chat], [text])[0] == pytest.approx(expected, abs=1e-4)
    assert abs(bare - expected) > 1e-2  # control
    with pytest.raises(ConfigError, match=r"got no weights for score\.weight"):  # control: a base without a head
        ModelReward("reward.parts.q", str(model_folder), torch.device("cpu"), torch.float32, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"use_dora": True},
        {"use_rslora": True, "target_modules": "all-linear"},
        {"kind": "LoHaConfig", "target_modules": ["q_proj"], "init_weights": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [False, True])
def test_other_adapters_are_right_or_refused(options, tied, random_model, tokenizer, completions, tmp_path):
    random_model.config.tie_word_embeddings = tied
    if tied:
        random_model.lm_head.weight = random_model.model.embed_tokens.weight
    random_model.save_pretrained(tmp_path / "base")
    folder = save_random_adapter(tmp_path / "base", tmp_path / "theirs", **options)
    expected = row_logp(adapted_model(tmp_path / "base", folder), completions)
    bare = row_logp(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), completions)
    assert ((expected - bare).abs() > 1e-3).any()
    model, missing = load_pretrained(AutoModelForCausalLM, str(folder))
    assert not missing
    torch.testing.assert_close(row_logp(model.eval(), completions), expected, rtol=0, atol=2e-4)
    model.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(row_logp(again, completions), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        (
            {"kind": "PromptTuningConfig", "num_virtual_tokens": 3},
            None,
            r"an adapter of type PROMPT_TUNING has no weights to merge",
        ),
        ({}, {"base_model_name_or_path": None}, r"must name the base of the adapter in base_model_name_or_path"),
        ({}, {"base_model_name_or_path": "SELF"}, r"its bases form a circle: "),
        ({}, {"base_model_name_or_path": "no/such"}, r"its base, no/such, cannot be loaded: "),
        ({}, {"target_modules": ["q_proj"]}, r"the adapter does not fit its base: 4 weights are in one but not"),
        ({}, {"r": 2}, r"the adapter cannot be merged: "),
        ({}, "adapter_model.safetensors", r"adapter_model\.safetensors cannot be read: "),
        ({}, "config.json", r"has both config\.json of a model and adapter_config\.json"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(options, change, message, model_folder, make_config, tmp_path):
    folder = save_random_adapter(model_folder, tmp_path / "theirs", **options)
    config = make_config(f"model.name_or_path={folder}")
    file = folder / "adapter_config.json"
    if isinstance(change, dict):
        content = json.loads(file.read_text()) | change
        file.write_text(json.dumps(content).replace("SELF", str(folder)))
    elif change is not None:
        (folder / change).unlink(missing_ok=True)
    if change == "config.json":
        (folder / change).write_text("{}")
    with pytest.raises(ConfigError, match=rf"^model\.name_or_path: must be .*, got {folder} \(.*{message}") as caught:
        load_models(config.model)
    assert "\n" not in str(caught.value)
