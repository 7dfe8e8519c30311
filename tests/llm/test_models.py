"""Adapters, gradient checkpointing and a reference elsewhere: what they change, and what they must not."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from conf.schema.base import ConfigError
from core.objective import make_objective
from launch.engines.factory import make_engine
from llm import models as llm_models
from llm.batch import BatchSettings, draw_batch
from llm.inference.logprobs import completion_logp
from llm.inference.norms import fuse_rms_norms
from llm.inference.prompts import encode_chats, pad_completions
from llm.models import load_models, save_policy
from llm.train import make_learner, train_step

SMALL = ("group_size=6", "prompts_per_step=3", "max_new_tokens=6", "steps=3", "threads=null", "optimizer.lr=.01")
LORA = ("model.lora.rank=2", "model.lora.alpha=4")


@pytest.fixture
def folder(random_model, tokenizer, tmp_path):
    """A random model where `from_pretrained` finds it."""
    random_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def texts(tokenizer):
    """Prompts and completions: (prompts, tokens, mask)."""
    prompts = encode_chats(tokenizer, [[{"role": "user", "content": text}] for text in ("hi", "a longer one")])
    rows = [[9, 8, 7], [5], [50, 51, 52, 53, 54], [60, 61]]
    return prompts, *pad_completions(rows, tokenizer.pad_token_id)


def logp(model, texts):
    with torch.no_grad():
        return completion_logp(model, *texts)


def one_step(config, task):
    """A training step of what `load_models` gives; its models and what it reports."""
    models = load_models(config.model, config.seed)
    engine = make_engine("torch", models.policy, config.optimizer, config.steps)
    objective = make_objective(**config.objective_arguments())
    batch = draw_batch(BatchSettings.from_config(config), models, task, 0)
    return models, train_step(make_learner(config, task, models, engine), objective, batch, config.objective.beta)


def test_an_adapters_reference_is_the_base(folder, texts, two_letters, make_config):
    """One copy of the weights: the policy moves, and with its adapter off it is what it was, before and after."""
    config = make_config(*SMALL, *LORA, f"model.name_or_path={folder}")
    plain = AutoModelForCausalLM.from_pretrained(folder)
    untouched = logp(plain, texts)
    assert fuse_rms_norms(plain)
    base = logp(plain, texts)
    torch.testing.assert_close(base, untouched, rtol=0, atol=1e-5)
    models, result = one_step(config, two_letters.task)
    assert models.reference is None
    with models.as_reference(models.policy) as reference:
        assert torch.equal(logp(reference, texts), base)
    assert (logp(models.policy, texts) - base).abs().max() > 1e-3  # control: the step did something
    assert float(result.metrics["kl/reverse_nats"]) == pytest.approx(0.0, abs=1e-6)  # of the step before it was taken
    trained = {name for name, p in models.policy.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    before = load_models(config.model, config.seed).reference_hash()
    assert models.reference_hash() == before


def test_an_adapter_is_exported_merged_and_alone(folder, texts, two_letters, make_config, tmp_path):
    from peft import PeftModel

    config = make_config(*SMALL, *LORA, f"model.name_or_path={folder}")
    models, _ = one_step(config, two_letters.task)
    trained = logp(models.policy, texts)
    save_policy(models.policy, models.tokenizer, config.model, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert type(merged) is type(AutoModelForCausalLM.from_pretrained(folder))
    torch.testing.assert_close(logp(merged, texts), trained, atol=1e-5, rtol=1e-5)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter")
    torch.testing.assert_close(logp(adapted.get_base_model(), texts), trained, atol=1e-6, rtol=1e-6)
    base = logp(AutoModelForCausalLM.from_pretrained(folder), texts)
    assert (base - trained).abs().max() > 1e-3  # control


def test_an_adapter_depends_on_the_seed_and_names_layers(folder, make_config):
    config = make_config(*LORA, f"model.name_or_path={folder}")

    def first_weights(seed):
        policy = load_models(config.model, seed).policy
        return torch.cat([p.detach().flatten() for name, p in policy.named_parameters() if ".lora_A" in name])

    assert torch.equal(first_weights(0), first_weights(0))
    assert not torch.equal(first_weights(0), first_weights(1))
    for targets, message in (("nothing", "must name layers"), ("lm_head", "must leave out the output embedding")):
        bad = make_config(*LORA, f"model.lora.target_modules=[{targets}]", f"model.name_or_path={folder}")
        with pytest.raises(ConfigError, match=rf"^model\.lora\.target_modules: {message}"):
            load_models(bad.model)


def saved_bytes(model, texts):
    """Gradients, and the bytes that the forward pass keeps for the backward pass."""
    kept = []

    def keep(tensor):
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = completion_logp(model, *texts).sum()
    return torch.autograd.grad(value, list(model.parameters())), sum(kept)


def test_gradient_checkpointing_changes_memory_and_nothing_else(folder, texts, make_config):
    plain, again = (
        load_models(make_config(f"model.name_or_path={folder}", f"model.gradient_checkpointing={flag}").model).policy
        for flag in ("false", "true")
    )
    assert torch.equal(logp(plain, texts), logp(again, texts))
    (gradients, size), (others, smaller) = saved_bytes(plain, texts), saved_bytes(again, texts)
    for ours, theirs in zip(others, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert smaller < size / 3


def test_gradient_checkpointing_is_refused_where_it_would_lose_the_cache(
    build_model, tokenizer, tmp_path, make_config
):
    build_model("gpt2", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    options = (f"model.name_or_path={tmp_path}", "model.gradient_checkpointing=true")
    if not llm_models.supports_shared_prefix(AutoModelForCausalLM.from_pretrained(tmp_path).get_decoder()):
        with pytest.raises(ConfigError, match=r"^model\.gradient_checkpointing: must be false"):
            load_models(make_config(*options).model)


def test_compiled_decoding_is_refused_where_layers_gather_their_weights(make_config):
    with pytest.raises(ConfigError, match=r"^model\.compile_decoding: must be false with engine=zero3_offload"):
        make_config("model.compile_decoding=true", "engine=zero3_offload")
    assert make_config("model.compile_decoding=true", "engine=zero2").model.compile_decoding


@pytest.mark.gpu
def test_a_reference_on_the_cpu_is_read_on_the_gpu(folder, texts, make_config):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    config = make_config(f"model.name_or_path={folder}", "model.reference_on_cpu=true", "model.device=cuda")
    models = load_models(config.model)
    home = [(p.device.type, p.data_ptr()) for p in models.reference.parameters()]
    with models.as_reference(models.policy) as reference:
        assert {p.device.type for p in reference.parameters()} == {"cuda"}
        prompts, tokens, mask = texts
        moved = (type(prompts)(*(t.cuda() for t in prompts)), tokens.cuda(), mask.cuda())
        assert torch.equal(logp(reference, moved), logp(models.policy, moved))
    assert [(p.device.type, p.data_ptr()) for p in models.reference.parameters()] == home


def test_the_attention_implementation_is_the_one_asked_for(folder, make_config):
    for name in ("eager", "sdpa"):
        config = make_config(f"model.name_or_path={folder}", f"model.attention={name}").model
        assert load_models(config).policy.config._attn_implementation == name
    with pytest.raises(ConfigError, match=r"^model\.attention: must be one of"):
        make_config("model.attention=fast")
