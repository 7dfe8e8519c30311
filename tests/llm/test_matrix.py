"""Tiny models of every architecture against rows that the model itself reads one at a time."""

from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING

from conf.schema.base import ConfigError
from conf.schema.llm import LoraConfig
from core.sequence import inverse_cdf
from launch.analysis.marked_page import TABLE as MARKS
from launch.analysis.marked_page import read_marked
from llm.adapters import adapter_off, add_adapter
from llm.inference import head, logprobs, paths
from llm.inference.head import Form, body_of, head_of
from llm.inference.logprobs import completion_logp
from llm.inference.paths import EQUAL_LENGTHS, PADDED, path_of
from llm.inference.prompts import Prompts, pad_completions
from llm.inference.sampling import sample
from llm.models import check_adapter, enable_gradient_checkpointing, load_models
from tools.models_table import HEADER, row

from .architectures import ARCHITECTURES, VOCAB, build, kind_of, shared_model
from .inference.plain import plain_logp

TABLE = read_marked(Path(__file__).resolve().parents[2] / "docs/models.md", *MARKS)
PRESENT = [name for name in ARCHITECTURES if kind_of(name) in CONFIG_MAPPING]  # in the installed transformers
EOS = torch.arange(VOCAB - 12, VOCAB)
# One of each path and head, for what is slow.
SOME = ("qwen3", "bloom", "gemma2", "phi", "mamba", "qwen3_next", "minimax")
ALL = [name if name in SOME else pytest.param(name, marks=pytest.mark.long) for name in PRESENT]


def make_batch(prompt_lengths=(3, 9, 1), lengths=(3, 1, 7, 2, 6, 5)):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCAB, (len(prompt_lengths), max(prompt_lengths)), generator=generator)
    starts = max(prompt_lengths) - torch.tensor(prompt_lengths).unsqueeze(-1)
    prompts = Prompts(ids, torch.arange(max(prompt_lengths)) >= starts)
    return prompts, *pad_completions([torch.randint(VOCAB, (n,), generator=generator).tolist() for n in lengths], 0)


def difference(model, batch, plain_model=None):
    """Largest errors against the plain computation: of log-probabilities, and of gradients over the largest one."""
    mask = batch[2]
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(3)) * mask
    values, grads = [], []
    for logp_of, of_model in ((completion_logp, model), (plain_logp, plain_model or model)):
        parameters = [p for p in of_model.parameters() if p.requires_grad]
        logp = logp_of(of_model, *batch).float()
        values.append(logp.detach())
        grads.append(torch.autograd.grad((logp * weight).sum(), parameters, allow_unused=True))
    pairs = [(a, b) for a, b in zip(*grads, strict=True) if a is not None or b is not None]
    scale = max(b.abs().max() for _, b in pairs if b is not None)
    errors = [torch.zeros(()) if a is None else a for a, _ in pairs]
    grad_error = max(
        (a - (torch.zeros(()) if b is None else b)).abs().max() for a, (_, b) in zip(errors, pairs, strict=True)
    )
    return float((values[0] - values[1]).abs().max()), float(grad_error / scale)


def check_sampling(model, prompts, group=2, length=7):
    """Each sampled token is that of the model's own logits over its row, read alone."""
    size = len(prompts.ids) * group
    uniforms = torch.rand(size, length, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rollout = sample(model, prompts, uniforms, group_size=group, eos_ids=EOS, pad_id=0)
    for number, (tokens, mask) in enumerate(zip(rollout.tokens, rollout.mask, strict=True)):
        prompt, tokens = prompts.ids[number // group][prompts.mask[number // group]], tokens[mask]
        with torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, tokens])[None], use_cache=False).logits[0]
        expected = inverse_cdf(logits[len(prompt) - 1 : -1], uniforms[number, : len(tokens)])
        assert torch.equal(tokens, expected)
        assert len(tokens) == length or bool(torch.isin(tokens[-1], EOS))
    assert len(rollout.mask.sum(-1).unique()) > 1  # rows ended at different times


def test_the_page_has_every_architecture():
    assert TABLE.startswith(HEADER)
    assert [line.split(" | ")[1] for line in TABLE.removeprefix(HEADER).splitlines()] == list(ARCHITECTURES)


@pytest.mark.parametrize("name", PRESENT)
def test_an_architecture_equals_its_rows_alone(name):
    """Log-probabilities, gradients and sampled tokens; a refusal is one line. The page says which path is taken."""
    model = shared_model(name)
    line = row(name, model)
    assert line in TABLE, f"python -m tools.models_table docs/models.md: {line}"
    if "| refused |" in line:
        with pytest.raises(ConfigError, match=r"^model\.name_or_path: [^\n]*$"):
            completion_logp(model, *make_batch())
        return
    batch = make_batch()
    value, grad = difference(model, batch)
    assert value < 1e-5
    assert grad < 1e-5
    check_sampling(model, batch[0])


@pytest.mark.parametrize("name", ["mamba", "qwen3_next", "lfm2", "bamba"])
def test_control_padding_changes_a_recurrent_state(name, monkeypatch):
    """The path that was taken for all of these models before: a crash, or other values."""
    model = build(name)
    monkeypatch.setitem(paths._PATHS, body_of(model), PADDED)
    try:
        value, _ = difference(model, make_batch())
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError):
        return
    assert value > 1e-3


@pytest.mark.parametrize("name", ["gemma2", "phi", "granite", "gptj", "nanochat"])
def test_control_a_head_without_its_constants_has_other_values(name, monkeypatch):
    model = build(name)
    head_of(model)
    monkeypatch.setitem(head._FORMS, model, Form())
    if head_of(model).bias is not None:
        with_bias = head_of(model)
        monkeypatch.setattr(logprobs, "head_of", lambda model: with_bias._replace(bias=None))
    value, _ = difference(model, make_batch())
    assert value > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_a_saved_model_is_loaded(name, tokenizer, tmp_path, make_config):
    model = shared_model(name)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = make_config(f"model.name_or_path={tmp_path}").model
    if "| refused |" in row(name, model):
        with pytest.raises(ConfigError, match=r"^model\.name_or_path: [^\n]*$"):
            load_models(config)
        return
    models, batch = load_models(config), make_batch()
    with torch.no_grad():
        expected = plain_logp(model, *batch)
        for loaded in (models.policy, models.reference):
            assert (completion_logp(loaded, *batch) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", ALL)
def test_gradient_checkpointing_changes_nothing(name):
    model = build(name)
    if "| refused |" in row(name, model):
        return
    try:
        enable_gradient_checkpointing(model)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017 - not every model has layers that can be checkpointed
        return
    value, grad = difference(model, make_batch(), plain_model=shared_model(name))
    assert value < 1e-5
    assert grad < 1e-5


@pytest.mark.parametrize("name", ALL)
def test_an_adapter_trains_and_the_reference_is_the_model_without_it(name):
    model = build(name)
    if "| refused |" in row(name, model):
        return
    batch = make_batch()
    with torch.no_grad():
        before = plain_logp(model, *batch)
    adapter = LoraConfig(rank=2, alpha=2)
    try:
        add_adapter(model, adapter, seed=0)
        check_adapter(model, adapter)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017 - a router that returns a tuple, or no linear layers
        return
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, 0.1)
    value, grad = difference(model, batch)
    assert value < 1e-5
    assert grad < 1e-5
    with torch.no_grad(), adapter_off(model):
        assert (completion_logp(model, *batch) - before).abs().max() < 1e-5
    assert (completion_logp(model, *batch) - before).abs().max() > 1e-3  # control


@pytest.mark.long
@pytest.mark.parametrize("name", PRESENT)
def test_long_rows(name):
    """Rows of many windows and chunks."""
    model = shared_model(name)
    if "| refused |" in row(name, model):
        return
    lengths = (11, 24, 2) if name == "phi3-longrope" else (20, 45, 2)
    batch = make_batch(lengths, (8, 1, 5, 3, 8, 7) if name == "phi3-longrope" else (31, 1, 23, 8, 30, 17))
    value, grad = difference(model, batch)
    assert value < 2e-5
    assert grad < 2e-5
    check_sampling(model, batch[0], length=8)


@pytest.mark.long
@pytest.mark.parametrize("name", PRESENT)
def test_bfloat16_is_as_exact_as_rows_alone(name):
    """Both computations round; ours is not much further from float32 than the model's own is."""
    model, batch = build(name), make_batch()
    with torch.no_grad():
        exact = plain_logp(model, *batch)
        model.to(torch.bfloat16)
        if "| refused |" in row(name, model):
            return
        ours, plain = ((f(model, *batch) - exact).abs().mean() for f in (completion_logp, plain_logp))
    assert ours < 1.5 * plain + 1e-3


def test_rows_of_equal_prompts_leave_one_after_another(monkeypatch):
    """Prompts of one length share a cache; whole groups end."""
    model = build("mamba")
    assert path_of(body_of(model)) is EQUAL_LENGTHS
    monkeypatch.setattr("llm.inference.sampling.SHRINK", 1.0)
    check_sampling(model, make_batch((4, 9, 4, 1))[0], group=4, length=16)
