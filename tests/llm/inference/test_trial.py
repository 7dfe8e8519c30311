"""The trial that decides how a model is read: what it notices, what must not confuse it, what it says."""

import pytest
import torch

from conf.schema.base import ConfigError
from llm.inference import attention, decoder, trial
from llm.inference.decoder import PackedDecoder
from llm.inference.trial import supports_shared_prefix

from .plain import VOCAB, difference, make_completions, make_prompts
from .special_models import special_model, without

PLAIN = {
    "bloom": "its attention cannot be replaced",
    "llama4": "it scales queries by their index in the batch",
}


@pytest.fixture(autouse=True)
def forget_messages(monkeypatch):
    attention.log_once.cache_clear()
    monkeypatch.setattr(attention.console, "quiet", False)


def output_of(capsys):
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", PLAIN)
def test_other_models_use_the_plain_way_and_the_reason_is_logged_once(build_model, kind, capsys):
    model = special_model(kind) if kind == "llama4" else build_model(kind, VOCAB)
    body = attention.decoder_of(model)
    assert not supports_shared_prefix(body)
    assert not supports_shared_prefix(body)
    assert output_of(capsys).count(PLAIN[kind]) == 1
    value, grad = difference(model, make_prompts(3, 9, 1), *make_completions([3, 1, 7, 2, 7, 5, 4, 6, 1]))
    assert value < 1e-5
    assert grad < 1e-5


def test_layers_of_another_kind_use_the_plain_way(build_model, monkeypatch):
    body = build_model("bloom", VOCAB).get_decoder()
    monkeypatch.setattr(type(body), "_supports_attention_backend", True)
    body.config.layer_types = ["full_attention", "linear_attention"]
    assert trial._packed_fault(body) == "it has layers of linear_attention"


@pytest.mark.parametrize("kind", ["mistral", "phimoe", "gemma3"])
def test_a_window_is_tried_whatever_its_size(kind, monkeypatch):
    """The trial's rows are shorter than the window, which is shortened meanwhile."""
    body = special_model(kind, sliding_window=4096).get_decoder()
    monkeypatch.setattr(attention, "Rule", without("visible"))
    assert "differs from row by row" in trial._packed_fault(body)
    assert body.config.sliding_window == 4096
    monkeypatch.setattr(trial, "WINDOWS", {})  # control
    assert trial._packed_fault(body) is None


def test_decoding_is_tried(monkeypatch, capsys):
    """A cache for each module, where DiffLlama calls attention twice with one module, is right in a single pass."""
    step = PackedDecoder.step

    def share_by_module(self, tokens, running):
        self.layers = [self.layers[self.modules.index(module)] for module in self.modules]
        step(self, tokens, running)

    body = special_model("diffllama").get_decoder()
    assert trial._packed_fault(body) is None
    monkeypatch.setattr(PackedDecoder, "step", share_by_module)
    assert not supports_shared_prefix(body)
    assert "a trial of decoding differs from row by row" in output_of(capsys)


def test_rows_that_leave_and_prompts_of_unequal_length_are_tried(build_model, monkeypatch):
    body, keep = build_model("qwen3", VOCAB).get_decoder(), PackedDecoder.keep
    for change in ({"occupant": lambda old: old.flip(0)}, {"invisible": lambda old: None}):

        def broken_keep(self, rows, change=change):
            keep(self, rows)
            self.even = False
            for name, function in change.items():
                setattr(self, name, function(getattr(self, name)))

        monkeypatch.setattr(PackedDecoder, "keep", broken_keep)
        assert "a trial of decoding differs" in trial._packed_fault(body)


def test_an_error_in_the_trial_is_a_reason(build_model, monkeypatch):
    def fail(*_):
        raise ValueError("no such thing\nand more")

    monkeypatch.setattr(trial, "packed_hidden", fail)
    assert trial._packed_fault(build_model("qwen3", VOCAB).get_decoder()) == (
        "a trial raises ValueError: no such thing"
    )


@pytest.mark.parametrize("part", ["padded_hidden", "PaddedDecoder"])
def test_a_model_that_no_way_reads_correctly_is_refused_in_one_line(build_model, monkeypatch, part):
    def without_the_prompts(function):
        def changed(body, prompts, *others):
            return function(body, prompts._replace(ids=torch.zeros_like(prompts.ids)), *others)

        return changed

    model = build_model("bloom", VOCAB)
    assert not supports_shared_prefix(model.get_decoder())  # control: the plain way is right
    monkeypatch.setattr(trial, part, without_the_prompts(getattr(trial, part)))
    model = build_model("bloom", VOCAB)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"model\.name_or_path: BloomModel is not supported") as error:
            supports_shared_prefix(model.get_decoder())
        assert "\n" not in str(error.value)


def test_dropout_does_not_confuse_the_trial_and_training_goes_on(build_model):
    body = build_model("gpt2", VOCAB).get_decoder().train()
    body.h[0].eval()
    before = [module.training for module in body.modules()]
    assert supports_shared_prefix(body)
    assert [module.training for module in body.modules()] == before


def test_a_body_is_tried_once_and_without_the_compiled_step(build_model, monkeypatch):
    body, passes = build_model("qwen3", VOCAB).get_decoder(), []
    decoder._COMPILED[body] = lambda *_: pytest.fail("the compiled step was used")
    body.register_forward_hook(lambda *_: passes.append(1))
    assert supports_shared_prefix(body)
    count = len(passes)
    assert 0 < count < 12
    assert supports_shared_prefix(body)
    assert len(passes) == count
    assert body in decoder._COMPILED


def test_with_gradient_checkpointing_the_plain_way_is_used(build_model):
    body = build_model("qwen3", VOCAB).get_decoder().train()
    assert supports_shared_prefix(body)
    body.activation_checkpointing_enable()
    assert not supports_shared_prefix(body)
    with torch.no_grad():
        assert supports_shared_prefix(body)
