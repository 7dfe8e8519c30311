"""Batches: the order of prompts, the updates of a step, and the random numbers of completions."""

from unittest.mock import patch

import torch

from llm import batch as batch_module
from llm.batch import BatchSettings, Completions, draw_batch, plan_updates, prompt_index
from llm.inference.prompts import encode_chats

SMALL = ("group_size=4", "prompts_per_step=3", "max_new_tokens=4", "steps=3", "threads=null", "objective.beta=.1")


def test_each_epoch_has_its_own_permutation():
    epochs = [[prompt_index(0, 7, epoch * 7 + i) for i in range(7)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] != [prompt_index(1, 7, i) for i in range(7)]


def test_an_epoch_uses_every_group_once_in_its_own_order(make_config):
    settings = BatchSettings.from_config(make_config("prompts_per_step=7", "update.epochs=3", "update.minibatches=3"))
    updates = plan_updates(settings, step=4)
    assert len(updates) == 9
    assert updates == plan_updates(settings, step=4)
    for epoch in range(3):
        minibatches = updates[3 * epoch : 3 * epoch + 3]
        assert sorted(slot for minibatch in minibatches for slot in minibatch) == list(range(7))
        assert all(minibatch == sorted(minibatch) and len(minibatch) in (2, 3) for minibatch in minibatches)
    assert len({str(updates[3 * epoch : 3 * epoch + 3]) for epoch in range(3)}) == 3
    assert updates != plan_updates(settings, step=5)
    assert plan_updates(BatchSettings.from_config(make_config("prompts_per_step=7")), 0) == [list(range(7))]


def test_completions_of_the_reference_have_their_own_random_numbers(models, odd_length, make_config):
    options = (*SMALL, "objective.placement=reference", "objective.direction=forward")
    settings = BatchSettings.from_config(make_config(*options))
    batches = [draw_batch(settings, models, odd_length, step) for step in (0, 0, 1)]
    first, again, next_step = (batch.reference_uniforms for batch in batches)
    assert first.shape == (12, 4)
    assert torch.equal(first, again)
    assert not torch.equal(first, next_step)
    assert not torch.equal(first, batches[0].uniforms)
    settings = BatchSettings.from_config(make_config(*options, "reference_completions=2"))
    fewer = draw_batch(settings, models, odd_length, 0)
    assert torch.equal(fewer.reference_uniforms, first.view(3, 4, 4)[:, :2].reshape(6, 4))
    without = draw_batch(BatchSettings.from_config(make_config(*SMALL)), models, odd_length, 0)
    assert without.reference_uniforms is None


def test_the_ranks_parts_are_those_of_one_rank(models, odd_length, make_config):
    settings = BatchSettings.from_config(make_config(*SMALL, "prompts_per_step=5"))
    whole = draw_batch(settings, models, odd_length, step=2)
    parts = []
    for slots in (range(2), range(2, 5)):
        with patch.object(batch_module, "shard_range", lambda count, slots=slots: slots):
            parts.append(draw_batch(settings, models, odd_length, step=2))
    assert [chat for part in parts for chat in part.chats] == whole.chats
    assert torch.equal(torch.cat([part.uniforms for part in parts]), whole.uniforms)
    assert parts[1].local_prompts([0, 1, 3, 4]) == ([1, 2], 2)
    assert parts[0].local_prompts([0, 1, 3, 4]) == ([0, 1], 0)
    assert parts[1].local_prompts([1]) == ([], 1)
    assert whole.local_prompts([4, 2]) == ([4, 2], 0)


def test_completions_of_some_prompts_are_selected(completions):
    prompts, tokens, mask = completions
    selected = Completions(prompts, tokens, mask).select([1])
    assert torch.equal(selected.prompts.ids, prompts.ids[1:])
    assert torch.equal(selected.tokens, tokens[2:])
    assert torch.equal(selected.mask, mask[2:])


def test_a_batch_holds_the_tokens_of_its_chats(models, odd_length, make_config):
    batch = draw_batch(BatchSettings.from_config(make_config(*SMALL)), models, odd_length, step=0)
    expected = encode_chats(models.tokenizer, batch.chats)
    assert torch.equal(batch.prompts.ids, expected.ids)
    assert sorted(map(str, batch.chats)) == sorted(map(str, odd_length.prompts()))  # an epoch is three prompts
