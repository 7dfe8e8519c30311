"""The packed decoder against the plain one, the training pass and transformers' own generation."""

import pytest
import torch

from core.sequence import inverse_cdf
from llm.inference import attention, decoder, sampling
from llm.inference.decoder import PackedDecoder
from llm.inference.logprobs import completion_hidden
from llm.inference.padded import PaddedDecoder
from llm.inference.prompts import Prompts
from llm.inference.sampling import sample

from .special_models import CONFIGS, special_model, without

VOCAB = 40
EOS = torch.arange(30, 37)  # many, so that rows and groups end at different times
KINDS = ("qwen3", "llama", "llama-bias", "gpt2", "gpt_neox", "qwen3_moe")


def make_prompts(*lengths):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCAB, (len(lengths), max(lengths)), generator=generator)
    return Prompts(ids, torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths).unsqueeze(-1))


def draw(model, prompts, kind, group=6, length=20, shrink=0.8):
    uniforms = torch.rand(
        len(prompts.ids) * group, length, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "make_decoder", kind)
        patch.setattr(sampling, "SHRINK", shrink)
        return sample(model, prompts, uniforms, group_size=group, eos_ids=EOS, pad_id=0)


@pytest.mark.parametrize("lengths", [(3, 9, 1), (4, 4, 4)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_uniforms_give_the_same_completions(build_model, kind, lengths, monkeypatch):
    model, prompts = build_model(kind, VOCAB), make_prompts(*lengths)
    monkeypatch.setattr(decoder, "INITIAL_CAPACITY", 3)  # so that the cache has to grow
    plain = draw(model, prompts, PaddedDecoder)
    for shrink in (0.8, 1.0, 0.0):
        packed = draw(model, prompts, PackedDecoder, shrink=shrink)
        assert all(torch.equal(a, b) for a, b in zip(packed, plain, strict=True))
    sampled_lengths = plain.mask.sum(-1)
    assert plain.complete.any()
    assert len(sampled_lengths.unique()) > 5
    assert len({length.max().item() for length in sampled_lengths.view(3, -1)}) > 1  # a whole group ended early


def tokens_that_differ(model, prompts, group=6, length=20):
    """How many sampled tokens are not those of their uniforms and of each row, read alone by the model."""
    sampled = draw(model, prompts, PackedDecoder, group, length)
    uniforms = torch.rand(
        len(sampled.tokens), length, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    wrong = 0
    for row, (tokens, mask) in enumerate(zip(sampled.tokens, sampled.mask, strict=True)):
        prompt = prompts.ids[row // group][prompts.mask[row // group]]
        with torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, tokens[mask]])[None], use_cache=False).logits[0]
        expected = inverse_cdf(logits[len(prompt) - 1 : -1], uniforms[row, : int(mask.sum())])
        wrong += int((expected != tokens[mask]).sum())
    return wrong


@pytest.mark.parametrize("group", [6, 1])
@pytest.mark.parametrize("kind", CONFIGS)
def test_tokens_are_those_of_each_row_alone(kind, group, monkeypatch):
    """Windows, chunks, sinks, capped scores, heads of two widths, and several calls of one module."""
    changes = {"attn_temperature_tuning": False} if kind == "llama4" else {}
    monkeypatch.setattr(decoder, "INITIAL_CAPACITY", 3)
    assert tokens_that_differ(special_model(kind, VOCAB, **changes), make_prompts(3, 9, 1), group) == 0


@pytest.mark.parametrize(
    ("kind", "field"), [("phimoe", "visible"), ("gemma3", "visible"), ("gemma2", "cap"), ("gpt_oss", "sink")]
)
def test_control_tokens_without_the_window_cap_or_sink_differ(kind, field, monkeypatch):
    monkeypatch.setattr(attention, "Rule", without(field))
    assert tokens_that_differ(special_model(kind, VOCAB), make_prompts(3, 9, 1)) > 5


@pytest.mark.parametrize("kind", ["diffllama"])
def test_control_one_cache_for_each_module_is_not_enough(kind, monkeypatch):
    step = PackedDecoder.step

    def share_by_module(self, tokens, running):
        self.layers = [self.layers[self.modules.index(module)] for module in self.modules]
        step(self, tokens, running)

    monkeypatch.setattr(PackedDecoder, "step", share_by_module)
    assert tokens_that_differ(special_model(kind, VOCAB), make_prompts(3, 9, 1)) > 5


def test_calls_of_attention_that_change_from_step_to_step_are_an_error():
    model = special_model("diffllama", VOCAB)
    with torch.no_grad():
        packed = PackedDecoder(model.get_decoder(), make_prompts(3, 1), 2, 4)
        packed.layers, packed.modules = packed.layers[:-1], packed.modules[:-1]
        with pytest.raises(attention.Unsupported):
            packed.step(torch.arange(4), torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize(("group", "length"), [(1, 20), (3, 1), (5, 2)])
def test_single_completions_and_single_tokens(build_model, group, length):
    model, prompts = build_model("qwen3", VOCAB), make_prompts(3, 9, 1)
    packed, plain = (draw(model, prompts, kind, group, length) for kind in (PackedDecoder, PaddedDecoder))
    assert all(torch.equal(a, b) for a, b in zip(packed, plain, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_prompt(build_model, kind):
    """Its heads need not lie in memory as those of several prompts."""
    model, prompts = build_model(kind, VOCAB), make_prompts(5)
    packed, plain = (draw(model, prompts, decoder) for decoder in (PackedDecoder, PaddedDecoder))
    assert all(torch.equal(a, b) for a, b in zip(packed, plain, strict=True))
    assert len(plain.tokens.unique(dim=0)) > 2  # control


@torch.no_grad()
def distance_from_training(model, before_step=lambda decoder: None):
    """Largest difference of hidden states at any step, while rows end unevenly. `before_step` gets the decoder."""
    prompts = make_prompts(3, 9, 1)
    lengths = torch.tensor([5, 2, 9, 1, 9, 3, 4, 4, 1, 1, 2, 1])  # the last group ends first
    tokens = torch.randint(VOCAB, (12, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(9) < lengths.unsqueeze(-1)
    hidden = completion_hidden(model, prompts, tokens, mask)
    expected = torch.zeros(12, 9, 32).masked_scatter(mask.unsqueeze(-1), hidden)
    decoder = PackedDecoder(model.get_decoder(), prompts, 4, 9)
    rows, distance = torch.arange(12), 0.0
    for t in range(9):
        running = lengths[rows] > t
        if not running.all() and t % 2 == 0:  # ended rows are dropped at once, or a step later
            decoder.keep(running.nonzero().squeeze(-1))
            rows, running = rows[running], running[running]
        distance = max(distance, float((decoder.hidden - expected[rows, t])[running].abs().max()))
        before_step(decoder)
        if t < 8:
            decoder.step(tokens[rows, t], running)
    return distance


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_those_of_the_training_pass(build_model, kind):
    assert distance_from_training(build_model(kind, VOCAB)) < 1e-5


@pytest.mark.parametrize("broken", ["positions", "slots", "prompts"])
def test_control_a_broken_decoder_is_noticed(build_model, broken):
    def break_decoder(decoder):
        if broken == "positions" and decoder.decoded == 1:
            decoder.position = decoder.position + 1
        elif broken == "slots" and decoder.decoded == 2:
            decoder.slots = decoder.slots.flip(0)
        elif broken == "prompts" and decoder.decoded == 0:
            decoder.invisible = None

    assert distance_from_training(build_model("qwen3", VOCAB), break_decoder) > 1e-3


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_greedy_decoding_is_that_of_transformers(build_model, kind):
    """With logits so large that every uniform samples the largest one."""
    model, prompts = build_model(kind, VOCAB), make_prompts(3, 9, 1)
    model.generation_config.update(eos_token_id=EOS.tolist(), pad_token_id=0)
    with torch.no_grad():
        norm = next(m for name, m in model.get_decoder().named_modules() if name in ("norm", "ln_f"))
        for parameter in norm.parameters():
            parameter.mul_(1e4)
    greedy = model.generate(
        input_ids=prompts.ids, attention_mask=prompts.mask, do_sample=False, max_new_tokens=20, use_cache=True
    )[:, prompts.ids.shape[1] :]
    ours = draw(model, prompts, PackedDecoder, group=2).tokens
    width = max(greedy.shape[1], ours.shape[1])
    ours, greedy = (torch.nn.functional.pad(t, (0, width - t.shape[1])) for t in (ours, greedy))
    assert torch.equal(ours, greedy.repeat_interleave(2, 0))
    assert len(greedy.unique(dim=0)) == 3  # control: the prompts have different continuations


def test_bfloat16_samples_complete_groups(build_model):
    model = build_model("qwen3", VOCAB).to(torch.bfloat16)
    packed, plain = (draw(model, make_prompts(3, 9, 1), kind) for kind in (PackedDecoder, PaddedDecoder))
    assert packed.mask[:, 0].all()
    assert (packed.tokens[:, 0] == plain.tokens[:, 0]).all()


@pytest.fixture
def graphs():
    """The number of graphs compiled since the test began."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    decoder.log_once.cache_clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["qwen3", pytest.param("gpt2", marks=pytest.mark.long)])
def test_compiled_steps_are_the_same_from_one_graph(build_model, graphs, kind, backend, monkeypatch):
    """Rows are dropped, prompts differ in length and are dropped as a whole, and the cache grows."""
    model, prompts = build_model(kind, VOCAB), make_prompts(3, 9, 1, 4)
    monkeypatch.setattr(decoder, "INITIAL_CAPACITY", 7)
    plain = draw(model, prompts, PackedDecoder)
    decoder.compile_decoding(model, backend)
    for _ in range(2):
        compiled = draw(model, prompts, PackedDecoder)
        assert all(torch.equal(a, b) for a, b in zip(compiled, plain, strict=True))
    assert graphs() == 1
    assert distance_from_training(model) < 1e-5
    assert graphs() == 2  # outside inference mode another graph is needed

    def break_decoder(decoder):  # control: the compiled step uses the decoder's cache
        if decoder.decoded == 2:
            decoder.layers = [layer._replace(key=-layer.key) for layer in decoder.layers]

    assert distance_from_training(model, break_decoder) > 1e-3
    assert graphs() == 2


def test_a_step_that_cannot_be_compiled_runs_uncompiled_and_is_logged_once(build_model, graphs, capsys):
    model, prompts = build_model("qwen3", VOCAB), make_prompts(3, 9, 1)
    plain = draw(model, prompts, PackedDecoder)
    decoder.compile_decoding(model, "aot_eager")
    model.get_decoder().norm.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    for _ in range(2):
        rollout = draw(model, prompts, PackedDecoder)
        assert all(torch.equal(a, b) for a, b in zip(rollout, plain, strict=True))
    output = capsys.readouterr().out
    assert output.count("compiling the decoding step of Qwen3Model") == output.count("is not compiled: ") == 1
    assert graphs() == 0


class CallAgain:
    """A recorder for the CPU: repeats the call, into the tensor of its first result."""

    def __init__(self):
        self.recorded, self.replayed = 0, 0

    def __call__(self, call):
        self.recorded += 1
        result = call()

        def replay():
            self.replayed += 1
            result.copy_(call())

        return replay, result


@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "mistral"])
def test_replayed_steps_are_the_same_from_one_recording_a_layout(build_model, kind, monkeypatch):
    """Rows are dropped, prompts differ in length and are dropped as a whole, and the cache grows."""
    model, prompts, record = build_model(kind, VOCAB), make_prompts(3, 9, 1, 4), CallAgain()
    monkeypatch.setattr(decoder, "INITIAL_CAPACITY", 7)
    plain = draw(model, prompts, PackedDecoder)
    decoder.replay_decoding(model, record)
    replayed = draw(model, prompts, PackedDecoder)
    assert all(torch.equal(a, b) for a, b in zip(replayed, plain, strict=True))
    assert 1 < record.recorded < record.replayed
    assert distance_from_training(model) < 1e-5

    def break_decoder(decoder):  # control: the recording reads the decoder's cache
        if decoder.decoded == 2:
            decoder.layers = [layer._replace(key=-layer.key) for layer in decoder.layers]

    assert distance_from_training(model, break_decoder) > 1e-3


def test_a_replay_reads_its_arguments_anew(build_model, monkeypatch):
    """Control: without the copies every token would be processed as the first one."""
    model, prompts = build_model("qwen3", VOCAB), make_prompts(3, 9)
    plain = draw(model, prompts, PackedDecoder)
    decoder.replay_decoding(model, CallAgain())
    monkeypatch.setattr(decoder.Replay, "__call__", lambda self, *arguments: (self.replay(), self.result)[1])
    assert not torch.equal(draw(model, prompts, PackedDecoder).tokens, plain.tokens)


def test_a_step_that_cannot_be_recorded_runs_as_it_is_and_is_logged_once(build_model, capsys):
    def refuse(call):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    decoder.log_once.cache_clear()
    model, prompts = build_model("qwen3", VOCAB), make_prompts(3, 9)
    plain = draw(model, prompts, PackedDecoder)
    decoder.replay_decoding(model, refuse)
    for _ in range(2):
        assert torch.equal(draw(model, prompts, PackedDecoder).tokens, plain.tokens)
    output = capsys.readouterr().out
    assert " ".join(output.split()).count("is not recorded: operation not permitted when stream is capturing") == 1


@pytest.mark.gpu
def test_a_recorded_step_on_a_gpu_samples_the_same_tokens(build_model):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    model = build_model("qwen3", VOCAB).cuda()
    prompts = type(make_prompts(3))(*(tensor.cuda() for tensor in make_prompts(3, 9, 1, 4)))
    plain = draw(model, prompts, PackedDecoder)
    decoder.replay_decoding(model)
    assert torch.equal(draw(model, prompts, PackedDecoder).tokens, plain.tokens)
    assert model.get_decoder() in decoder._RECORDERS  # it was recorded
