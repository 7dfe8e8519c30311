"""Complete training steps of mara whose prompts and completions have given lengths, on a Qwen3 with random weights.

A setting is a mapping: P prompts of `prompt` tokens, G completions each, of `least` to `most` tokens. The lengths are
the same in every step: logits are masked so that the end-of-sequence token is sampled exactly there.
"""

from collections.abc import Callable, Mapping
from typing import Any

TEMPLATE = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"  # around a prompt; a special is one token
SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
}

Setting = Mapping[str, Any]


def build(
    folder: str, shape: Mapping[str, Any] = SMALL, dtype: str = "float32", device: str = "cpu", context: int = 1024
) -> None:
    """Save a Qwen3 with random weights and a tokenizer with one token per byte for `from_pretrained`."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from llm.testbed.tiny_models import byte_tokenizer

    tokenizer = byte_tokenizer()
    config = Qwen3Config(
        **shape,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen3ForCausalLM(config)
    torch.nn.Module.to(model, getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def chats(setting: Setting) -> list[list[dict[str, str]]]:
    """P different prompts, each with exactly the number of tokens of the setting."""
    special = TEMPLATE.count("<|im_")
    fill = setting["prompt"] - special - len(TEMPLATE.replace("<|im_start|>", "").replace("<|im_end|>", ""))
    words = "give any number that you like and then say why it is the one, "
    return [[{"role": "user", "content": (f"{i} " + words * fill)[:fill]}] for i in range(setting["P"])]


def reward(text: str) -> float:
    return float("1" in text or "2" in text)


def lengths(setting: Setting) -> Any:
    """[P * G] number of tokens in each completion, including the end of the sequence; equal in every step."""
    import torch

    count, generator = setting["P"] * setting["G"], torch.Generator().manual_seed(0)
    counts = torch.randint(setting["least"], setting["most"] + 1, (count,), generator=generator)
    counts[0] = setting["most"]
    return counts


class FixedSteps:
    """Training steps of a setting.

    Args:
        setting: what a step processes.
        folder: of the model, see `build`.
        steps: their number, over which the learning rate decays.
        overrides: of the configuration of `python -m llm`, beside those of the setting.
        timed: called with a name, `sampling` or `objective`, and the function of that part of the step; returns the
            function that is called instead.
        reward_of: the reward of a text.
    """

    def __init__(
        self,
        setting: Setting,
        folder: str,
        steps: int,
        overrides: list[str],
        timed: Callable[[str, Callable[..., Any]], Callable[..., Any]] = lambda name, function: function,
        reward_of: Callable[[str], float] = reward,
    ) -> None:
        import torch

        from core.objective import make_objective
        from launch.cli.compose import compose_typed
        from launch.engines.factory import make_engine
        from llm import train
        from llm.batch import BatchSettings
        from llm.inference import sampling
        from llm.models import load_models
        from llm.rollout import base as rollout
        from llm.tasks.base import Task

        class Fixed(Task):
            def prompts(self) -> Any:
                return chats(setting)

            def reward(self, prompt: Any, completion: str) -> float:
                return reward_of(completion)

        self.setting, self.train, self.task = setting, train, Fixed()
        self.config: Any = compose_typed("llm", [*setting_overrides(setting, folder), *overrides])[0]
        self.models = models = load_models(self.config.model)
        self.objective = make_objective(**self.config.objective_arguments())
        engine = make_engine(self.config.engine.name, models.policy, self.config.optimizer, steps, shared=True)
        self.learner = train.make_learner(self.config, self.task, models, engine)
        self.batch_settings = BatchSettings.from_config(self.config)
        inverse_cdf, eos = getattr(sampling, "original_inverse_cdf", sampling.inverse_cdf), int(models.eos_ids[0])

        def sample_without_eos(logits: Any, uniform: Any) -> Any:
            """Sample EOS exactly where the uniform is -1."""
            logits = logits.index_fill(1, models.eos_ids, -torch.inf)
            return inverse_cdf(logits, uniform.abs()).masked_fill(uniform < 0, eos)

        sampling.original_inverse_cdf = inverse_cdf  # type: ignore[attr-defined]
        sampling.inverse_cdf = sample_without_eos
        rollout.sample = timed("sampling", rollout.sample)
        object.__setattr__(self.objective, "loss", timed("objective", self.objective.loss))
        self.ends = lengths(setting).unsqueeze(-1) - 1
        self.done, self.tokens = 0, int(lengths(setting).sum())

    def step(self) -> Mapping[str, Any]:
        """Make the next step, check that it has processed what the setting says, and return its metrics."""
        from llm.batch import draw_batch

        batch = draw_batch(self.batch_settings, self.models, self.task, self.done)
        batch = batch._replace(uniforms=batch.uniforms.scatter(1, self.ends.to(batch.uniforms.device), -1.0))
        result = self.train.train_step(self.learner, self.objective, batch, self.config.objective.beta)
        tokens = round(float(result.metrics["length"]) * len(self.ends))  # type: ignore[arg-type]
        if tokens != self.tokens or not batch.prompts.mask.sum(-1).eq(self.setting["prompt"]).all():
            raise RuntimeError(f"a step has processed {tokens} tokens instead of {self.tokens}")
        self.done += 1
        return result.metrics


def setting_overrides(setting: Setting, folder: str) -> list[str]:
    """A setting as overrides of the command line."""
    return [
        f"prompts_per_step={setting['P']}",
        f"group_size={setting['G']}",
        f"max_new_tokens={setting['most']}",
        "objective.beta=0.01",
        "transform=mara",
        "advantage=group_normalised",
        "optimizer.lr=1e-6",
        f"model.name_or_path={folder}",
    ]
