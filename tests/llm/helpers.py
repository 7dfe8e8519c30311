"""Helpers of several tests."""

import copy
import json

import pytest
import torch
from omegaconf import OmegaConf

from conf.schema.llm import SourceConfig
from core.objective import make_objective
from launch.engines.factory import make_engine
from launch.runs.run import Run
from llm import train as training
from llm.batch import BatchSettings, draw_batch
from llm.train import make_learner, train_step


def user_chat(text):
    """A chat with a single turn."""
    return [{"role": "user", "content": text}]


def source(path, count=None):
    """A data source of a configuration."""
    return SourceConfig(path=path, subset=None, split="train", count=count)


def write_lines(path, records):
    """Write records as JSON Lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def parameters(model):
    """All parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def one_step(models, task, config):
    """A training step of a copy of the policy.

    Returns what it reports, the policy's parameters after it, and the gradient of each of its updates.
    """
    models = models._replace(policy=copy.deepcopy(models.policy))
    engine = make_engine("torch", models.policy, config.optimizer, config.steps)
    gradients, step = [], engine.step

    def record_and_step():
        gradients.append(torch.cat([p.grad.flatten() for p in models.policy.parameters()]))
        return step()

    engine.step = record_and_step
    batch = draw_batch(BatchSettings.from_config(config), models, task, step=0)
    objective = make_objective(**config.objective_arguments())
    result = train_step(make_learner(config, task, models, engine), objective, batch, config.objective.beta)
    return result, parameters(models.policy), gradients


def train_rows(folder, models, task, make_config, *overrides):
    """Train a copy of the models with a checkpoint at each step; returns the rows of metrics.jsonl."""
    fresh = models._replace(policy=copy.deepcopy(models.policy))
    options = ("evaluation_completions=6", "checkpoint.every_steps=1", "checkpoint.keep=9", *overrides)
    config = make_config(*options)
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(training, "load_models", lambda *arguments: fresh)
        context.setattr(training, "load_task", lambda name, config: task)
        context.setattr(training, "report_run", lambda *arguments: None)
        with Run(folder, "llm", OmegaConf.structured(config), list(options)) as run:
            training.train(config, run)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
