"""The decoder that shares prompts and drops rows against the plain one, the training pass and transformers' own."""

import pytest
import torch

from llm.inference import decoder, sampling
from llm.inference.decoder import PackedDecoder, PaddedDecoder
from llm.inference.logprobs import completion_hidden
from llm.inference.prompts import Prompts
from llm.inference.sampling import sample

VOCAB = 40
EOS = torch.arange(30, 37)  # so many that rows, and groups, end at different times
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
    monkeypatch.setattr(decoder, "INITIAL_CAPACITY", 3)  # so that it has to grow
    plain = draw(model, prompts, PaddedDecoder)
    for group_leaves in (0.8, 1.0, 0.0):
        packed = draw(model, prompts, PackedDecoder, shrink=group_leaves)
        assert all(torch.equal(one, other) for one, other in zip(packed, plain, strict=True))
    lengths_drawn = plain.mask.sum(-1)
    assert plain.complete.any()
    assert len(lengths_drawn.unique()) > 5
    assert len({length.max().item() for length in lengths_drawn.view(3, -1)}) > 1  # a whole group left early


@pytest.mark.parametrize("group, length", [(1, 20), (3, 1), (5, 2)])
def test_single_completions_and_single_tokens(build_model, group, length):
    model, prompts = build_model("qwen3", VOCAB), make_prompts(3, 9, 1)
    packed, plain = (draw(model, prompts, kind, group, length) for kind in (PackedDecoder, PaddedDecoder))
    assert all(torch.equal(one, other) for one, other in zip(packed, plain, strict=True))


@torch.no_grad()
def distance_from_the_training_pass(model, meddle):
    """Largest difference of hidden states at any step, while rows leave unevenly; `meddle` sees the decoder."""
    prompts = make_prompts(3, 9, 1)
    lengths = torch.tensor([5, 2, 9, 1, 9, 3, 4, 4, 1, 1, 2, 1])  # the last group leaves early, whole
    tokens = torch.randint(VOCAB, (12, 9), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(9) < lengths.unsqueeze(-1)
    hidden = completion_hidden(model, prompts, tokens, mask)
    expected = torch.zeros(12, 9, 32).masked_scatter(mask.unsqueeze(-1), hidden)
    decoder = PackedDecoder(model.get_decoder(), prompts, 4, 9)
    rows, off = torch.arange(12), 0.0
    for t in range(9):
        stay = lengths[rows] > t
        if not stay.all() and t % 2 == 0:  # ended rows stay for a step, or leave at once
            decoder.keep(stay.nonzero().squeeze(-1))
            rows, stay = rows[stay], stay[stay]
        off = max(off, float((decoder.hidden - expected[rows, t])[stay].abs().max()))
        meddle(decoder)
        if t < 8:
            decoder.step(tokens[rows, t], stay)
    return off


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_those_of_the_training_pass(build_model, kind):
    assert distance_from_the_training_pass(build_model(kind, VOCAB), lambda decoder: None) < 1e-5


@pytest.mark.parametrize("what", ["positions", "slots", "prompts"])
def test_control_a_broken_decoder_is_noticed(build_model, what):
    def meddle(decoder):
        if what == "positions" and decoder.decoded == 1:
            decoder.position = decoder.position + 1
        elif what == "slots" and decoder.decoded == 2:
            decoder.slots = decoder.slots.flip(0)
        elif what == "prompts" and decoder.decoded == 0:
            decoder.invisible = None

    assert distance_from_the_training_pass(build_model("qwen3", VOCAB), meddle) > 1e-3


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_greedy_decoding_is_that_of_transformers(build_model, kind):
    """With logits so sharp that every uniform draws the largest."""
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
    assert len(greedy.unique(dim=0)) == 3  # control: prompts differ in what follows


def test_bfloat16_draws_complete_groups(build_model):
    model = build_model("qwen3", VOCAB).to(torch.bfloat16)
    packed, plain = (draw(model, make_prompts(3, 9, 1), kind) for kind in (PackedDecoder, PaddedDecoder))
    assert packed.mask[:, 0].all()
    assert (packed.tokens[:, 0] == plain.tokens[:, 0]).all()


@pytest.fixture
def graphs():
    """How many have been compiled since the test began."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    decoder.log_once.cache_clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["qwen3", pytest.param("gpt2", marks=pytest.mark.long)])
def test_compiled_steps_are_the_same_from_one_graph(build_model, graphs, kind, backend, monkeypatch):
    """Rows leave evenly and unevenly, prompts differ in length and end as a whole, and the room grows."""
    model, prompts = build_model(kind, VOCAB), make_prompts(3, 9, 1, 4)
    monkeypatch.setattr(decoder, "INITIAL_CAPACITY", 7)
    plain = draw(model, prompts, PackedDecoder)
    decoder.compile_decoding(model, backend)
    for _ in range(2):
        compiled = draw(model, prompts, PackedDecoder)
        assert all(torch.equal(one, other) for one, other in zip(compiled, plain, strict=True))
    assert graphs() == 1
    assert distance_from_the_training_pass(model, lambda decoder: None) < 1e-5
    assert graphs() == 2  # outside of inference mode it is another

    def meddle(decoder):  # control: what is compiled is what is read
        if decoder.decoded == 2:
            decoder.layers = {module: layer._replace(key=-layer.key) for module, layer in decoder.layers.items()}

    assert distance_from_the_training_pass(model, meddle) > 1e-3
    assert graphs() == 2


def test_a_step_that_cannot_be_compiled_is_said_once_and_read_as_before(build_model, graphs, capsys):
    model, prompts = build_model("qwen3", VOCAB), make_prompts(3, 9, 1)
    plain = draw(model, prompts, PackedDecoder)
    decoder.compile_decoding(model, "aot_eager")
    model.get_decoder().norm.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    for _ in range(2):
        drawn = draw(model, prompts, PackedDecoder)
        assert all(torch.equal(one, other) for one, other in zip(drawn, plain, strict=True))
    said = capsys.readouterr().out
    assert said.count("compiling the decoding step of Qwen3Model") == said.count("is not compiled: ") == 1
    assert graphs() == 0
