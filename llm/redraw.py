"""Dynamic sampling: groups whose rewards tie are drawn again, because their advantages are 0 (arXiv:2503.14476)."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import pad

from core.advantages import tied_groups
from launch.engines.distributed import gather_objects
from launch.runs.rng import rollout_uniforms, stream_seed
from llm.batch import Batch
from llm.inference.prompts import Prompts
from llm.inference.sampling import Rollout
from llm.models import Models
from llm.rewards import Reward, Scores
from llm.rollout.base import Sampler


class Drawn(NamedTuple):
    """This rank's completions of a step, p prompts with G each, and their rewards.

    rollout: p * G rows.
    texts: p * G.
    scores: of the texts.
    logp: as in `llm.rollout.base.Sampled`.
    redrawn: groups that were drawn again, of all ranks, each as often as it was.
    tied: groups of all ranks whose rewards still tie.
    """

    rollout: Rollout
    texts: list[str]
    scores: Scores
    logp: Tensor | None = None
    redrawn: int = 0
    tied: int = 0


@dataclass(frozen=True)
class Redraw:
    """Draws groups again until no rewards tie, at most `rounds` times.

    Attributes:
        models: decode.
        sampler: samples.
        reward: scores completions.
        seed: of the run; a completion depends on (seed, step, prompt, completion, round) only.
        rounds: largest number of draws of a group besides the first.
        drop_truncated: whether truncated completions count in no group.
    """

    models: Models
    sampler: Sampler
    reward: Reward
    seed: int
    rounds: int
    drop_truncated: bool

    def __call__(self, batch: Batch, drawn: Drawn) -> Drawn:
        """Return the completions with those of tied groups replaced. With several ranks, all of them call this.

        A rank without a tied group draws its first group as well, and drops it: all ranks sample and score together.
        """
        redrawn = 0
        for draw in range(1, self.rounds + 1):
            tied = self._tied(batch, drawn)
            total = sum(gather_objects(len(tied)))
            if not total:
                break
            redrawn += total
            new = self._draw(batch, tied or [0], draw)
            drawn = _with_groups(drawn, new, tied, batch.group_size, self.models.pad_id)
        return drawn._replace(redrawn=redrawn, tied=sum(gather_objects(len(self._tied(batch, drawn)))))

    def _tied(self, batch: Batch, drawn: Drawn) -> list[int]:
        """Indices of this rank's prompts whose rewards tie."""
        reward = drawn.scores.reward.view(len(batch.chats), batch.group_size)
        counted = reward.isfinite()
        if self.drop_truncated:
            counted = counted & drawn.rollout.complete.view(reward.shape).to(reward.device)
        return tied_groups(reward.nan_to_num(), counted).squeeze(-1).nonzero().flatten().tolist()

    def _draw(self, batch: Batch, prompts: list[int], draw: int) -> Drawn:
        """Draw new groups for some of this rank's prompts."""
        G, slots = batch.group_size, [batch.slots[index] for index in prompts]
        uniforms = rollout_uniforms(
            stream_seed(self.seed, "redraw", draw),
            batch.step,
            [slot for slot in slots for _ in range(G)],
            list(range(G)) * len(slots),
            batch.uniforms.shape[1],
        )
        chosen = Prompts(*(values[prompts] for values in batch.prompts))
        rollout, logp = self.sampler.sample(chosen, uniforms, G)
        texts = self.models.texts(rollout)
        return Drawn(rollout, texts, self.reward([batch.chats[i] for i in prompts for _ in range(G)], texts), logp)


def _with_groups(drawn: Drawn, new: Drawn, prompts: list[int], group_size: int, pad_id: int) -> Drawn:
    """The completions with those of some prompts replaced by the first ones of `new`."""
    rows = [index * group_size + i for index in prompts for i in range(group_size)]
    width = max(drawn.rollout.tokens.shape[1], new.rollout.tokens.shape[1])

    def replaced(old: Tensor, values: Tensor, fill: float | bool | None = None) -> Tensor:
        if fill is not None:
            old, values = (pad(t, (0, width - t.shape[1]), value=fill) for t in (old, values))
        old = old.clone()
        old[rows] = values[: len(rows)]
        return old

    texts = list(drawn.texts)
    for row, text in zip(rows, new.texts, strict=False):
        texts[row] = text
    scores = drawn.scores._replace(
        reward=replaced(drawn.scores.reward, new.scores.reward),
        parts={name: replaced(part, new.scores.parts[name]) for name, part in drawn.scores.parts.items()},
        failure=drawn.scores.failure or new.scores.failure,
    )
    rollout = Rollout(
        replaced(drawn.rollout.tokens, new.rollout.tokens, pad_id),
        replaced(drawn.rollout.mask, new.rollout.mask, False),
        replaced(drawn.rollout.complete, new.rollout.complete),
    )
    used = int(rollout.mask.sum(-1).max())
    logp = None if drawn.logp is None or new.logp is None else replaced(drawn.logp, new.logp, 0.0)[:, :used]
    return drawn._replace(
        rollout=rollout._replace(tokens=rollout.tokens[:, :used], mask=rollout.mask[:, :used]),
        texts=texts,
        scores=scores,
        logp=logp,
    )
