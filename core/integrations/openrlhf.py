"""MARA in OpenRLHF, through its reward function: a file with `reward_func`, given as `--reward.remote_url FILE.py`.

    from mara.integrations.openrlhf import MaraReward

    def right(prompt, completion, label):
        return float(completion.strip() == label)

    reward_func = MaraReward(right, reference="FOLDER_OR_HUB_NAME", beta=0.03, threshold=0.8)

OpenRLHF calls the function with one completion at a time, as text, and passes on no log-probabilities and no group.
So the reference scores the completion here. What MARA compares a completion with is taken, once for each prompt, from
completions of the reference that are sampled here as well: the anchor, the masses of answers, a threshold. The reward
is that of Algorithm 1 under reverse KL; OpenRLHF itself subtracts the KL term, with `--algo.kl.init_coef` as beta. No
module of OpenRLHF is imported.
"""

import math
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..classes import Masses, PromptClasses
from ..mara import Anchor, quantile_threshold, reaches
from ..transforms import mara
from .estimator import MaraSettings, prompt_key

try:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from .model_files import decode, find_stops
except ModuleNotFoundError as error:
    if error.name not in ("transformers", "jinja2"):
        raise
    raise ImportError(f"{__name__}: {error.name} is not installed: pip install transformers jinja2") from None

Reward = Callable[[str, str, Any], float]  # (prompt, completion, label) -> reward


@dataclass
class PromptFacts:
    """What a prompt's rewards are compared with; constant over the run.

    Attributes:
        threshold: lowest good reward.
        classes: masses of the good answers, and the likeliest good sequence, among the reference's completions.
        anchor: reward and log mass of the anchor; None until a good completion has been seen.
    """

    threshold: float
    classes: PromptClasses = field(default_factory=PromptClasses)
    anchor: tuple[float, float] | None = None


class MaraReward:
    """A `reward_func` for OpenRLHF.

    Args:
        reward: the raw reward of one completion, from the prompt, the completion's text and the data set's label.
        reference: folder or hub name of the reference, the model that training starts from.
        answer: the answer that a completion gives, from its text; needed with level="answer".
        max_new_tokens: of the reference's completions; as `--rollout.max_new_tokens`.
        device: of the reference.
        dtype: of the reference.
        seed: of the reference's completions, which are the same in every process.
        batch_size: of the reference's completions.
        **settings: fields of `MaraSettings`: beta, threshold or reference_quantile, floor, level, reference_samples.

    Raises:
        ValueError: a setting is out of range, or needs what OpenRLHF does not pass to a reward function.
    """

    def __init__(
        self,
        reward: Reward,
        *,
        reference: str,
        answer: Callable[[str], str] | None = None,
        max_new_tokens: int = 1024,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        batch_size: int = 16,
        **settings: Any,
    ) -> None:
        self.settings = checked_settings(settings)
        if self.settings.level == "answer" and answer is None:
            raise ValueError(
                "answer: must be given with level='answer', a function that returns the answer of a completion"
            )
        self.reward, self.answer = reward, answer
        self.max_new_tokens, self.seed, self.batch_size = max_new_tokens, seed, batch_size
        self.tokenizer: Any = AutoTokenizer.from_pretrained(reference, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(reference, dtype=dtype, trust_remote_code=False)
        self.model = model.to(device).eval().requires_grad_(False)
        self.ends = find_stops(self.tokenizer, model.config, model.generation_config).ids
        self.model.generation_config = GenerationConfig()  # so that nothing but temperature 1 shapes the samples
        self.facts: dict[str, PromptFacts] = {}
        self._lock = threading.Lock()  # OpenRLHF calls from several threads

    def __call__(self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
        """Rewards as OpenRLHF reads them: `rewards` after MARA, `scores` before, and figures for its log.

        Args:
            queries: prompts with their completions, as text with special tokens.
            prompts: the prompts.
            labels: of the data set.
        """
        try:
            with self._lock:
                rows = [self._one(*values) for values in zip(queries, prompts, labels, strict=True)]
        except Exception as error:  # OpenRLHF logs an exception at a low level and goes on without a reward
            print(f"mara: reward_func: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            raise
        raw, shaped, ref_seq_logp, good = (torch.tensor(column) for column in zip(*rows, strict=True))
        logs = {"mara_good": good.float(), "mara_ref_seq_logp": ref_seq_logp}
        return {"rewards": shaped, "scores": raw, "extra_logs": logs}

    def _one(self, query: str, prompt: str, label: Any) -> tuple[float, float, float, bool]:
        """Raw reward, reward of MARA, log-probability under the reference, and whether the completion is good."""
        prompt_ids = self._ids(prompt)
        start = query if not prompt_ids else decode(self.tokenizer, [prompt_ids])[0]
        if not query.startswith(start):
            raise ValueError(f"queries: must start with their prompt, got {query[:60]!r} for {prompt[:60]!r}")
        ids = self._ids(query[len(start) :])
        text, complete = self._text(ids)
        raw = float(self.reward(prompt, text, label))
        if not math.isfinite(raw):
            raise ValueError(f"reward: must be finite, got {raw} for {text[:60]!r}")
        ref_seq_logp = float(self.seq_logp(prompt_ids, [ids])[0])
        facts = self.facts.get(prompt_key(prompt))
        if facts is None:
            facts = self.facts[prompt_key(prompt)] = self._prompt_facts(prompt, label)
        shaped, good = self.transform(facts, raw, ref_seq_logp, self._label(text), complete)
        return raw, shaped, ref_seq_logp, good

    def transform(
        self, facts: PromptFacts, raw: float, ref_seq_logp: float, answer: str, complete: bool
    ) -> tuple[float, bool]:
        """The reward of Algorithm 1 with the prompt's constant anchor, and whether the completion is good."""
        good = complete and bool(reaches(raw, facts.threshold))
        if not good:
            return raw, False
        mass = facts.classes.log_mass(answer) if self.settings.level == "answer" else ref_seq_logp
        if facts.anchor is None:
            facts.anchor = (raw, mass)
        columns = [torch.tensor([value], dtype=torch.float64) for value in (raw, ref_seq_logp, mass, *facts.anchor)]
        reward, ref, mass_logp, anchor_reward, anchor_mass = columns
        shaped = mara(
            reward,
            ref,
            beta=self.settings.beta or 0.0,
            threshold=facts.threshold,
            direction="reverse",
            masses=Masses(mass_logp, Anchor(anchor_reward, anchor_mass)),
        )
        return float(shaped.reward[0]), True

    def seq_logp(self, prompt: Sequence[int], rows: Sequence[Sequence[int]]) -> Tensor:
        """[N] log-probabilities of completions of one prompt under the reference, at temperature 1, nats."""
        longest = max(map(len, rows))
        device, pad = self.model.device, self.ends[0] if self.ends else 0
        ids = torch.tensor([[*prompt, *row, *[pad] * (longest - len(row))] for row in rows], device=device)
        mask = torch.arange(longest, device=device) < torch.tensor([[len(row)] for row in rows], device=device)
        with torch.no_grad():
            logits = self.model(input_ids=ids, use_cache=False).logits[:, len(prompt) - 1 : -1].float()
        logp = logits.log_softmax(-1).gather(-1, ids[:, len(prompt) :].unsqueeze(-1)).squeeze(-1)
        return logp.masked_fill(~mask, 0.0).sum(-1)

    def _prompt_facts(self, prompt: str, label: Any) -> PromptFacts:
        """Threshold, masses and anchor from completions of the reference; the same ones in every process."""
        prompt_ids, settings = self._ids(prompt), self.settings
        rows = self._sample(prompt_ids, int(prompt_key(prompt)[:8], 16) ^ self.seed)
        texts, complete = zip(*(self._text(row) for row in rows), strict=True)
        reward = torch.tensor([float(self.reward(prompt, text, label)) for text in texts], dtype=torch.float64)
        usable = torch.tensor(complete) & reward.isfinite()
        threshold = settings.threshold
        if threshold is None:
            threshold = float(quantile_threshold(reward, settings.reference_quantile or 0.0, settings.floor, usable))
        facts = PromptFacts(threshold)
        good = [i for i, is_good in enumerate((usable & reaches(reward, threshold)).tolist()) if is_good]
        labels, rewards = [self._label(texts[i]) for i in good], [float(reward[i]) for i in good]
        facts.classes.add(labels, [0.0] * len(good), rewards, samples=1)  # each completion of the reference weighs 1
        facts.classes.estimates = len(rows)
        if settings.level == "answer" and good:
            facts.anchor = facts.classes.largest()
        elif good:
            logp = [float(self.seq_logp(prompt_ids, [rows[i]])[0]) for i in good]
            facts.classes.add_sequences(logp, rewards)
            facts.anchor = facts.classes.anchor
        return facts

    def _sample(self, prompt: Sequence[int], seed: int) -> list[list[int]]:
        config = GenerationConfig(
            do_sample=True,
            top_k=0,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=self.ends or None,
            pad_token_id=self.ends[0] if self.ends else 0,
            disable_compile=True,
        )
        rows: list[list[int]] = []
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(seed)
            while len(rows) < self.settings.reference_samples:
                size = min(self.batch_size, self.settings.reference_samples - len(rows))
                ids = torch.tensor([list(prompt)] * size, device=device)
                out = self.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
                rows += [self._cut(row) for row in out[:, len(prompt) :].tolist()]
        return rows

    def _cut(self, ids: list[int]) -> list[int]:
        """The ids up to the first end, which is kept."""
        return ids[: next((i + 1 for i, token in enumerate(ids) if token in self.ends), len(ids))]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, ids: Sequence[int]) -> tuple[str, bool]:
        """The text of a completion without its end, and whether it has one."""
        complete = bool(ids) and ids[-1] in self.ends
        return decode(self.tokenizer, [ids[:-1] if complete else ids])[0], complete

    def _label(self, text: str) -> str:
        return "" if self.answer is None else str(self.answer(text))


def checked_settings(given: dict[str, Any]) -> MaraSettings:
    """The settings. Raises ValueError where one needs what a reward function of OpenRLHF is not passed."""
    reasons = {
        "direction": ("reverse", "OpenRLHF subtracts a reverse KL; a forward KL cannot be put into a reward here"),
        "quantile": (None, "one completion is scored at a time; use reference_quantile"),
        "mass": ("reference", "other estimates need the policy's log-probabilities"),
        "anchor": ("remembered", "a group is not seen together; the anchor is from completions of the reference"),
    }
    for name, (value, reason) in reasons.items():
        if given.get(name, value) != value:
            raise ValueError(f"{name}: must be {value!r} in OpenRLHF ({reason}), got {given[name]!r}")
    settings = MaraSettings(**{"mass": "reference", "anchor": "remembered", **given})
    settings.check()
    return settings
