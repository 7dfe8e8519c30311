"""Rollouts of a run that collapses, as three trainers write them, by their own functions.

verl and OpenRLHF are used where they are on the path; otherwise `write_verl` and `write_openrlhf_table` write what
verl 0.9.1 (`RayPPOTrainer._write_generations`) and OpenRLHF 0.11.2 (`WandbLogger.log_train`) write.
"""

import json
import random
from contextlib import suppress
from types import SimpleNamespace
from unittest import mock

QUESTION = "Is it one or two?"
TEXTS = ("<answer>1</answer>", "<answer>2</answer>", "no idea")
STEPS, GROUP, START = 60, 16, 20
SLOWER = 5
RICH = "trl.trainer.grpo_trainer.is_rich_available"
CHATML = f"system\nYou are a helpful assistant.\nuser\n{QUESTION}\nassistant\n"  # decoded without special tokens


def policy(step):
    """The probability of each text: from .6, .2, .2 to nearly only the first, between steps 20 and 40."""
    moved = min(max((step - START) / 20, 0.0), 1.0)
    second, third = 0.2 * (1 - moved) + 0.002 * moved, 0.2 * (1 - moved)
    return (1 - second - third, second, third)


def draws():
    """The texts of each step, as indices."""
    generator = random.Random(0)
    return {step: generator.choices(range(3), policy(step), k=GROUP) for step in range(1, STEPS + 1)}


def reward(number):
    return float(number < 2)


def write_trl(folder):
    """By `GRPOTrainer.log` of TRL, without a model; and trainer_state.json by transformers."""
    from collections import defaultdict
    from typing import Any

    from transformers import Trainer, TrainerState
    from trl import GRPOTrainer

    (folder / "completions").mkdir(parents=True)
    state = TrainerState()
    trainer: Any = GRPOTrainer.__new__(GRPOTrainer)
    trainer.model, trainer.state, trainer.log_completions = SimpleNamespace(training=True), state, True
    trainer.accelerator = SimpleNamespace(is_main_process=True)
    trainer.args = SimpleNamespace(report_to=[], output_dir=str(folder))
    trainer.num_completions_to_print, trainer.log_unique_prompts = 0, False

    def log(self, logs, start):
        state.log_history.append({**logs, "step": state.global_step})

    for step, numbers in draws().items():
        state.global_step = step
        trainer._metrics = {"train": defaultdict(list, {"rewards/right/mean": [0.5], "kl": [0.01 * step]})}
        trainer._logs = {
            "prompt": [[{"role": "user", "content": QUESTION}]] * GROUP,
            "completion": [[{"role": "assistant", "content": TEXTS[number]}] for number in numbers],
            "rewards": {"right": [reward(number) for number in numbers]},
            "extra": {"length": [float(len(TEXTS[number])) for number in numbers]},
            "advantages": [0.0] * GROUP,
            "images": [],
        }
        with mock.patch.object(Trainer, "log", log), mock.patch(RICH, return_value=False):
            trainer.log({})
    state.save_to_json(str(folder / "trainer_state.json"))
    return folder


def write_verl(folder):
    """By verl's own function, if it is there."""
    write = _write_generations
    with suppress(ImportError):
        from benchmarks.kl_conformance.stand_ins import load

        (module,) = load("verl", "trainer.ppo.ray_trainer")
        write = module.RayPPOTrainer._write_generations
    for step, numbers in draws().items():
        extra = {"acc": [number < 2 for number in numbers], "pred": [("1", "2", "")[number] for number in numbers]}
        texts = [TEXTS[number] for number in numbers]
        write([CHATML] * GROUP, texts, ["1"] * GROUP, list(map(reward, numbers)), extra, str(folder), step)
    return folder


def _write_generations(inputs, outputs, gts, scores, extra, folder, step):
    from pathlib import Path

    rows = {"input": inputs, "output": outputs, "gts": gts, "score": scores, "step": [step] * len(inputs), **extra}
    lines = [
        json.dumps(dict(zip(rows, values, strict=True)), ensure_ascii=False)
        for values in zip(*rows.values(), strict=True)
    ]
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, f"{step}.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")


def openrlhf_samples():
    """(step, [prompt and completion, reward]) of OpenRLHF: one sample of each step, of SLOWER times as many steps."""
    generator = random.Random(1)
    steps = range(1, SLOWER * STEPS + 1)
    numbers = [generator.choices(range(3), policy(step / SLOWER))[0] for step in steps]
    return [(step, [CHATML + TEXTS[number], reward(number)]) for step, number in zip(steps, numbers, strict=True)]


def write_openrlhf_table(folder):
    """The table of W&B, which grows with each step."""
    folder.mkdir(parents=True)
    data = [[step, *sample] for step, sample in openrlhf_samples()]
    for count in (10, len(data)):
        rows = {"columns": ["global_step", "text", "reward"], "data": data[:count], "ncols": 3, "nrows": count}
        (folder / f"generated_samples_{count}_0123456789abcdef.table.json").write_text(json.dumps(rows))
    return folder


def write_openrlhf_events(folder):
    """By `TensorboardLogger.log_train` of OpenRLHF if it is there, else by the same calls of torch's writer."""
    try:
        from benchmarks.kl_conformance.stand_ins import load

        (module,) = load("openrlhf", "utils.logging_utils")
        names = SimpleNamespace(tensorboard_dir=str(folder), wandb=SimpleNamespace(run_name="run"))
        logger = module.TensorboardLogger(SimpleNamespace(logger=names))
        log = lambda step, sample: logger.log_train(step, {"reward": 0.5, "generated_samples": sample})  # noqa: E731
    except ImportError:
        from torch.utils.tensorboard import SummaryWriter

        logger = SummaryWriter(log_dir=str(folder / "run"))
        log = lambda step, sample: logger.add_text(  # noqa: E731
            "train/generated_samples", f"Sample:\\n{sample[0]}\\n\\nReward: {sample[1]:.4f}", step
        )
    for step, sample in openrlhf_samples():
        log(step, sample)
    logger.close()
    return folder
