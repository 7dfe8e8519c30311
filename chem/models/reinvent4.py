"""Priors that REINVENT 4 or REINVENT 2 wrote.

Such a file is a pickle. It is read by torch's restricted loader, which runs nothing: of classes it knows tensors and
containers alone, and the few that REINVENT stores beside them become plain holders of their attributes. A file that
names anything else is refused.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chem.models.prior import Prior, make_network
from chem.models.tokenizer import END, START, Tokenizer
from conf.schema.base import ConfigError, check_config
from conf.schema.chem import RecurrentConfig

DEFAULTS: dict[str, Any] = {
    "layer_size": 512,
    "num_layers": 3,
    "cell_type": "gru",
    "embedding_layer_size": 256,
    "dropout": 0.0,
}
OLD_NAMES = (  # in files older than torch 1.6, whose names cannot be listed beforehand
    "models.vocabulary.Vocabulary",
    "models.vocabulary.SMILESTokenizer",
    "reinvent_models.reinvent_core.models.vocabulary.Vocabulary",
    "reinvent_models.reinvent_core.models.vocabulary.SMILESTokenizer",
)
PARTS = {"_embedding.": "embedding.", "_rnn.": "cells.", "_linear.": "head."}


class Vocabulary:
    """Stands for REINVENT's class of this name: `_tokens`, from token to id and back."""


class SMILESTokenizer:
    """Stands for REINVENT's class of this name, which has no state."""


class ModelMetaData:
    """Stands for REINVENT's class of this name."""


class UUID:
    """Stands for Python's class of this name, in the metadata."""


HOLDERS: dict[str, type] = {one.__name__: one for one in (Vocabulary, SMILESTokenizer, ModelMetaData, UUID)}


def read_reinvent(path: Path) -> dict[str, Any]:
    """The contents of a prior's file; nothing in it is run.

    Raises:
        ConfigError: it is no such file, or it names something else than what REINVENT stores.
    """
    try:
        if zipfile.is_zipfile(path):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        else:
            names = list(OLD_NAMES)
        foreign = [name for name in names if name.rpartition(".")[2] not in HOLDERS]
        if foreign:
            raise ConfigError(
                f"{path}: must hold a network, a vocabulary and metadata alone, got {foreign[0]}; it was not run"
            )
        allowed = [(HOLDERS[name.rpartition(".")[2]], name) for name in names]
        with torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path}: must be a prior of REINVENT, got {str(error).partition(chr(10))[0]}") from None
    missing = [key for key in ("vocabulary", "network", "max_sequence_length") if key not in content]
    if not isinstance(content, dict) or missing:
        raise ConfigError(f"{path}: must be a prior of REINVENT, got no {', '.join(missing)} in it")
    if content.get("model_type", "Reinvent") != "Reinvent":
        raise ConfigError(f"{path}: must be of model_type Reinvent, got {content['model_type']}")
    return content


def convert(content: Mapping[str, Any]) -> Prior:
    """A prior with the same log-likelihoods.

    Raises:
        ConfigError: the network or the vocabulary is of another kind.
    """
    ids = token_ids(content["vocabulary"])
    if sorted(ids.values()) != list(range(len(ids))) or not {END, START} <= ids.keys():
        raise ConfigError(
            f"vocabulary: must have {END}, {START} and ids from 0 on, got {dict(list(ids.items())[:4])}"
        )
    others = sorted(ids.keys() - {END, START}, key=lambda token: ids[token])
    tokens = [END, START, *others]
    rows = torch.tensor([ids[token] for token in tokens])

    params = DEFAULTS | dict(content.get("network_params") or {})
    if params.get("layer_normalization"):
        raise ConfigError(
            "network_params.layer_normalization: must be false (REINVENT normalises over positions, so a token's "
            "probability depends on later ones), got true"
        )
    config = RecurrentConfig(
        name=params["cell_type"],
        layers=params["num_layers"],
        hidden=params["layer_size"],
        embedding=params["embedding_layer_size"],
        dropout=float(params["dropout"]),
    )
    check_config(config, "network.")
    weights: dict[str, Tensor] = {}
    for name, tensor in content["network"].items():
        part = next((part for part in PARTS if name.startswith(part)), None)
        if part is None:
            raise ConfigError(f"network: must have {', '.join(PARTS)} and nothing else, got {name}")
        weights[PARTS[part] + name.removeprefix(part)] = tensor if part == "_rnn." else tensor.index_select(0, rows)
    network = make_network(len(tokens), config)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"network: must be of the sizes in network_params, got {reason}") from None
    # REINVENT counts START among a sequence's tokens.
    return Prior(network.eval(), Tokenizer(tokens), config, int(content["max_sequence_length"]) - 1)


def token_ids(vocabulary: Any) -> dict[str, int]:
    """Ids by token, of REINVENT's object (ids by token and tokens by id in one mapping) or of its dictionary."""
    mapping = getattr(vocabulary, "_tokens", vocabulary)
    if isinstance(mapping, Mapping) and isinstance(mapping.get("tokens"), Mapping):
        mapping = mapping["tokens"]
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"vocabulary: must be a mapping of tokens to ids, got {type(mapping).__name__}")
    return {token: number for token, number in mapping.items() if isinstance(token, str) and isinstance(number, int)}
