"""Sampling: each outcome as often as its probability, one row of uniforms per completion, and ends."""

import copy

import torch

from llm.inference.head import Head
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import Prompts, encode_chats, pad_completions
from llm.inference.sampling import Rollout, inverse_cdf, sample, sample_token
from llm.tasks.one_two import OneTwo

from ..helpers import user_chat


def test_inverse_cdf_samples_each_outcome_as_often_as_its_probability():
    logits = torch.tensor([0.3, -1.0, 2.0, -50.0, 0.0])
    n = 200_000
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n  # every quantile once
    outcomes = inverse_cdf(logits.expand(n, -1), uniform)
    share = torch.bincount(outcomes, minlength=5) / n
    torch.testing.assert_close(share, logits.softmax(-1), atol=2 / n, rtol=0)
    # Control: other logits give other shares.
    assert (share - (2 * logits).softmax(-1)).abs().max() > 0.1


def test_inverse_cdf_stays_in_range_and_off_impossible_outcomes():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, -1)
    edge = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert inverse_cdf(logits, edge).tolist() == [1, 3, 3]


@torch.no_grad()
def test_the_sampled_distribution_is_the_scored_one(build_model):
    """All two-token completions of an 8-token vocabulary: frequency on a grid of uniforms against exp(logp)."""
    model = build_model("qwen3", 8)
    for parameter in model.parameters():
        parameter.mul_(0.5)
    prompts = Prompts(torch.tensor([[3, 4, 5]]), torch.ones(1, 3, dtype=torch.bool))
    n = 96
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    uniforms = torch.cartesian_prod(grid, grid)
    eos = torch.tensor([1])
    rollout = sample(model, prompts, uniforms, group_size=len(uniforms), eos_ids=eos, pad_id=2)
    outcomes, counts = torch.unique(torch.cat([rollout.tokens, rollout.mask.long()], -1), dim=0, return_counts=True)
    tokens, mask = outcomes[:, :2], outcomes[:, 2:].bool()
    logp = completion_logp(model, prompts, tokens, mask).sum(-1)
    frequency = counts / len(uniforms)
    assert (frequency - logp.exp()).abs().max() < 2.5 / n
    assert abs(logp.exp().sum().item() - 1) < 0.02  # these are all outcomes
    # Control: scores at temperature 2 do not agree.
    assert (frequency - (logp / 2).softmax(-1)).abs().max() > 5 / n


def test_a_completion_depends_on_its_own_uniforms_alone(random_model, tokenizer):
    chats = [user_chat("hi"), user_chat("a longer one")]
    eos, pad = torch.tensor([tokenizer.eos_token_id]), tokenizer.pad_token_id
    uniforms = torch.rand(6, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = sample(random_model, encode_chats(tokenizer, chats), uniforms, group_size=3, eos_ids=eos, pad_id=pad)
    order = [2, 0, 1]
    alone = encode_chats(tokenizer, chats[1:])
    shuffled = sample(random_model, alone, uniforms[3:][order], group_size=3, eos_ids=eos, pad_id=pad)
    width = shuffled.tokens.shape[1]
    assert torch.equal(shuffled.tokens, both.tokens[3:][order][:, :width])
    assert not torch.equal(both.tokens[3], both.tokens[4])  # control: other uniforms, another completion


def test_completions_end_at_eos_or_at_the_limit(random_model, tokenizer):
    prompts = encode_chats(tokenizer, [user_chat("hi")])
    uniforms = torch.rand(64, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = sample(random_model, prompts, uniforms, group_size=64, eos_ids=torch.tensor([-1]), pad_id=0)
    assert not first.complete.any()
    assert first.mask.all()
    eos = torch.unique(first.tokens[:, 1])[:40]  # tokens that occur
    rollout = sample(random_model, prompts, uniforms, group_size=64, eos_ids=eos, pad_id=0)
    assert rollout.complete.any()
    assert not rollout.complete.all()
    ends = torch.isin(rollout.tokens, eos) & rollout.mask
    assert torch.equal(ends.any(-1), rollout.complete)
    assert bool((ends.sum(-1) <= 1).all())
    last = rollout.mask.sum(-1) - 1
    assert bool(ends[torch.arange(64), last][rollout.complete].all())


def test_chunks_of_rows_give_the_same_tokens(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(4, 50)
    head = Head(linear.weight, linear.bias, cap=2.0)
    hidden, uniform = torch.randn(7, 4, generator=generator), torch.rand(7, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        whole = sample_token(head, hidden, uniform)
        assert whole.tolist() == inverse_cdf(head.logits(hidden), uniform).tolist()
        monkeypatch.setattr("llm.inference.head.rows_per_chunk", lambda vocabulary: 3)
        assert torch.equal(sample_token(head, hidden, uniform), whole)


def rollout_of(rows, complete, pad):
    tokens, mask = pad_completions(rows, pad)
    return Rollout(tokens, mask, torch.tensor(complete))


def test_a_text_has_everything_but_the_token_that_ended_it(tokenizer):
    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    written = "<answer>1<|im_start|></answer>"
    rows = [ids(f"{written}<|im_end|>"), ids("<answer>2</answer><|endoftext|>"), ids("a<|im_end|>"), ids("b ,c .")]
    rollout = rollout_of(rows, [True, True, False, False], tokenizer.pad_token_id)
    assert rollout.texts(tokenizer) == [written, "<answer>2</answer>", "a<|im_end|>", "b ,c ."]
    assert OneTwo().rewards([[]] * 4, rollout.texts(tokenizer)) == [0.0, 1.0, 0.0, 0.0]
    dropped = tokenizer.batch_decode([row[:-1] for row in rows[:1]], skip_special_tokens=True)
    assert OneTwo().rewards([[]], dropped) == [1.0]  # control: without special tokens it would be an answer


def test_white_space_is_kept_by_a_tokenizer_that_cleans_up(tokenizer):
    cleaning = copy.deepcopy(tokenizer)
    cleaning.clean_up_tokenization_spaces = True
    rows = [cleaning("it 's here , n't", add_special_tokens=False)["input_ids"]]
    assert rollout_of(rows, [False], 0).texts(cleaning) == ["it 's here , n't"]


def test_without_a_stop_every_row_reaches_the_limit(random_model, tokenizer):
    prompts = encode_chats(tokenizer, [user_chat("hi")])
    uniforms = torch.rand(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    never = torch.tensor([], dtype=torch.long)
    rollout = sample(random_model, prompts, uniforms, group_size=8, eos_ids=never, pad_id=0)
    assert rollout.mask.all()
    assert not rollout.complete.any()
