"""Whole training steps, ours and TRL's GRPOTrainer, on the same work, in two processes whose steps take turns.

    python -m benchmarks.llm_step [short] [long] [gpu] [--turns N] [--compiled]

short: 26-token prompts, 32 tokens each; long: 256-token prompts, 8 to 64 tokens each; both 8 prompts x 16
completions of a small Qwen3 with random weights, fp32, on the CPU. gpu: the shape of Qwen3-1.7B with random weights,
bf16, 16 x 16 completions of 256 tokens after 512-token prompts.

Fair: same weights, prompts, reward, learning rate, beta > 0 so that a reference takes part, one update a step on the
whole batch, no gradient checkpointing. Every completion has a length given beforehand: the end-of-sequence token is
held back until then, in both by the same masking of the logits. Times are of whole steps after warm-up, and of one
process while the other waits, so that the machine's drift meets both; a turn of `short` is three steps. On a GPU one
process has ended before the other starts. A turn in which other processes took over a tenth of a core is left out of
the medians. Memory is the most a process held beyond what it held after its imports. Needs trl.
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
from functools import partial
from pathlib import Path
from typing import Any

import psutil

SETTINGS: dict[str, dict[str, Any]] = {
    "short": {"P": 8, "G": 16, "prompt": 26, "least": 32, "most": 32, "turns": 12, "steps": 3},
    "long": {"P": 8, "G": 16, "prompt": 256, "least": 8, "most": 64, "turns": 8, "steps": 1},
    "gpu": {"P": 16, "G": 16, "prompt": 512, "least": 256, "most": 256, "turns": 3, "steps": 1},
}
SMALL = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512}
LARGE = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16}
LARGE |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
MICRO_BATCH = {"short": 128, "long": 128, "gpu": 32}  # sequences in a pass; TRL gets the same
PEAK = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.0e12)}  # dense bf16 flop/s, bytes/s
WARMUP = 2
WHO = ("ours", "trl")
OVERHEAD = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"  # what the template adds; specials are one token


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=["short", "long"], choices=SETTINGS)
    parser.add_argument("--turns", type=int, help="of each; by default 12, 8 and 3")
    parser.add_argument("--compiled", action="store_true", help="ours with model.compile_decoding=true")
    parser.add_argument("--child", choices=WHO, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.settings[0], options.model, options.turns, options.compiled)
        return
    for name in options.settings:
        turns = options.turns or SETTINGS[name]["turns"]
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, "-c", f"from benchmarks import llm_step as b; b.build({name!r}, {folder!r})"]
            )
            report(name, *measure(name, folder, turns, options.compiled))


class Child:
    """A process that warms up, and then takes the steps of a turn whenever it is told to."""

    def __init__(self, who: str, name: str, folder: str, turns: int, compiled: bool) -> None:
        self.who, self.errors = who, Path(folder) / f"{who}.log"
        command = [sys.executable, "-m", "benchmarks.llm_step", name, "--child", who, "--model", folder]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, "--turns", str(turns), *(["--compiled"] if compiled else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.hear()  # it has warmed up

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.who} ended with status {self.process.wait()}:\n{self.errors.read_text()[-4000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def turn(self) -> dict[str, Any]:
        """Seconds a step, of it those of the parts, and CPU seconds that others took in each second."""
        assert self.process.stdin is not None
        busy, own, began = machine_busy(), self.cpu(), time.perf_counter()
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        found = self.hear()
        others = (machine_busy() - busy) - (self.cpu() - own)
        return found | {"others": max(others, 0.0) / (time.perf_counter() - began)}

    def end(self) -> dict[str, Any]:
        """What it tells at its end."""
        found = self.hear()
        self.process.wait()
        return found

    def cpu(self) -> float:
        return sum(psutil.Process(self.process.pid).cpu_times()[:2])


def measure(
    name: str, folder: str, turns: int, compiled: bool
) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Of each turn what ours and TRL's tell; and what they tell at their ends."""
    if name == "gpu":
        taken, ends = [], []
        for who in WHO:
            alone = Child(who, name, folder, turns, compiled)
            taken.append([alone.turn() for _ in range(turns)])
            ends.append(alone.end())
        return [list(pair) for pair in zip(*taken, strict=True)], ends
    children = [Child(who, name, folder, turns, compiled) for who in WHO]
    pairs = []
    for _ in range(turns):
        pairs.append([one.turn() for one in children])
        print(name, *(f"{turn['seconds']:.2f} s" for turn in pairs[-1]), file=sys.stderr, flush=True)
    return pairs, [one.end() for one in children]


def report(name: str, pairs: list[list[dict[str, Any]]], ends: list[dict[str, Any]]) -> None:
    quiet = [pair for pair in pairs if name == "gpu" or max(turn["others"] for turn in pair) <= 0.1]
    print(f"{name}: {SETTINGS[name]}, {len(quiet)} of {len(pairs)} turns undisturbed; {ends[1]['versions']}")
    chosen = quiet or pairs
    print(f"{'':6} {'tokens/s':>10} {'s/step':>8} {'memory MB':>10} {'sampling s':>11}")
    for who, turns, end in zip(WHO, zip(*chosen, strict=True), ends, strict=True):
        seconds, sampling = (statistics.median(turn[key] for turn in turns) for key in ("seconds", "sampling"))
        print(f"{who:6} {end['tokens'] / seconds:10.0f} {seconds:8.3f} {end['memory_mb']:10.0f} {sampling:11.3f}")
    ratios = [trl["seconds"] / ours["seconds"] for ours, trl in chosen]
    quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    middle = statistics.median(ratios)
    print(f"ratio of tokens/s: median {middle:.2f} (quartiles {quarters[0]:.2f} to {quarters[2]:.2f})")
    print(f"ratio of memory: {ends[0]['memory_mb'] / ends[1]['memory_mb']:.2f}")
    share = statistics.median(ours["objective"] / ours["seconds"] for ours, _ in chosen)
    print(f"transform, advantages, MARA, loss: {share:.2%} of our step")
    if name == "gpu":
        for key, value in on_card([ours for ours, _ in chosen], ends[0]).items():
            print(f"{key}: {value:.2%}")


def build(name: str, folder: str) -> None:
    """A Qwen3 with random weights and a tokenizer of one token a byte, as `from_pretrained` loads them."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from llm.testbed.tiny_models import byte_tokenizer

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


def child(who: str, name: str, folder: str, turns: int, compiled: bool) -> None:
    """One process: imports, warm-up, a line of JSON; at each word on its input a turn and a line; a last line."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import torch

    if name != "gpu":
        torch.set_num_threads(os.cpu_count() or 1)

    def tell(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=out, flush=True)

    def wait() -> None:
        if not sys.stdin.readline():
            sys.exit("the benchmark has ended")

    make_meter = partial(Meter, name, turns, tell, wait)
    tell(ours(name, folder, make_meter, compiled) if who == "ours" else trl(name, folder, make_meter))


class Meter:
    """Wall-clock of the steps after warm-up and of what is wrapped; peak memory, beyond what is held now.

    tell: takes what became of a turn. wait: returns when the next one is to begin.
    """

    def __init__(
        self, name: str, turns: int, tell: Callable[[dict[str, Any]], None], wait: Callable[[], None]
    ) -> None:
        import torch

        self.cuda, self.torch, self.tell, self.wait = name == "gpu", torch, tell, wait
        self.turn = SETTINGS[name]["steps"]
        self.steps = WARMUP + turns * self.turn
        self.spans: dict[str, float] = {}
        self.before, self.done, self.began = resident(), 0, 0.0

    def now(self) -> float:
        if self.cuda:
            self.torch.cuda.synchronize()
        return time.perf_counter()

    def step(self) -> None:
        """To be called at the end of every step."""
        ended, self.done = self.now(), self.done + 1
        if self.done < WARMUP or (self.done - WARMUP) % self.turn:
            return
        spans = {"sampling": 0.0, "objective": 0.0, **self.spans, "seconds": ended - self.began}
        self.tell({key: seconds / self.turn for key, seconds in spans.items()})
        if self.done < self.steps:
            self.wait()
        self.spans.clear()
        self.began = self.now()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            began = self.now()
            try:
                return function(*arguments, **keywords)
            finally:
                self.spans[name] = self.spans.get(name, 0.0) + self.now() - began

        return wrapped

    def memory_mb(self) -> float:
        if self.cuda:
            return self.torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - self.before


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


def ours(name: str, folder: str, make_meter: Callable[[], Meter], compiled: bool = False) -> dict[str, Any]:
    import torch
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from conf.schema.llm import LlmConfig
    from core.objective import make_objective
    from launch.cli.validation import register
    from launch.engines.factory import make_engine
    from llm import train
    from llm.batch import BatchSettings, draw_batch
    from llm.inference import sampling
    from llm.models import load_models
    from llm.tasks.base import Task

    class Fixed(Task):
        def prompts(self) -> Any:
            return chats(name)

        def reward(self, prompt: Any, completion: str) -> float:
            return reward(completion)

    meter = make_meter()
    setting, cuda = SETTINGS[name], meter.cuda
    register("llm")
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
        f"model.compile_decoding={compiled}",
        f"model.device={'cuda' if cuda else 'cpu'}",
        f"model.dtype={'bfloat16' if cuda else 'float32'}",
    ]
    with initialize_config_module("conf.llm", version_base="1.3"):
        config = OmegaConf.to_object(compose("config", overrides=overrides))
    assert isinstance(config, LlmConfig)
    models = load_models(config.model)
    objective = make_objective(**config.objective_arguments())
    engine = make_engine("torch", models.policy, config.optimizer, meter.steps)
    task, eos = Fixed(), int(models.eos_ids[0])
    learner = train.make_learner(config, task, models, engine)
    settings = BatchSettings.from_config(config)
    draw = sampling.inverse_cdf

    def held_back(logits: Any, uniform: Any) -> Any:
        """No end of the sequence but where the uniform says so, with -1."""
        return draw(logits.index_fill(1, models.eos_ids, -torch.inf), uniform.abs()).masked_fill(uniform < 0, eos)

    sampling.inverse_cdf = held_back
    train.sample = meter.timed("sampling", train.sample)
    object.__setattr__(objective, "loss", meter.timed("objective", objective.loss))
    ends = lengths(name).unsqueeze(-1) - 1
    for step in range(meter.steps):
        batch = draw_batch(settings, models, task, step)
        batch = batch._replace(uniforms=batch.uniforms.scatter(1, ends.to(batch.uniforms.device), -1.0))
        result = train.train_step(learner, objective, batch, config.objective.beta)
        meter.step()
    tokens = round(float(result.metrics["length"]) * setting["P"] * setting["G"])  # type: ignore[arg-type]
    assert tokens == lengths(name).sum()
    assert batch.prompts.mask.sum(-1).eq(setting["prompt"]).all()
    found = {"tokens": tokens, "memory_mb": meter.memory_mb()}
    if cuda:
        found |= {
            "parameters": sum(p.numel() for p in models.policy.parameters()),
            "card": torch.cuda.get_device_name(),
        }
    return found


def on_card(turns: list[dict[str, Any]], end: dict[str, Any]) -> dict[str, float]:
    """Shares of what the card can do: bytes a second in decoding, model flop a second in the training passes."""
    flops, bandwidth = next(
        (peak for card, peak in PEAK.items() if card in end["card"]), (float("nan"), float("nan"))
    )
    setting, shape = SETTINGS["gpu"], LARGE
    P, G, L = setting["P"], setting["G"], setting["prompt"]
    weights = end["parameters"]  # the head is the embedding, and is read whole each step
    kv = 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * shape["head_dim"]  # numbers a token
    read = sum(weights + kv * P * (L + G * t) for t in range(setting["most"])) * 2  # bytes a step of training
    width = shape["num_attention_heads"] * shape["head_dim"] * shape["num_hidden_layers"]
    inputs = P * L + P * G * setting["most"]
    pairs = P * L * L / 2 + P * G * setting["most"] * (L + setting["most"] / 2)
    head = shape["vocab_size"] * shape["hidden_size"]
    forward = 2 * (weights - head) * inputs + 2 * head * P * G * setting["most"] + 4 * width * pairs
    sampling = statistics.median(turn["sampling"] for turn in turns)
    training = statistics.median(turn["seconds"] - turn["sampling"] for turn in turns)
    return {
        "decode's bandwidth over the card's": read / sampling / bandwidth,
        "training's model flop utilisation": 4 * forward / training / flops,  # reference, policy, twice that backward
    }


def trl(name: str, folder: str, make_meter: Callable[[], Meter]) -> dict[str, Any]:
    import datasets
    import torch
    import transformers
    import trl as peer
    from transformers import AutoTokenizer, LogitsProcessorList, TrainerCallback

    datasets.disable_progress_bars()
    meter = make_meter()
    setting, cuda = SETTINGS[name], meter.cuda
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
            max_steps=meter.steps,
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
        data = datasets.Dataset.from_list([{"prompt": chat} for chat in chats(name)] * meter.steps)
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
    assert seen[0] == lengths(name).sum()
    found = {"tokens": seen[0], "memory_mb": meter.memory_mb()}
    return found | {"versions": {m.__name__: m.__version__ for m in (peer, transformers, torch)}}


if __name__ == "__main__":
    main()
