"""A prior: a network with its vocabulary, saved as a folder."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from chem.models.network import Network, Rollout
from chem.models.recurrent import Recurrent
from chem.models.tokenizer import Tokenizer
from chem.models.transformer import Transformer
from conf.schema.base import ConfigError, check_config
from conf.schema.chem import NetworkConfig, RecurrentConfig, TransformerConfig
from launch.runs.atomic import make_folder, replacing
from launch.runs.run_folder import write_text


class Prior(NamedTuple):
    """A network with its vocabulary.

    Attributes:
        network: the model.
        tokenizer: its vocabulary.
        config: sizes of the network.
        max_tokens: longest sequence that is sampled, END included.
    """

    network: Network
    tokenizer: Tokenizer
    config: NetworkConfig
    max_tokens: int

    def decode(self, rollout: Rollout) -> list[str]:
        """SMILES of a rollout; a sequence truncated at `max_tokens` is not a SMILES and becomes ""."""
        smiles = self.tokenizer.decode(rollout.tokens)
        return [s if complete else "" for s, complete in zip(smiles, rollout.complete.tolist(), strict=True)]


SHIPPED = Path(__file__).parents[1] / "prior"
FILES = ("config.json", "vocabulary.json", "model.safetensors")
MAX_TOKENS = 10_000  # longest sequence of any prior: molecules have at most a few hundred tokens
CONFIGS: dict[str, type[NetworkConfig]] = {
    "lstm": RecurrentConfig,
    "gru": RecurrentConfig,
    "transformer": TransformerConfig,
}


def save_prior(folder: Path, prior: Prior) -> None:
    """Write config.json, vocabulary.json and model.safetensors."""
    make_folder(folder)
    settings: dict[str, Any] = {"network": dict(vars(prior.config)), "max_tokens": prior.max_tokens}
    write_text(folder / "config.json", json.dumps(settings, indent=1) + "\n")
    prior.tokenizer.save(folder / "vocabulary.json")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in prior.network.state_dict().items()}
    with replacing(folder / "model.safetensors") as file:
        save_file(weights, file)


def load_prior(folder: Path) -> Prior:
    """Load a folder that `save_prior` wrote, in float32, on the CPU and in evaluation mode.

    Raises:
        ConfigError: a file is missing or damaged, the files belong to different networks, a weight is not finite, or
            `max_tokens` is out of range.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder}: not a prior, {missing[0]} is missing (a prior is a folder with {', '.join(FILES)})"
        )
    try:
        settings = json.loads((folder / "config.json").read_text("utf-8"))
        config = CONFIGS[settings["network"]["name"]](**settings["network"])
        check_config(config, "network.")
        tokenizer = Tokenizer.load(folder / "vocabulary.json")
        network = make_network(len(tokenizer), config)
        weights = load_file(folder / "model.safetensors")
        network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        prior = Prior(network.eval(), tokenizer, config, settings["max_tokens"])
        check_prior(prior, str(folder))
        return prior
    except ConfigError:
        raise
    except Exception as error:  # from json, safetensors or load_state_dict
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{folder}: the prior cannot be loaded, its files are damaged or do not belong together "
            f"({type(error).__name__}: {reason})"
        ) from None


def check_prior(prior: Prior, source: str) -> None:
    """Check what a file may hold although no training gives it: the longest sequence, and weights that are numbers.

    Args:
        prior: the prior.
        source: where it comes from, for the message.

    Raises:
        ConfigError: `max_tokens` is not a whole number that the network can sample, or a weight is not finite.
    """
    high = min(prior.network.max_positions or MAX_TOKENS, MAX_TOKENS)
    if type(prior.max_tokens) is not int or not 2 <= prior.max_tokens <= high:
        raise ConfigError(
            f"{source}: max_tokens must be a whole number >= 2 and <= {high}, got {prior.max_tokens!r}; "
            "the prior is damaged, use another copy of it"
        )
    for name, tensor in prior.network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ConfigError(
                f"{source}: the weights {name} are not finite (NaN or infinite in float32); "
                "the prior is damaged, use another copy of it"
            )


def make_network(vocabulary: int, config: NetworkConfig) -> Network:
    """A network with new weights, drawn from torch's global generator."""
    if isinstance(config, RecurrentConfig):
        return Recurrent(vocabulary, config)
    if isinstance(config, TransformerConfig):
        return Transformer(vocabulary, config)
    raise ValueError(f"config must be a RecurrentConfig or a TransformerConfig, got {type(config).__name__}")
