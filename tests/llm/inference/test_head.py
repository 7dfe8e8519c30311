"""How logits follow from hidden states: found by a trial, exact in bfloat16, and refused where it is otherwise."""

import pytest
import torch

from conf.schema.base import ConfigError
from llm.inference import head
from llm.inference.head import Form, body_of, head_of
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import Prompts, pad_completions
from llm.inference.sampling import sample_token

from ..architectures import build, shared_model
from .plain import plain_logp

FORMS = {
    "llama": Form(),
    "cohere": Form(scale=0.5),
    "granite": Form(scale=0.25),
    "gemma2": Form(cap=3.0),
    "nanochat": Form(cap=15.0),
    "minicpm3": Form(scale=0.25),  # before the embedding
    "falcon_h1": Form(scale=0.3),
    "phi": Form(),
    "recurrent_gemma": Form(cap=3.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FORMS)
def test_the_constants_are_found(name, dtype):
    model = build(name).to(dtype)
    found = head_of(model)
    assert found.scale == pytest.approx(FORMS[name].scale, rel=1e-6)
    assert found.cap == FORMS[name].cap
    assert (found.bias is not None) == (name == "phi")
    if dtype == torch.float32:
        ids = torch.arange(3, 9).unsqueeze(0)
        with torch.no_grad():
            hidden = body_of(model)(input_ids=ids, use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(found.logits(hidden), model(input_ids=ids).logits[0], rtol=1e-5, atol=1e-5)


def change_logits(model, change):
    """Apply a function to the logits in the model's forward pass."""
    forward = model.forward

    def changed(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = change(output.logits)
        return output

    model.forward = changed


def test_both_a_scale_and_a_cap():
    model = build("granite")
    change_logits(model, lambda logits: 3 * (logits / 3).tanh())
    assert head_of(model)[2:] == pytest.approx((0.25, 3.0), rel=1e-6)


def test_weights_that_change_later_are_used():
    model = build("phi")
    head_of(model)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
        model.lm_head.bias.add_(1)
    assert torch.equal(head_of(model).weight, model.lm_head.weight)
    assert torch.equal(head_of(model).bias, model.lm_head.bias)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: logits.relu(), "changed in another way"),
        (lambda logits: logits + 1, "changed in another way"),
        (lambda logits: logits.flip(-1), "changed in another way"),
    ],
)
def test_other_heads_are_refused(build_model, change, message):
    model = build_model("llama", 64)
    change_logits(model, change)
    with pytest.raises(ConfigError, match=rf"^model\.name_or_path: the logits must be [^\n]*{message}[^\n]*$"):
        head_of(model)


def test_hidden_states_that_are_transformed_are_refused():
    with pytest.raises(ConfigError, match="ModernBertDecoderForCausalLM: its last hidden states are changed before"):
        head_of(shared_model("modernbert-decoder"))


def test_the_body_is_found_where_transformers_gives_something_else():
    llama4 = shared_model("llama4_text")
    assert llama4.get_decoder() is llama4
    assert body_of(llama4) is llama4.model
    assert body_of(shared_model("llama")) is shared_model("llama").get_decoder()


def test_logits_of_bfloat16_weights_are_those_of_float64(build_model):
    """Scored and sampled alike; the head's own rounding was the largest error of a sequence's log-probability."""
    model = build_model("qwen3", 64).to(torch.bfloat16)
    prompts = Prompts(torch.tensor([[3, 4, 5]]), torch.ones(1, 3, dtype=torch.bool))
    generator = torch.Generator().manual_seed(0)
    tokens, mask = pad_completions(torch.randint(64, (4, 12), generator=generator).tolist(), 0)
    with torch.no_grad():
        ours = completion_logp(model, prompts, tokens, mask)
        ids = torch.cat([prompts.ids.expand(4, -1), tokens], 1)
        # The hidden states of the packed pass round differently from rows alone; the head is compared on its own.
        hidden = body_of(model)(input_ids=ids, use_cache=False).last_hidden_state[:, 2:-1].flatten(0, 1)
        exact = (hidden.double() @ model.lm_head.weight.double().T).log_softmax(-1)
        exact = exact.gather(-1, tokens.view(-1, 1)).squeeze(-1)
        errors = {
            "ours": head_of(model).logp(hidden, tokens.flatten()),
            "rounded": model.lm_head(hidden).float().log_softmax(-1).gather(-1, tokens.view(-1, 1)).squeeze(-1),
        }
        rms = {name: float((logp - exact).square().mean().sqrt()) for name, logp in errors.items()}
    assert rms["ours"] < 1e-5
    assert rms["rounded"] > 3e-4  # control
    assert (ours - plain_logp(model, prompts, tokens, mask)).abs().max() < 0.5

    hidden, n = 4 * hidden, 4000  # a sharper distribution
    with torch.no_grad():
        exact = (hidden.double() @ model.lm_head.weight.double().T).softmax(-1)
        rounded = model.lm_head(hidden).double().softmax(-1)
        row = int((rounded - exact).abs().amax(-1).argmax())
        uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        sampled = sample_token(head_of(model), hidden[row].expand(n, -1), uniform)
        share = torch.bincount(sampled, minlength=64) / n
    assert (share - exact[row]).abs().max() < 1 / n
    assert (share - rounded[row]).abs().max() > 4 / n  # control


def test_the_trial_leaves_no_hook_behind():
    model = build("gemma2")
    head_of(model)
    assert not model.lm_head._forward_hooks
    assert not model.lm_head._forward_pre_hooks
    assert not body_of(model)._forward_hooks
    assert model in head._FORMS
