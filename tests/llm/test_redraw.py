"""Groups whose rewards tie are drawn again, the same ones on any number of ranks."""

from unittest.mock import patch

import torch

from launch.engines.factory import make_engine
from llm.batch import BatchSettings, draw_batch
from llm.inference.sampling import sample
from llm.redraw import Drawn
from llm.train import make_learner

from .helpers import one_step

SMALL = ("group_size=3", "prompts_per_step=6", "max_new_tokens=6", "steps=3", "threads=null")


def test_groups_whose_rewards_tie_are_drawn_again(models, odd_length, make_config):
    """Exactly the tied groups are replaced, by completions of a stream of their own; the others stay."""
    plain, *_ = one_step(models, odd_length, make_config(*SMALL))
    tied = [len(set(row)) == 1 for row in plain.reward.tolist()]
    assert 1 < sum(tied) < 6
    once, *_ = one_step(models, odd_length, make_config(*SMALL, "update.redraw=1"))
    assert int(once.metrics["redraw/groups"]) == sum(tied)
    for p in range(6):
        assert (plain.texts[3 * p : 3 * p + 3] == once.texts[3 * p : 3 * p + 3]) == (not tied[p])
    still = sum(len(set(row)) == 1 for row in once.reward.tolist())
    assert int(once.metrics["redraw/tied_groups"]) == still
    assert 0 < still <= sum(tied)
    often, *_ = one_step(models, odd_length, make_config(*SMALL, "update.redraw=40"))
    assert all(len(set(row)) == 2 for row in often.reward.tolist())
    assert int(often.metrics["redraw/tied_groups"]) == 0
    again, *_ = one_step(models, odd_length, make_config(*SMALL, "update.redraw=40"))
    assert again.texts == often.texts
    assert "redraw/groups" not in plain.metrics
    assert often.reward.flatten().tolist() == [odd_length.reward([], text) for text in often.texts]


def test_ranks_draw_the_same_groups_again(models, odd_length, make_config):
    """Each rank's completions are those of one rank; a rank without a tied group takes part and changes nothing."""
    config = make_config(*SMALL, "update.redraw=3")
    settings, engine = BatchSettings.from_config(config), make_engine("torch", models.policy, config.optimizer, 3)

    def drawn(slots, others):
        with patch("llm.batch.shard_range", lambda count: slots):
            batch = draw_batch(settings, models, odd_length, step=1)
        rollout = sample(models.policy, batch.prompts, batch.uniforms, group_size=3, **models.ends())
        learner = make_learner(config, odd_length, models, engine)
        texts = models.texts(rollout)
        scores = learner.reward([chat for chat in batch.chats for _ in range(3)], texts)
        with patch("llm.redraw.gather_objects", lambda value: [value, *others]):
            assert learner.redraw is not None
            return learner.redraw(batch, Drawn(rollout, texts, scores)), texts

    (whole, first), (left, _), (right, _) = drawn(range(6), []), drawn(range(3), [1]), drawn(range(3, 6), [1])
    assert left.texts + right.texts == whole.texts != first
    assert torch.equal(torch.cat([left.scores.reward, right.scores.reward]), whole.scores.reward)
    done, _ = drawn(range(6), [1])
    assert done.texts == whole.texts
    assert done.redrawn == whole.redrawn + 3
