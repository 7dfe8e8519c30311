"""`python -m llm.ensemble policy=... reference=...`: a policy's weights averaged with its reference's."""

from pathlib import Path
from typing import TYPE_CHECKING

from conf.schema.base import ConfigError
from conf.schema.llm import EnsembleConfig
from launch.cli.app import start
from launch.runs.run_folder import user_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from launch.runs.run import Run


def combine(config: EnsembleConfig, run: "Run") -> None:
    """The whole job: load both, average, save under `policy` in the run folder."""
    from transformers import AutoTokenizer

    names = find(config.policy), find(config.reference)
    policy, reference = (load(key, name) for key, name in zip(("policy", "reference"), names, strict=True))
    distance = average(policy, reference, config.weight)
    policy.save_pretrained(run.folder / "policy")
    AutoTokenizer.from_pretrained(names[0], trust_remote_code=False).save_pretrained(run.folder / "policy")
    run.finish({"weight": config.weight, "rms_distance": distance, "parameters": policy.num_parameters()})


def average(policy: "PreTrainedModel", reference: "PreTrainedModel", weight: float) -> float:
    """Make the policy (1 - weight) reference + weight policy, parameter by parameter, in float32.

    Returns:
        Root mean square of policy - reference before, over all parameters.

    Raises:
        ConfigError: the two have parameters of other names or shapes.
    """
    import torch

    ours, theirs = (dict(model.named_parameters()) for model in (policy, reference))
    shapes = [{name: tuple(p.shape) for name, p in some.items()} for some in (ours, theirs)]
    different = [name for name in {**ours, **theirs} if shapes[0].get(name) != shapes[1].get(name)]
    if different:
        raise ConfigError(
            f"reference: must be the model that the policy started from, got {len(different)} parameters that "
            f"differ in name or shape, {different[0]} the first"
        )
    squares, count = 0.0, 0
    with torch.no_grad():
        for name, parameter in ours.items():
            mine, other = parameter.float(), theirs[name].float()
            squares += float((mine - other).double().square().sum())
            count += mine.numel()
            parameter.copy_((1 - weight) * other + weight * mine)
    return (squares / count) ** 0.5


def find(name: str) -> str:
    """The folder of a model built here, a run's policy, a folder, or the name as it is."""
    from llm.testbed.tiny_models import POLICIES, resolve_model

    of_run = (user_path(name) / "run.json").is_file()
    return resolve_model(str(Path(name) / "policy") if of_run else name, POLICIES)


def load(key: str, name: str) -> "PreTrainedModel":
    """In the type that it was saved in."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(name, dtype="auto", trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{key}: must be a run, a folder or a hub name of a model, got {name} ({reason})") from None


if __name__ == "__main__":
    start("llm.ensemble", combine)
