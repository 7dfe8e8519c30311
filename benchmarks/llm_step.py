"""Whole training steps, ours and TRL's GRPOTrainer, on the same work, in processes of their own that take turns.

    python -m benchmarks.llm_step [short] [long] [gpu] [--rounds N]

short: 26-token prompts, 32 tokens each; long: 256-token prompts, 8 to 64 tokens each; both 8 prompts x 16
completions of a small Qwen3 with random weights, fp32, on the CPU. gpu: the shape of Qwen3-1.7B with random weights,
bf16, 16 x 16 completions of 256 tokens after 512-token prompts.

Fair: same weights, prompts, reward, learning rate, beta > 0 so that a reference takes part, one update a step on the
whole batch, no gradient checkpointing. Every completion has a length given beforehand: the end-of-sequence token is
held back until then, in both by the same masking of the logits. Times are of whole steps after warm-up; memory is the
most the process held beyond what it held after its imports. A round in which other processes took over a tenth of
a core is printed and left out of the medians. Needs trl.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "short": {"P": 8, "G": 16, "prompt": 26, "least": 32, "most": 32, "steps": {"ours": 6, "trl": 6}},
    "long": {"P": 8, "G": 16, "prompt": 256, "least": 8, "most": 64, "steps": {"ours": 5, "trl": 2}},
    "gpu": {"P": 16, "G": 16, "prompt": 512, "least": 256, "most": 256, "steps": {"ours": 4, "trl": 2}},
}
SMALL = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512}
LARGE = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16}
LARGE |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
MICRO_BATCH = {"short": 128, "long": 128, "gpu": 32}  # sequences in a pass; TRL gets the same
PEAK = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.0e12)}  # dense bf16 flop/s, bytes/s
WARMUP = 2
OVERHEAD = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"  # what the template adds; specials are one token


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=["short", "long"], choices=SETTINGS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.settings[0], options.model)
        return
    for name in options.settings:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, "-c", f"from benchmarks import llm_step as b; b.build({name!r}, {folder!r})"]
            )
            rounds = [[measure(who, name, folder) for who in ("ours", "trl")] for _ in range(options.rounds)]
        report(name, rounds)


def measure(who: str, name: str, folder: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.llm_step", name, "--child", who, "--model", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{who} ended with status {done.returncode}:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(name, who, result, file=sys.stderr, flush=True)
    return result


def report(name: str, rounds: list[list[dict[str, Any]]]) -> None:
    quiet = [pair for pair in rounds if max(result["others"] for result in pair) <= 0.1]
    print(f"{name}: {SETTINGS[name]}, {len(quiet)} of {len(rounds)} rounds undisturbed; {rounds[0][1]['versions']}")
    chosen = quiet or rounds
    print(f"{'':6} {'tokens/s':>10} {'s/step':>8} {'memory MB':>10} {'sampling s':>11}")
    for column, who in enumerate(("ours", "trl")):
        keys = ("tokens_per_s", "s_per_step", "memory_mb", "sampling_s")
        values = [statistics.median(pair[column][key] for pair in chosen) for key in keys]
        print("{:6} {:10.0f} {:8.3f} {:10.0f} {:11.3f}".format(who, *values))
    ratios = [ours["tokens_per_s"] / trl["tokens_per_s"] for ours, trl in chosen]
    memory = [ours["memory_mb"] / trl["memory_mb"] for ours, trl in chosen]
    share = statistics.median(ours["objective_share"] for ours, _ in chosen)
    print(f"ratio of tokens/s: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"ratio of memory: median {statistics.median(memory):.2f}")
    print(f"transform, advantages, MARA, loss: {share:.2%} of our step")
    for key in ("decode_bandwidth_share", "training_mfu"):
        if key in chosen[0][0]:
            print(f"{key}: median {statistics.median(ours[key] for ours, _ in chosen):.2%}")


def build(name: str, folder: str) -> None:
    """A Qwen3 with random weights and a tokenizer of one token a byte, as `from_pretrained` loads them."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from llm.tiny import byte_tokenizer

    tokenizer = byte_tokenizer()
    config = Qwen3Config(
        **(LARGE if name == "gpu" else SMALL),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    dtype = torch.bfloat16 if name == "gpu" else torch.float32
    with torch.device("cuda" if name == "gpu" else "cpu"):
        Qwen3ForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def chats(name: str) -> list[list[dict[str, str]]]:
    """P different prompts, each of exactly as many tokens as the setting says."""
    setting = SETTINGS[name]
    special = OVERHEAD.count("<|im_")
    fill = setting["prompt"] - special - len(OVERHEAD.replace("<|im_start|>", "").replace("<|im_end|>", ""))
    words = "give any number that you like and then say why it is the one, "
    return [[{"role": "user", "content": (f"{i} " + words * fill)[:fill]}] for i in range(setting["P"])]


def reward(text: str) -> float:
    return float("1" in text or "2" in text)


def child(who: str, name: str, folder: str) -> None:
    """One process: imports, warm-up, timed steps, one line of JSON."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import torch

    if name != "gpu":
        torch.set_num_threads(os.cpu_count() or 1)
    steps = SETTINGS[name]["steps"][who]
    result = (ours if who == "ours" else trl)(name, folder, steps)
    print(json.dumps(result), file=out, flush=True)


class Meter:
    """Wall-clock, others' CPU time and peak memory of the timed steps; spans of what is wrapped."""

    def __init__(self, cuda: bool) -> None:
        import torch

        self.cuda, self.torch = cuda, torch
        self.spans: dict[str, float] = {}
        self.ends: list[float] = []
        self.before = resident()

    def now(self) -> float:
        if self.cuda:
            self.torch.cuda.synchronize()
        return time.perf_counter()

    def start(self) -> None:
        self.spans.clear()
        self.busy, self.own, self.ends = machine_busy(), time.process_time(), [self.now()]

    def step(self) -> None:
        self.ends.append(self.now())

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            began = self.now()
            try:
                return function(*arguments, **keywords)
            finally:
                self.spans[name] = self.spans.get(name, 0.0) + self.now() - began

        return wrapped

    def result(self, name: str) -> dict[str, Any]:
        setting, steps = SETTINGS[name], len(self.ends) - 1
        wall = self.ends[-1] - self.ends[0]
        tokens = int(lengths(name).sum())
        if self.cuda:
            memory = self.torch.cuda.max_memory_allocated() / 2**20
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - self.before
        others = (machine_busy() - self.busy) - (time.process_time() - self.own)
        middle = statistics.median(b - a for a, b in zip(self.ends, self.ends[1:], strict=False))
        return {
            "tokens_per_s": tokens / middle,
            "s_per_step": middle,
            "memory_mb": memory,
            "sampling_s": self.spans.get("sampling", 0.0) / steps,
            "others": 0.0 if self.cuda else max(others / wall, 0.0),
            "completions": setting["P"] * setting["G"],
            "tokens": tokens,
        }


def resident() -> float:
    """MB that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def machine_busy() -> float:
    """CPU seconds that the whole machine has spent busy."""
    with open("/proc/stat") as file:
        ticks = [int(number) for number in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def lengths(name: str) -> Any:
    """[P * G] tokens of each completion, the last of them the end of the sequence; the same in every step."""
    import torch

    setting = SETTINGS[name]
    count, generator = setting["P"] * setting["G"], torch.Generator().manual_seed(0)
    drawn = torch.randint(setting["least"], setting["most"] + 1, (count,), generator=generator)
    drawn[0] = setting["most"]
    return drawn


def ours(name: str, folder: str, steps: int) -> dict[str, Any]:
    import torch
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from conf import schema
    from core.objective import make_objective
    from launch.app import register
    from launch.engine import make_engine
    from llm import rollout, train
    from llm.models import load_models
    from llm.rewards import make_reward
    from llm.tasks.base import Task

    class Fixed(Task):
        def prompts(self) -> Any:
            return chats(name)

        def reward(self, prompt: Any, completion: str) -> float:
            return reward(completion)

    setting, cuda = SETTINGS[name], name == "gpu"
    meter = Meter(cuda)
    register("llm", schema.LlmConfig)
    overrides = [
        f"prompts_per_step={setting['P']}",
        f"group_size={setting['G']}",
        f"max_new_tokens={setting['most']}",
        f"micro_batch={MICRO_BATCH[name]}",
        "objective.beta=0.01",
        "transform=mara",
        "advantage=group_normalised",
        "optimizer.lr=1e-6",
        f"model.name_or_path={folder}",
        f"model.device={'cuda' if cuda else 'cpu'}",
        f"model.dtype={'bfloat16' if cuda else 'float32'}",
    ]
    with initialize_config_module("conf.llm", version_base="1.3"):
        config = OmegaConf.to_object(compose("config", overrides=overrides))
    assert isinstance(config, schema.LlmConfig)
    models = load_models(config.model)
    objective = make_objective(**config.objective_arguments())
    engine = make_engine("torch", models.policy, config.optimizer, steps + WARMUP)
    task, eos = Fixed(), int(models.eos_ids[0])
    scored = make_reward(config.reward, task, models.eos_ids.device, models.policy.dtype)
    draw = rollout.inverse_cdf

    def held_back(logits: Any, uniform: Any) -> Any:
        """No end of the sequence but where the uniform says so, with -1."""
        return draw(logits.index_fill(1, models.eos_ids, -torch.inf), uniform.abs()).masked_fill(uniform < 0, eos)

    rollout.inverse_cdf = held_back
    train.sample = meter.timed("sampling", train.sample)
    object.__setattr__(objective, "loss", meter.timed("objective", objective.loss))
    ends = lengths(name).unsqueeze(-1) - 1
    for step in range(WARMUP + steps):
        if step == WARMUP:
            meter.start()
        batch = train.draw_batch(config, models, task, step)
        batch = batch._replace(uniforms=batch.uniforms.scatter(1, ends.to(batch.uniforms.device), -1.0))
        result = train.train_step(models, engine, objective, task, scored, batch, config.objective.beta, config)
        meter.step()
    tokens = float(result.metrics["length"]) * setting["P"] * setting["G"]  # type: ignore[arg-type]
    found = meter.result(name)
    assert abs(tokens - found["tokens"]) < 1 and batch.prompts.mask.sum(-1).eq(setting["prompt"]).all()
    found["objective_share"] = meter.spans["objective"] / (meter.ends[-1] - meter.ends[0])
    return found | (on_card(name, models.policy, meter, steps) if cuda else {})


def on_card(name: str, policy: Any, meter: Meter, steps: int) -> dict[str, float]:
    """Shares of what the card can do: bytes a second in decoding, model flop a second in the training passes."""
    import torch

    flops, bandwidth = next(
        (peak for card, peak in PEAK.items() if card in torch.cuda.get_device_name()), (float("nan"), float("nan"))
    )
    setting, shape = SETTINGS[name], LARGE
    P, G, L = setting["P"], setting["G"], setting["prompt"]
    weights = sum(p.numel() for p in policy.parameters())  # the head is the embedding, and is read whole each step
    kv = 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * shape["head_dim"]  # numbers a token
    read = sum(weights + kv * P * (L + G * t) for t in range(setting["most"])) * 2  # bytes a step of training
    width = shape["num_attention_heads"] * shape["head_dim"] * shape["num_hidden_layers"]
    inputs = P * L + P * G * setting["most"]
    pairs = P * L * L / 2 + P * G * setting["most"] * (L + setting["most"] / 2)
    head = shape["vocab_size"] * shape["hidden_size"]
    forward = 2 * (weights - head) * inputs + 2 * head * P * G * setting["most"] + 4 * width * pairs
    sampling = meter.spans["sampling"]
    training = meter.ends[-1] - meter.ends[0] - sampling
    return {
        "decode_bandwidth_share": read * steps / sampling / bandwidth,
        "training_mfu": 4 * forward * steps / training / flops,  # reference, policy, and twice that backward
    }


def trl(name: str, folder: str, steps: int) -> dict[str, Any]:
    import datasets
    import torch
    import transformers
    import trl as peer
    from transformers import AutoTokenizer, LogitsProcessorList, TrainerCallback

    datasets.disable_progress_bars()
    setting, cuda = SETTINGS[name], name == "gpu"
    meter = Meter(cuda)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends, seen = lengths(name) - 1, [0]

    def held_back(ids: Any, scores: Any) -> Any:
        now = ids.shape[1] - setting["prompt"]
        over = (ends == now).to(scores.device).unsqueeze(-1)
        end = torch.arange(scores.shape[1], device=scores.device) == tokenizer.eos_token_id
        return scores.masked_fill(torch.where(over, ~end, end), -torch.inf)

    def rewards(completions: Any, completion_ids: Any, **_: Any) -> list[float]:
        seen[0] = sum(map(len, completion_ids))
        return [reward(some[-1]["content"]) for some in completions]

    class Steps(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == WARMUP:
                meter.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            meter.step()

    batch, micro = setting["P"] * setting["G"], MICRO_BATCH[name]
    with tempfile.TemporaryDirectory() as out:
        options = peer.GRPOConfig(
            output_dir=out,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=batch // micro,
            num_generations=setting["G"],
            max_completion_length=setting["most"],
            temperature=1.0,
            beta=0.01,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            max_steps=WARMUP + steps,
            use_cpu=not cuda,
            bf16=cuda,
            gradient_checkpointing=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            shuffle_dataset=False,
            model_init_kwargs={"dtype": "bfloat16" if cuda else "float32"},
        )
        data = datasets.Dataset.from_list([{"prompt": chat} for chat in chats(name)] * (WARMUP + steps))
        trainer = peer.GRPOTrainer(
            model=folder,
            reward_funcs=rewards,
            args=options,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[Steps()],
        )
        generate = meter.timed("sampling", trainer.model.generate)
        trainer.model.generate = lambda *a, **k: generate(*a, **k, logits_processor=LogitsProcessorList([held_back]))
        trainer.train()
    found = meter.result(name)
    assert seen[0] == found["tokens"]
    return found | {"versions": {m.__name__: m.__version__ for m in (peer, transformers, torch)}}


if __name__ == "__main__":
    main()
