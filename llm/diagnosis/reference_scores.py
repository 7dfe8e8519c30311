"""Log-probabilities of the completions of files under a reference model."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from conf.schema.base import ConfigError
from core.integrations.model_files import end_of_turn, find_stops
from core.sequence import masked_sum
from launch.runs.progress import tracked
from llm.adapters import load_pretrained, load_tokenizer
from llm.diagnosis.columns import Rollout
from llm.inference.head import head_of
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import Chat, Prompts, encode_chats, pad_completions, user_turn
from llm.models import resolve_device, resolve_dtype
from llm.testbed.names import resolve_model
from llm.testbed.tiny_models import POLICIES

ROWS = 16  # completions of a forward pass


class Reference:
    """A causal language model that scores texts.

    Args:
        name: folder or hub name.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: the model cannot be loaded.
    """

    def __init__(self, name: str, device: str = "auto") -> None:
        self.device = resolve_device(device, "device")
        transformers_logging.disable_progress_bar()
        path = resolve_model(name, POLICIES)
        try:
            self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(path, padding_side="left")
            dtype = resolve_dtype("auto", self.device)
            self.model: PreTrainedModel = load_pretrained(AutoModelForCausalLM, path, dtype=dtype)[0]
        except (OSError, ValueError, ImportError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"reference: must be a folder or hub name of a causal language model, got {name} ({reason})"
            ) from None
        torch.nn.Module.to(self.model, self.device).eval()
        head_of(self.model)
        self.eos_id = next(
            iter(find_stops(self.tokenizer, self.model.config, self.model.generation_config).ids), None
        )
        has_template = self.tokenizer.chat_template is not None
        turn_end = end_of_turn(self.tokenizer) if has_template else None
        self.turn_end_id = self.eos_id if turn_end is None else turn_end

    def is_chat(self, prompt: str | Chat, as_chat: bool) -> bool:
        """Whether the chat template is applied to a prompt: to turns, and to a text that is a user's turn."""
        return not isinstance(prompt, str) or (as_chat and self.tokenizer.chat_template is not None)

    def encode_prompt(self, prompt: str | Chat, as_chat: bool) -> Prompts:
        """A prompt as ids."""
        if self.is_chat(prompt, as_chat):
            return encode_chats(self.tokenizer, [user_turn(prompt) if isinstance(prompt, str) else prompt])
        ids = self.tokenizer(prompt)["input_ids"] or [self.eos_id or 0]
        return Prompts(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))

    def encode_completion(self, text: str, end_id: int | None) -> list[int]:
        """A completion as ids, with the token that ends it."""
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids if end_id is None else [*ids, end_id]

    @torch.inference_mode()
    def seq_logp(self, prompt: str | Chat, as_chat: bool, texts: Sequence[str]) -> list[float]:
        """Log-probability of each text as a whole completion of a prompt, nats."""
        prompts = Prompts(*(tensor.to(self.device) for tensor in self.encode_prompt(prompt, as_chat)))
        end_id = self.turn_end_id if self.is_chat(prompt, as_chat) else self.eos_id
        values: list[float] = []
        for first in range(0, len(texts), ROWS):
            rows = [self.encode_completion(text, end_id) for text in texts[first : first + ROWS]]
            tokens, mask = (tensor.to(self.device) for tensor in pad_completions(rows, 0))
            values += masked_sum(completion_logp(self.model, prompts, tokens, mask).double(), mask).tolist()
        return values


def score_rollouts(rollouts: Sequence[Rollout], reference: Reference) -> list[Rollout]:
    """The rollouts with log-probabilities under the reference, each distinct completion scored once."""
    texts: dict[tuple[str, bool], dict[str, float]] = defaultdict(dict)
    prompts: dict[tuple[str, bool], str | Chat] = {}
    for rollout in rollouts:
        key = rollout.prompt_name, rollout.as_chat
        prompts[key] = rollout.prompt
        texts[key][rollout.completion] = 0.0
    for (name, as_chat), prompt in tracked(prompts.items(), "scoring under the reference"):
        of_prompt = texts[name, as_chat]
        values = reference.seq_logp(prompt, as_chat, list(of_prompt))
        texts[name, as_chat] = dict(zip(of_prompt, values, strict=True))
    return [rollout.scored(texts[rollout.prompt_name, rollout.as_chat][rollout.completion]) for rollout in rollouts]
