"""MARA in TRL's GRPOTrainer: the trainer's advantages are computed from MARA's reward and the sequence's KL.

As usual, TRL samples, calls the reward functions and computes log-probabilities under the reference. Its advantages
are then replaced by those of `core.objective` on whole groups: A = centred(R' - beta D'). R' is the reward and D' the
divergence after MARA's changes of reward and reference. D is the divergence between whole sequences: log pi - log ref
under reverse KL and -ref/pi under forward KL. The loss is TRL's `dr_grpo`, the sum over a sequence's tokens.
"""

from .trl_config import ALLOWED, MaraGRPOConfig, trl  # first: it says what to install

# isort: split
import copy
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import GenerationConfig

from ..objective import Objective
from ..sequence import masked_sum
from .estimator import MaraEstimator, prompt_key
from .model_files import decode, find_stops, with_fixed_clock

__all__ = ["ALLOWED", "MaraGRPOConfig", "MaraGRPOTrainer"]
MEMORY_FILE = "mara.json"  # in each checkpoint: thresholds, masses and anchors of the prompts


class MaraGRPOTrainer(trl.GRPOTrainer):
    """TRL's GRPOTrainer with mode-anchored reward augmentation (GX-Chen et al., 2026, arXiv:2510.20817).

    The arguments are those of GRPOTrainer, with a MaraGRPOConfig as `args`. The reference is TRL's: the model on
    disk, or with peft the base model without its adapter. Completions for which all reward functions return None are
    excluded. Truncated completions keep their reward and are never good; with `mask_truncated_completions=True` they
    are excluded.

    answer: the answer that a completion gives, from its exact text; needed at mara_level="answer", where completions
        with the same answer are one class.
    objective: the `core.objective.Objective` that computes the advantages. It can be replaced by any other one with
        placement=reward and level=sequence.
    mara: the `MaraEstimator`, with what is remembered of the prompts. It is in the checkpoints, as mara.json.

    Raises:
        ValueError: `args` is not a valid MaraGRPOConfig; `answer` is missing; or tools, images or dropout are used,
            with which the scored distribution differs from the sampled one.
    """

    args: Any  # MaraGRPOConfig
    model: Any
    num_generations: int
    num_generations_eval: int
    ref_model: Any
    _logs: dict[str, Any]

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: MaraGRPOConfig | None = None,
        *,
        answer: Callable[[str], str] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(args, MaraGRPOConfig):
            raise ValueError(f"args: must be a MaraGRPOConfig, got {type(args).__name__}")
        args.check()
        if args.mara_level == "answer" and answer is None:
            raise ValueError(
                "answer: must be given with mara_level='answer', a function that returns the answer of a completion"
            )
        args = copy.copy(args)
        args.beta = args.mara_beta or 0.0  # TRL loads a reference only if its beta is not 0
        super().__init__(model, reward_funcs, args, **options)
        args.beta = self.beta = 0.0
        self.mara, self.answer = MaraEstimator(args.mara_settings()), answer
        _check_model(self)
        _end_where_turns_end(self)
        if "strftime_now" in str(self._tokenizer.chat_template):  # prompts keep their date over the training
            template = self.chat_template or self._tokenizer.get_chat_template()
            self.chat_template = with_fixed_clock(template, datetime.now().astimezone())

    @property  # type: ignore[override]  # Trainer has None there, for searches
    def objective(self) -> Objective:
        """The objective that computes the advantages."""
        return self.mara.objective

    @objective.setter
    def objective(self, objective: Objective) -> None:
        self.mara.objective = objective

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        # `generate` takes what its own argument leaves open from the model's generation configuration: min_p, for
        # example, with which the policy that samples is not the one that is scored.
        model = self.accelerator.unwrap_model(self.model)
        with _plain_generation_config(model):
            return super()._generate_single_turn(*arguments, **options)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> Tensor:
        ended = [ids[-1] in self.eos_token_ids for ids in completion_ids_list]
        rows = [ids[:-1] if end else ids for ids, end in zip(completion_ids_list, ended, strict=True)]
        texts = decode(self._tokenizer, rows)
        completions = _as_written(completions, texts)
        self._complete = torch.tensor(ended)
        self._labels = ["" if self.answer is None else str(self.answer(text)) for text in texts]
        self._rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if any(isinstance(function, torch.nn.Module) for function in self.reward_funcs):
            # A reward model would read a special token in a completion as one, such as the start of another turn.
            special = set(self._tokenizer.all_special_ids)
            has_special = torch.tensor([not special.isdisjoint(row) for row in rows], device=self._rewards.device)
            self._rewards = self._rewards.masked_fill(self.accelerator.gather(has_special).unsqueeze(-1), math.nan)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._add_reference_statistics(inputs)
        # With a beta other than 0, TRL computes the reference's log-probabilities here, but also adds a KL term to
        # the loss later on.
        self.beta = self.args.mara_beta
        try:
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            self.beta = 0.0
        advantages = self._mara_advantages(batch, [prompt_key(example["prompt"]) for example in inputs])
        count = len(batch["advantages"])
        rank = self.accelerator.process_index
        batch["advantages"] = advantages[rank * count : (rank + 1) * count]
        logged = self._logs["advantages"]
        earlier = list(logged)[: -len(advantages)]
        logged.clear()
        logged.extend([*earlier, *advantages.tolist()])
        return batch

    def _mara_advantages(self, batch: dict[str, Any], prompts: list[str]) -> Tensor:
        """Advantages [N] of all processes' completions, because a group may span several; logs the metrics."""
        training = self.model.training
        group = self.num_generations if training else self.num_generations_eval
        seq_logp = [self._policy_logp(batch), batch["ref_per_token_logps"]]
        seq_logp = [masked_sum(logp.float(), batch["completion_mask"].bool()) for logp in seq_logp]
        complete = self._complete.to(seq_logp[0])
        policy, reference, complete = self.accelerator.gather(torch.stack([*seq_logp, complete], -1)).unbind(-1)
        complete = complete.bool().view(-1, group)
        reward = self._summed(self._rewards).view(-1, group)
        valid = ~self._rewards.isnan().all(-1).view(-1, group)
        if not bool(reward.isfinite().all()):
            raise ValueError(f"rewards must be finite, or None to exclude a completion, got {reward}")
        if self.mask_truncated_completions:
            valid = valid & complete
        labels = gather_object(self._labels)
        advantages, metrics = self.mara.advantages(
            reward,
            policy.view(-1, group),
            reference.view(-1, group),
            prompts=gather_object(prompts)[::group],
            labels=[labels[i : i + group] for i in range(0, len(labels), group)],
            rows=reward.numel(),  # over which TRL averages
            valid=valid,
            complete=complete,
            training=training,
        )
        for name, value in metrics.items():
            if value.isfinite():  # TRL logs the mean over the steps of an interval, which one NaN would hide
                self._metrics["train" if training else "eval"][name].append(float(value))
        return advantages.flatten()

    def _summed(self, rewards: Tensor) -> Tensor:
        """[N] weighted sums of the functions' rewards [N, F]; those that are NaN do not count."""
        return (rewards * self.reward_weights.to(rewards.device)).nansum(-1)

    def _policy_logp(self, batch: dict[str, Any]) -> Tensor:
        """[B, T] log-probabilities under the policy that sampled, nats. TRL computes them only if it needs them."""
        if "old_per_token_logps" in batch:
            return batch["old_per_token_logps"]
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        training = self.model.training
        size = self.args.per_device_train_batch_size if training else self.args.per_device_eval_batch_size
        with torch.no_grad():
            logp, _, _ = self._get_per_token_logps_and_entropies(
                self.model, ids, mask, batch["completion_ids"].shape[1], batch_size=size
            )
        return logp

    def _add_reference_statistics(self, inputs: list[dict[str, Any]]) -> None:
        """Sample the reference's completions of prompts that are seen for the first time, and score them.

        All processes go through the same prompts, and each samples its share of the completions.
        """
        if not self.mara.settings.needs_reference_samples:
            return
        named = {prompt_key(example["prompt"]): example for example in gather_object(inputs)}
        share = math.ceil(self.mara.settings.reference_samples / self.accelerator.num_processes)
        for key in self.mara.missing(list(named)):
            example = named[key]
            ids = self._sample_reference(example["prompt"], share, seed=int(key[:8], 16) ^ self.args.seed)
            texts: list[Any] = ["" for _ in ids]  # `_calculate_rewards` fills in what was written
            if not isinstance(example["prompt"], str):
                texts = [[{"role": "assistant", "content": text}] for text in texts]
            rewards = self._calculate_rewards([example] * share, [example["prompt"]] * share, texts, ids)
            excluded = rewards.isnan().all(-1)
            complete = self.accelerator.gather(self._complete.to(rewards.device))
            summed = self._summed(rewards).masked_fill(excluded, math.nan)
            self.mara.add_reference(key, summed.tolist(), complete.tolist(), gather_object(self._labels))
        self._pending_extra_logs.clear()  # what reward functions logged of completions that are not trained on
        self._pending_metrics.clear()

    def _sample_reference(self, prompt: Any, count: int, seed: int) -> list[list[int]]:
        """Sample completions of a prompt from the reference, the same ones in every run: count rows of ids."""
        row = torch.tensor([self._tokenize_prompts([prompt])[0][0]], device=self.accelerator.device)
        config = GenerationConfig(
            max_new_tokens=self.max_completion_length,
            do_sample=True,
            top_k=0,
            eos_token_id=self.eos_token_ids,
            pad_token_id=self._tokenizer.pad_token_id,
            disable_compile=True,
        )
        rows: list[list[int]] = []
        devices = [row.device] if row.device.type == "cuda" else []
        with self._reference() as reference, torch.no_grad(), torch.random.fork_rng(devices):
            torch.manual_seed(seed + self.accelerator.process_index)
            while len(rows) < count:
                size = min(self.args.per_device_train_batch_size, count - len(rows))
                ids = row.expand(size, -1)
                out = reference.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
                rows += [_up_to_end(ids, self.eos_token_ids) for ids in out[:, row.shape[1] :].tolist()]
        return rows

    @contextmanager
    def _reference(self) -> Iterator[Any]:
        """The reference in evaluation mode: TRL's, or with peft the model without its adapter."""
        from trl.trainer.utils import use_adapter

        model = self.accelerator.unwrap_model(self.model if self.ref_model is None else self.ref_model)
        training = model.training
        model.eval()
        try:
            with _plain_generation_config(model):
                if self.ref_model is not None:
                    yield model
                else:
                    with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
                        yield model
        finally:
            model.train(training)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            temporary = folder / f"{MEMORY_FILE}.tmp"
            temporary.write_text(json.dumps(self.mara.state_dict()), encoding="utf-8")
            os.replace(temporary, folder / MEMORY_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._load_memory(Path(checkpoint) / MEMORY_FILE)

    def _load_memory(self, path: Path) -> None:
        if path.exists():
            self.mara.load_state_dict(json.loads(path.read_text(encoding="utf-8")))
        elif self.mara.settings.remembers_prompts:
            raise ValueError(
                f"resume_from_checkpoint: {path} is missing, which holds what MARA remembers of the prompts"
            )

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's loss without the constant by which dr_grpo divides the sum over tokens."""
        return super()._compute_loss(model, inputs) * self.max_completion_length


@contextmanager
def _plain_generation_config(model: Any) -> Iterator[None]:
    """Context in which `generate` finds no generation configuration of the model."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _up_to_end(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The ids up to the first one that ends a completion, which is kept."""
    length = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
    return list(ids[:length])


def _end_where_turns_end(trainer: MaraGRPOTrainer) -> None:
    """End completions also at the token that ends a turn in the chat template, as `python -m llm` does.

    Raises:
        ValueError: the model's generation configuration has stop strings, which TRL does not support; or vLLM, which
            reads the model's files itself, would not end completions there.
    """
    switches: Any = trainer.chat_template_kwargs
    stops = find_stops(trainer._tokenizer, trainer.model.config, trainer.model.generation_config, switches)
    if stops.strings:
        raise ValueError(f"stop_strings: must be None in the model's generation_config, got {list(stops.strings)}")
    unknown = [token for token in stops.ids if token not in trainer.eos_token_ids]
    if unknown and trainer.use_vllm:
        raise ValueError(
            "use_vllm: vLLM does not end completions where the chat template ends a turn; add token "
            f"{trainer._tokenizer.convert_ids_to_tokens(unknown[0])} to eos_token_id of the model's generation_config"
        )
    trainer.eos_token_ids = [*trainer.eos_token_ids, *unknown]
    if not trainer.use_vllm:
        trainer.generation_config.eos_token_id = trainer.eos_token_ids


def _as_written(completions: list[Any], texts: list[str]) -> list[Any]:
    """TRL's completions with their exact texts. TRL leaves special tokens out of what reward functions are given."""
    if isinstance(completions[0], str):
        return texts
    written = []
    for completion, text in zip(completions, texts, strict=True):
        plain = [set(turn) == {"role", "content"} for turn in completion] == [True]  # not parsed into several parts
        written.append([{**completion[0], "content": text}] if plain else completion)
    return written


def _check_model(trainer: MaraGRPOTrainer) -> None:
    """Raise ValueError if the log-probabilities would not be those of the distribution that is sampled."""
    if trainer.tools or trainer._is_vlm:
        raise ValueError("tools: MaraGRPOTrainer supports neither tools nor images")
    if trainer.aux_loss_enabled:
        raise ValueError("router_aux_loss_coef: must be 0.0 with MARA (an additional loss moves the optimum)")
    config = trainer.model.config.get_text_config()
    layers = [module.p for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)]
    if rate := max([*layers, getattr(config, "attention_dropout", 0.0) or 0.0]):
        raise ValueError(
            "disable_dropout: must be True with MARA, and the model's attention_dropout 0.0 (the policy that samples "
            f"must be the one that is scored), got a dropout rate of {rate}"
        )
