"""Which path a model takes: the first whose values, gradients and decoding are those of rows alone."""

import pytest
import torch

from conf.schema.base import ConfigError
from llm.inference import attention, decoder, paths
from llm.inference.decoder import PackedDecoder
from llm.inference.head import body_of
from llm.inference.padded import PaddedDecoder
from llm.inference.paths import (
    EQUAL_LENGTHS,
    PACKED,
    PADDED,
    WHOLE_ROWS,
    make_decoder,
    path_of,
    reason_against,
    unpacked_reason,
)
from llm.inference.prompts import Prompts
from llm.inference.whole_rows import EqualLengthDecoder, WholeRowDecoder

from ..architectures import build, shared_model
from .plain import VOCAB, difference, make_completions, make_prompts
from .special_models import special_model, without

PATHS = {
    "qwen3": (PACKED, PackedDecoder),
    "bloom": (PADDED, PaddedDecoder),
    "mamba": (EQUAL_LENGTHS, EqualLengthDecoder),
    "minimax": (WHOLE_ROWS, WholeRowDecoder),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_chosen_and_its_cost_is_said_once(name, capsys, monkeypatch):
    body = body_of(build(name))
    attention.log_once.cache_clear()
    monkeypatch.setattr(attention.console, "quiet", False)
    path, decoder_class = PATHS[name]
    prompts = Prompts(torch.tensor([[3, 4]]), torch.ones(1, 2, dtype=torch.bool))
    for _ in range(2):
        assert path_of(body) is path
        assert type(make_decoder(body, prompts, 2, 3)) is decoder_class
    output = " ".join(capsys.readouterr().out.split())
    for other, message in paths.MESSAGES.items():
        assert output.count(message) == (other is path)


def test_a_recurrent_model_is_not_padded_whatever_its_values():
    """In bfloat16 a trial could not tell; the kind of the cache can."""
    body = body_of(build("qwen3_next")).to(torch.bfloat16)
    assert reason_against(body, PADDED) == "its cache holds more than keys and values"
    assert path_of(body) is EQUAL_LENGTHS


def test_values_gradients_and_decoding_are_tried(monkeypatch):
    body = body_of(build("bloom"))
    assert reason_against(body, PADDED) is None

    def shifted(*batch):
        return PADDED.hidden(*batch) + 1e-2

    def without_gradient(*batch):
        hidden = PADDED.hidden(*batch)
        return hidden.detach() + 0 * hidden

    class Mistaken(PaddedDecoder):
        def keep(self, rows):
            super().keep(rows.flip(0))

    for path, what in (
        (PADDED._replace(hidden=shifted), "its hidden states differ"),
        (PADDED._replace(hidden=without_gradient), "its gradients differ"),
        (PADDED._replace(decoder=Mistaken), "its decoded hidden states differ"),
    ):
        assert what in reason_against(body, path)


def test_a_trial_in_inference_mode_leaves_a_model_that_trains():
    model = build("gemma2")
    with torch.inference_mode():
        assert path_of(body_of(model)) is not None
    model(input_ids=torch.arange(4)[None]).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "gpt_oss", "bloom", "lfm2"])
def test_rounding_to_bfloat16_changes_no_path(name):
    """Rounding is judged by that of a batch of rows; a mixture of experts may route a token otherwise."""
    assert path_of(body_of(build(name).to(torch.bfloat16))) is path_of(body_of(shared_model(name)))


def test_memory_that_runs_out_is_not_a_reason(monkeypatch):
    body = body_of(shared_model("bloom"))

    def too_large(*batch):
        raise torch.OutOfMemoryError("too large")

    with pytest.raises(torch.OutOfMemoryError, match="too large"):
        reason_against(body, PADDED._replace(hidden=too_large))


def test_models_that_look_ahead_are_refused(monkeypatch):
    """A model whose tokens see later ones agrees on no path; the message is one line."""
    model = build("bloom")
    body = body_of(model)
    model.transformer.ln_f.register_forward_hook(lambda module, args, output: output + output.mean(1, keepdim=True))
    with pytest.raises(
        ConfigError, match=r"^model\.name_or_path: BloomModel cannot be used, [^\n]*; use another model$"
    ):
        path_of(body)
    assert path_of(body_of(shared_model("bloom"))) is PADDED  # control


def output_of(capsys):
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def said(monkeypatch):
    attention.log_once.cache_clear()
    monkeypatch.setattr(attention.console, "quiet", False)


def fault(body, path=PACKED):
    """Why a path is wrong, with shortened windows as in the trial of a model."""
    with paths._evaluation(body), paths._changed(body, paths.WINDOWS):
        return reason_against(body, path)


@pytest.mark.parametrize(
    ("kind", "reason"), [("bloom", "cannot be replaced"), ("llama4", "by their index in the batch")]
)
def test_the_reason_for_another_path_is_said_once(build_model, kind, reason, capsys, said):
    model = special_model(kind) if kind == "llama4" else build_model(kind, VOCAB)
    body = body_of(model)
    assert path_of(body) is path_of(body) is not PACKED
    assert output_of(capsys).count(reason) == 1
    value, grad = difference(model, make_prompts(3, 9, 1), *make_completions([3, 1, 7, 2, 7, 5, 4, 6, 1]))
    assert value < 1e-5
    assert grad < 1e-5


def test_layers_of_another_kind_are_not_packed(build_model, monkeypatch):
    body = build_model("bloom", VOCAB).get_decoder()
    monkeypatch.setattr(type(body), "_supports_attention_backend", True)
    body.config.layer_types = ["full_attention", "linear_attention"]
    assert unpacked_reason(body) == "it has layers of linear_attention"


@pytest.mark.parametrize("kind", ["mistral", "phimoe", "gemma3"])
def test_a_window_is_tried_whatever_its_size(kind, monkeypatch):
    """The trial's rows are shorter than the window, which is shortened meanwhile."""
    body = special_model(kind, sliding_window=4096).get_decoder()
    assert fault(body) is None
    monkeypatch.setattr(attention, "Rule", without("visible"))
    assert "differ from those of rows read one at a time" in fault(body)
    assert body.config.sliding_window == 4096
    monkeypatch.setattr(paths, "WINDOWS", {})  # control
    assert fault(body) is None


def test_decoding_is_tried_with_repeated_calls(monkeypatch):
    """A cache for each module, where DiffLlama calls attention twice with one module, is right in a single pass."""
    step = PackedDecoder.step

    def share_by_module(self, tokens, running):
        self.layers = [self.layers[self.modules.index(module)] for module in self.modules]
        step(self, tokens, running)

    body = special_model("diffllama").get_decoder()
    assert fault(body) is None
    monkeypatch.setattr(PackedDecoder, "step", share_by_module)
    assert "its decoded hidden states differ" in fault(body)
    assert path_of(body) is not PACKED


def test_rows_that_leave_and_prompts_of_unequal_length_are_tried(build_model, monkeypatch):
    body, keep = build_model("qwen3", VOCAB).get_decoder(), PackedDecoder.keep
    for change in ({"occupant": lambda old: old.flip(0)}, {"invisible": lambda old: None}):

        def broken_keep(self, rows, change=change):
            keep(self, rows)
            self.even = False
            for name, function in change.items():
                setattr(self, name, function(getattr(self, name)))

        monkeypatch.setattr(PackedDecoder, "keep", broken_keep)
        assert "its decoded hidden states differ" in fault(body)


def test_an_error_in_the_trial_is_a_reason(build_model):
    def fail(*_):
        raise ValueError("no such thing\nand more")

    body = build_model("qwen3", VOCAB).get_decoder()
    assert fault(body, PACKED._replace(hidden=fail)) == "a trial raises ValueError: no such thing"


def test_dropout_does_not_confuse_the_trial_and_training_goes_on(build_model):
    body = build_model("gpt2", VOCAB).get_decoder().train()
    body.h[0].eval()
    before = [module.training for module in body.modules()]
    assert path_of(body) is PACKED
    assert [module.training for module in body.modules()] == before


def test_a_body_is_tried_once_and_without_the_compiled_step(build_model):
    body, passes = build_model("qwen3", VOCAB).get_decoder(), []
    decoder._COMPILED[body] = lambda *_: pytest.fail("the compiled step was used")
    body.register_forward_hook(lambda *_: passes.append(1))
    assert path_of(body) is PACKED
    count = len(passes)
    assert 0 < count < 20
    assert path_of(body) is PACKED
    assert len(passes) == count
    assert body in decoder._COMPILED
