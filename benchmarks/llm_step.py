"""Complete training steps of mara and of TRL's GRPOTrainer on the same work, in two processes that take turns.

    python -m benchmarks.llm_step [short] [long] [real] [real_long] [gpu] [--turns N] [--compiled]

short: prompts of 26 tokens, completions of 32. long: prompts of 256 tokens, completions of 8 to 64. Both use 8
prompts x 16 completions of a small Qwen3 with random weights, in fp32 on the CPU. real: the size and vocabulary of
SmolLM2-135M, 2 x 16 completions of 32 tokens, prompts of 26; real_long: prompts of 200 tokens, completions of 8 to
64, in passes of 8 on both sides, since the other side needs more than 24 GiB for passes of 32. gpu: the size of
Qwen3-1.7B with random weights, bf16, prompts of 512 tokens, 16 x 16 completions of 256 tokens.

Both sides use the same weights, prompts, reward and learning rate, a beta > 0 so that a reference is needed, one
update per step on the whole batch, and no gradient checkpointing. Every completion has a fixed length: both sides
mask the logits so that the end-of-sequence token is sampled exactly there. Times are those of whole steps after a
warm-up. While one process is timed the other one waits, so that changes in the speed of the machine affect both; a
turn of `short` has three steps. On a GPU one process ends before the other starts. Turns in which other processes
used more than a tenth of a core are excluded from the medians. Memory is a process's peak after the warm-up minus
its memory after the imports. On the CPU the matrix products of the first step are counted, and at the end of the
warm-up timed alone, each by itself: the share of the step that they need, and the ratio of both sides if they did
nothing but their products. Needs trl.
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

from benchmarks.fixed_lengths import FixedSteps, chats, lengths, reward
from benchmarks.roofline import Peak, decoding_bytes, device_peak, forward_flops
from benchmarks.scaling.meter import forget_peak

SETTINGS: dict[str, dict[str, Any]] = {
    "short": {"P": 8, "G": 16, "prompt": 26, "least": 32, "most": 32, "turns": 12, "steps": 3},
    "long": {"P": 8, "G": 16, "prompt": 256, "least": 8, "most": 64, "turns": 8, "steps": 1},
    "real": {"P": 2, "G": 16, "prompt": 26, "least": 32, "most": 32, "turns": 5, "steps": 1},
    "real_long": {"P": 2, "G": 16, "prompt": 200, "least": 8, "most": 64, "turns": 3, "steps": 1},
    "gpu": {"P": 16, "G": 16, "prompt": 512, "least": 256, "most": 256, "turns": 3, "steps": 1},
}
LARGE: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
}
LARGE |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
SMOLLM2: dict[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
}
SMOLLM2 |= {"num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152}
# What `benchmarks.fixed_lengths.build` makes for a setting, where it is not the small model.
MODELS: dict[str, dict[str, Any]] = {
    "real": {"shape": SMOLLM2},
    "real_long": {"shape": SMOLLM2},
    "gpu": {"shape": LARGE, "dtype": "bfloat16", "device": "cuda"},
}
# Sequences in a pass, for both sides.
MICRO_BATCH = {"short": 128, "long": 128, "real": 32, "real_long": 8, "gpu": 32}
WARMUP = 2
SIDES = ("mara", "trl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=["short", "long"], choices=SETTINGS)
    parser.add_argument("--turns", type=int, help="turns of each side (default: 12, 8 and 3)")
    parser.add_argument("--compiled", action="store_true", help="run mara with model.compile_decoding=true")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child, options.settings[0], options.model, options.turns, options.compiled)
        return
    for name in options.settings:
        turns = options.turns or SETTINGS[name]["turns"]
        with tempfile.TemporaryDirectory() as folder:
            program = f"from benchmarks.fixed_lengths import build; build({folder!r}, **{MODELS.get(name, {})!r})"
            subprocess.run([sys.executable, "-c", program], check=True)
            report(name, *measure(name, folder, turns, options.compiled))


class Child:
    """A process of one side. After its warm-up it takes the steps of a turn on request."""

    def __init__(self, side: str, name: str, folder: str, turns: int, compiled: bool) -> None:
        self.side, self.errors = side, Path(folder) / f"{side}.log"
        command = [sys.executable, "-m", "benchmarks.llm_step", name, "--child", side, "--model", folder]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, "--turns", str(turns), *(["--compiled"] if compiled else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._receive()  # the end of the warm-up

    def _receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.side} ended with status {self.process.wait()}:\n{self.errors.read_text()[-4000:]}")
        message: dict[str, Any] = json.loads(line)
        return message

    def turn(self) -> dict[str, Any]:
        """Seconds per step and of its parts, and CPU seconds per second of other processes."""
        assert self.process.stdin is not None
        busy, own, start = machine_busy(), self._cpu_seconds(), time.perf_counter()
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        times = self._receive()
        others = (machine_busy() - busy) - (self._cpu_seconds() - own)
        return times | {"others": max(others, 0.0) / (time.perf_counter() - start)}

    def end(self) -> dict[str, Any]:
        """Wait for the process to end; returns its last message."""
        message = self._receive()
        self.process.wait()
        return message

    def _cpu_seconds(self) -> float:
        return sum(psutil.Process(self.process.pid).cpu_times()[:2])


def measure(
    name: str, folder: str, turns: int, compiled: bool
) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """The times of each turn as pairs of both sides, and the last message of each side."""
    if name == "gpu":
        times, ends = [], []
        for side in SIDES:
            child = Child(side, name, folder, turns, compiled)
            times.append([child.turn() for _ in range(turns)])
            ends.append(child.end())
        return [list(pair) for pair in zip(*times, strict=True)], ends
    children = [Child(side, name, folder, turns, compiled) for side in SIDES]
    pairs = []
    for _ in range(turns):
        pairs.append([child.turn() for child in children])
        print(name, *(f"{turn['seconds']:.2f} s" for turn in pairs[-1]), file=sys.stderr, flush=True)
    return pairs, [child.end() for child in children]


def report(name: str, pairs: list[list[dict[str, Any]]], ends: list[dict[str, Any]]) -> None:
    undisturbed = [pair for pair in pairs if name == "gpu" or max(turn["others"] for turn in pair) <= 0.1]
    print(f"{name}: {SETTINGS[name]}, {len(undisturbed)} of {len(pairs)} turns undisturbed; {ends[1]['versions']}")
    counted = undisturbed or pairs
    print(f"{'':6} {'tokens/s':>10} {'s/step':>8} {'memory MB':>10} {'sampling s':>11}")
    for side, turns, end in zip(SIDES, zip(*counted, strict=True), ends, strict=True):
        seconds, sampling = (statistics.median(turn[key] for turn in turns) for key in ("seconds", "sampling"))
        print(f"{side:6} {end['tokens'] / seconds:10.0f} {seconds:8.3f} {end['memory_mb']:10.0f} {sampling:11.3f}")
    ratios = [trl["seconds"] / mara["seconds"] for mara, trl in counted]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    median = statistics.median(ratios)
    print(f"ratio of tokens/s: median {median:.2f} (quartiles {quartiles[0]:.2f} to {quartiles[2]:.2f})")
    print(f"ratio of memory: {ends[0]['memory_mb'] / ends[1]['memory_mb']:.2f}")
    report_products(counted, ends)
    share = statistics.median(mara["objective"] / mara["seconds"] for mara, _ in counted)
    print(f"transform, advantages and loss: {share:.2%} of mara's step")
    if name == "gpu":
        for key, value in utilisation([mara for mara, _ in counted], ends[0]).items():
            print(f"{key}: {value:.2%}")


def report_products(counted: list[list[dict[str, Any]]], ends: list[dict[str, Any]]) -> None:
    """Print what the products of each side take alone, where they were counted."""
    if not all("products" in end for end in ends):
        return
    for side, turns, end in zip(SIDES, zip(*counted, strict=True), ends, strict=True):
        share = end["products"] / statistics.median(turn["seconds"] for turn in turns)
        print(f"{side}: products alone {end['products']:.2f} s, {share:.0%} of a step; {end['gflops']:.0f} Gflop")
    print(f"ratio of the products alone: {ends[1]['products'] / ends[0]['products']:.2f}")


def run_child(side: str, name: str, folder: str, turns: int, compiled: bool) -> None:
    """Run one side in this process.

    It prints a line of JSON after the warm-up, after each turn, which a line on stdin requests, and at the end.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import torch

    if name != "gpu":
        torch.set_num_threads(os.cpu_count() or 1)

    def send(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=out, flush=True)

    def wait() -> None:
        if not sys.stdin.readline():
            sys.exit("the benchmark has ended")

    make_meter = partial(Meter, name, turns, send, wait, count_products=name != "gpu" and not compiled)
    send(run_mara(name, folder, make_meter, compiled) if side == "mara" else run_trl(name, folder, make_meter))


class Meter:
    """Measures the wall-clock time of steps and of wrapped functions, and the growth of memory since its creation.

    report: called with the times of each turn. wait: returns when the next turn may start. count_products: time the
    products of the first step alone, at the end of the warm-up.
    """

    def __init__(
        self,
        name: str,
        turns: int,
        report: Callable[[dict[str, Any]], None],
        wait: Callable[[], None],
        count_products: bool = False,
    ) -> None:
        import torch

        from benchmarks.products import CountProducts

        self.cuda, self.torch, self.report, self.wait = name == "gpu", torch, report, wait
        self.steps_per_turn = SETTINGS[name]["steps"]
        self.steps = WARMUP + turns * self.steps_per_turn
        self.spans: dict[str, float] = {}
        self.initial_memory, self.done, self.start = resident_mb(), 0, 0.0
        self.products = CountProducts() if count_products else None
        self.ends: dict[str, float] = {}  # results for the last message
        if self.products:
            self.products.__enter__()

    def now(self) -> float:
        """Current time, after pending work on the GPU."""
        if self.cuda:
            self.torch.cuda.synchronize()
        return time.perf_counter()

    def step(self) -> None:
        """Must be called at the end of every step."""
        end, self.done = self.now(), self.done + 1
        if self.products and self.done == 1:
            self.products.__exit__(None, None, None)
        if self.products and self.done == WARMUP:
            self.time_products(self.products.counts)
        if self.done == WARMUP and not self.cuda:
            forget_peak()
        if self.done < WARMUP or (self.done - WARMUP) % self.steps_per_turn:
            return
        spans = {"sampling": 0.0, "objective": 0.0, **self.spans, "seconds": end - self.start}
        self.report({key: seconds / self.steps_per_turn for key, seconds in spans.items()})
        if self.done < self.steps:
            self.wait()
        self.spans.clear()
        self.start = self.now()

    def time_products(self, counts: Any) -> None:
        """Time the products alone."""
        from benchmarks.products import seconds_alone, total_flops

        self.ends = {"products": seconds_alone(counts), "gflops": total_flops(counts) / 1e9}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added to the span `name`."""

        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            start = self.now()
            try:
                return function(*arguments, **keywords)
            finally:
                self.spans[name] = self.spans.get(name, 0.0) + self.now() - start

        return wrapped

    def memory_mb(self) -> float:
        """Peak memory, on the CPU without the initial memory."""
        if self.cuda:
            return self.torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - self.initial_memory


def resident_mb() -> float:
    """Current memory of this process in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def machine_busy() -> float:
    """CPU seconds of all processes of this machine."""
    with open("/proc/stat") as file:
        ticks = [int(number) for number in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def run_mara(name: str, folder: str, make_meter: Callable[[], Meter], compiled: bool = False) -> dict[str, Any]:
    import torch

    import llm.train  # noqa: F401  # before the meter: what the imports take is not counted, as on the other side

    meter = make_meter()
    overrides = [
        f"micro_batch={MICRO_BATCH[name]}",
        f"model.compile_decoding={compiled}",
        f"model.device={'cuda' if meter.cuda else 'cpu'}",
        f"model.dtype={'bfloat16' if meter.cuda else 'float32'}",
    ]
    steps = FixedSteps(SETTINGS[name], folder, meter.steps, overrides, meter.timed)
    for _ in range(meter.steps):
        steps.step()
        meter.step()
    message: dict[str, Any] = {"tokens": steps.tokens, "memory_mb": meter.memory_mb(), **meter.ends}
    if meter.cuda:
        message |= {
            "parameters": sum(p.numel() for p in steps.models.policy.parameters()),
            "peak": device_peak(torch.device("cuda"), torch.bfloat16),
        }
    return message


def utilisation(turns: list[dict[str, Any]], end: dict[str, Any]) -> dict[str, float]:
    """Shares of the GPU's peak: bytes per second in decoding, and model flops per second in the training passes."""
    setting, peak, weights = SETTINGS["gpu"], Peak(*end["peak"]), end["parameters"]
    sampling = statistics.median(turn["sampling"] for turn in turns)
    training = statistics.median(turn["seconds"] - turn["sampling"] for turn in turns)
    return {
        "memory bandwidth of decoding": decoding_bytes(setting, LARGE, weights, 2) / sampling / peak.bandwidth,
        # Forward passes of reference and policy, and a backward pass that costs two of them.
        "model flop utilisation of training": 4 * forward_flops(setting, LARGE, weights) / training / peak.flops,
    }


def run_trl(name: str, folder: str, make_meter: Callable[[], Meter]) -> dict[str, Any]:
    import datasets
    import torch
    import transformers
    import trl as peer
    from transformers import AutoTokenizer, LogitsProcessorList, TrainerCallback

    datasets.disable_progress_bars()
    meter = make_meter()
    setting, cuda = SETTINGS[name], meter.cuda
    tokenizer = AutoTokenizer.from_pretrained(folder)
    last_positions, token_count = lengths(SETTINGS[name]) - 1, 0

    def only_end_at_length(ids: Any, scores: Any) -> Any:
        position = ids.shape[1] - setting["prompt"]
        is_last = (last_positions == position).to(scores.device).unsqueeze(-1)
        is_eos = torch.arange(scores.shape[1], device=scores.device) == tokenizer.eos_token_id
        return scores.masked_fill(torch.where(is_last, ~is_eos, is_eos), -torch.inf)

    def rewards(completions: Any, completion_ids: Any, **_: Any) -> list[float | None]:
        nonlocal token_count
        token_count = sum(map(len, completion_ids))
        return [reward(completion[-1]["content"]) for completion in completions]

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
        data = datasets.Dataset.from_list([{"prompt": chat} for chat in chats(SETTINGS[name])] * meter.steps)
        trainer = peer.GRPOTrainer(
            model=folder,
            reward_funcs=rewards,
            args=options,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[Steps()],
        )
        model: Any = trainer.model
        generate = meter.timed("sampling", model.generate)
        processors = LogitsProcessorList([only_end_at_length])
        model.generate = lambda *a, **k: generate(*a, **k, logits_processor=processors)
        trainer.train()
    assert token_count == lengths(SETTINGS[name]).sum()
    return {"tokens": token_count, "memory_mb": meter.memory_mb(), **meter.ends} | {
        "versions": {m.__name__: m.__version__ for m in (peer, transformers, torch)}
    }


if __name__ == "__main__":
    main()
