"""`python -m llm.ensemble policy=... reference=...`: average the weights of a policy with those of its reference."""

from pathlib import Path
from typing import TYPE_CHECKING

from conf.schema.base import ConfigError
from conf.schema.llm import EnsembleConfig
from launch.cli.app import start
from launch.runs.atomic import replacing
from launch.runs.progress import working
from launch.runs.run_folder import user_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from launch.runs.run import Run


def ensemble(config: EnsembleConfig, run: "Run") -> None:
    """Load both models, average their weights and save the result to policy/ in the run folder."""
    with working("loading the libraries"):
        from transformers import GenerationConfig

        from llm.adapters import load_tokenizer
        from llm.inference.generation_config import savable

    policy_path, reference_path = resolve_policy(config.policy), resolve_policy(config.reference)
    with working("loading the models"):
        policy = load_causal_model("policy", policy_path)
        reference = load_causal_model("reference", reference_path)
    distance = average_weights(policy, reference, config.weight)
    policy.generation_config = savable(policy.generation_config or GenerationConfig())
    tokenizer = load_tokenizer(policy_path)
    with replacing(run.folder / "policy") as folder:
        policy.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    run.finish({"weight": config.weight, "rms_distance": distance, "parameters": policy.num_parameters()})


def average_weights(policy: "PreTrainedModel", reference: "PreTrainedModel", weight: float) -> float:
    """Set each parameter of the policy to (1 - weight) * reference + weight * policy, computed in float32.

    Returns:
        Root mean square of policy - reference over all parameters, before averaging.

    Raises:
        ConfigError: the two models' parameters differ in name or shape.
    """
    import torch

    policy_parameters, reference_parameters = (dict(model.named_parameters()) for model in (policy, reference))
    policy_shapes, reference_shapes = (
        {name: tuple(p.shape) for name, p in parameters.items()}
        for parameters in (policy_parameters, reference_parameters)
    )
    names = {**policy_parameters, **reference_parameters}
    different = [name for name in names if policy_shapes.get(name) != reference_shapes.get(name)]
    if different:
        raise ConfigError(
            "reference: must be the model that the policy was trained from, but "
            f"{len(different)} parameters differ in name or shape, the first being {different[0]}"
        )
    squares, count = 0.0, 0
    with torch.no_grad():
        for name, parameter in policy_parameters.items():
            ours, theirs = parameter.float(), reference_parameters[name].float()
            squares += float((ours - theirs).double().square().sum())
            count += ours.numel()
            parameter.copy_((1 - weight) * theirs + weight * ours)
    return (squares / count) ** 0.5


def resolve_policy(name: str) -> str:
    """What `from_pretrained` loads for a name: a run's policy, a test model built here, a folder or a hub name."""
    from llm.testbed.names import resolve_model
    from llm.testbed.tiny_models import POLICIES

    is_run = (user_path(name) / "run.json").is_file()
    return resolve_model(str(Path(name) / "policy") if is_run else name, POLICIES)


def load_causal_model(key: str, name: str) -> "PreTrainedModel":
    """Load a causal language model in the dtype it was saved in. Raises ConfigError for `key` if that fails."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from llm.adapters import load_pretrained

    logging.disable_progress_bar()
    try:
        model: PreTrainedModel = load_pretrained(AutoModelForCausalLM, name, dtype="auto")[0]
        return model
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{key}: must be a run, a folder or a hub name of a model, got {name} ({reason})") from None


if __name__ == "__main__":
    start("llm.ensemble", ensemble)
