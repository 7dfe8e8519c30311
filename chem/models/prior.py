"""A prior: a network with its vocabulary, saved as a folder."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file

from chem.models.network import Network, Rollout
from chem.models.recurrent import Recurrent
from chem.models.tokenizer import Tokenizer
from chem.models.transformer import Transformer
from conf.schema.base import ConfigError, check_config
from conf.schema.chem import NetworkConfig, RecurrentConfig, TransformerConfig


class Prior(NamedTuple):
    """A network with its vocabulary and the longest sequence, END included, that it is to draw."""

    network: Network
    tokenizer: Tokenizer
    config: NetworkConfig
    max_tokens: int

    def decode(self, rollout: Rollout) -> list[str]:
        """The SMILES of a rollout; one that was cut at the longest length is no SMILES and comes as ""."""
        smiles = self.tokenizer.decode(rollout.tokens)
        return [one if whole else "" for one, whole in zip(smiles, rollout.complete.tolist(), strict=True)]


SHIPPED = Path(__file__).parents[1] / "prior"
FILES = ("config.json", "vocabulary.json", "model.safetensors")
KINDS: dict[str, type[NetworkConfig]] = {
    "lstm": RecurrentConfig,
    "gru": RecurrentConfig,
    "transformer": TransformerConfig,
}


def save_prior(folder: Path, prior: Prior) -> None:
    """config.json, vocabulary.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"network": dict(vars(prior.config)), "max_tokens": prior.max_tokens}
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
    prior.tokenizer.save(folder / "vocabulary.json")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in prior.network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def load_prior(folder: Path) -> Prior:
    """What `save_prior` wrote, in float32, on the CPU, in evaluation mode.

    Raises:
        ConfigError: a file is missing, damaged, or not of the others' network.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"{folder}: must be a prior's folder with {', '.join(FILES)}, got no {missing[0]} in it")
    try:
        settings = json.loads((folder / "config.json").read_text("utf-8"))
        config = KINDS[settings["network"]["name"]](**settings["network"])
        check_config(config, "network.")
        tokenizer = Tokenizer.load(folder / "vocabulary.json")
        network = make_network(len(tokenizer), config)
        weights = load_file(folder / "model.safetensors")
        network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        return Prior(network.eval(), tokenizer, config, int(settings["max_tokens"]))
    except ConfigError:
        raise
    except Exception as error:  # of JSON, safetensors, shapes
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{folder}: must be a prior that was saved whole, got {type(error).__name__}: {reason}"
        ) from None


def make_network(vocabulary: int, config: NetworkConfig) -> Network:
    """A network of fresh weights, drawn from torch's global generator."""
    if isinstance(config, RecurrentConfig):
        return Recurrent(vocabulary, config)
    if isinstance(config, TransformerConfig):
        return Transformer(vocabulary, config)
    raise ValueError(f"network must be recurrent or a transformer, got {type(config).__name__}")
