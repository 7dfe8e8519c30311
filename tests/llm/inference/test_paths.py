"""Which path a model takes: the first whose values, gradients and decoding are those of rows alone."""

import pytest
import torch

from conf.schema.base import ConfigError
from llm.inference import attention, paths
from llm.inference.decoder import PackedDecoder
from llm.inference.head import body_of
from llm.inference.padded import PaddedDecoder
from llm.inference.paths import EQUAL_LENGTHS, PACKED, PADDED, WHOLE_ROWS, make_decoder, path_of, reason_against
from llm.inference.prompts import Prompts
from llm.inference.whole_rows import EqualLengthDecoder, WholeRowDecoder

from ..architectures import build, shared_model

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
    path, decoder = PATHS[name]
    prompts = Prompts(torch.tensor([[3, 4]]), torch.ones(1, 2, dtype=torch.bool))
    for _ in range(2):
        assert path_of(body) is path
        assert type(make_decoder(body, prompts, 2, 3)) is decoder
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
