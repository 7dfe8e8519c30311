"""Read and convert priors written by REINVENT 4 or REINVENT 2.

Such a file is a pickle. It is read with torch's restricted loader, which runs no code: it accepts tensors and
containers, and here also the few classes that REINVENT stores beside them, replaced by plain holders of their
attributes. A file that names any other class is refused.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chem.models.prior import Prior, check_prior, make_network
from chem.models.tokenizer import END, START, Tokenizer
from conf.schema.base import ConfigError, check_config
from conf.schema.chem import RecurrentConfig

DEFAULTS: dict[str, Any] = {  # REINVENT's, for what `network_params` leaves out
    "layer_size": 512,
    "num_layers": 3,
    "cell_type": "gru",
    "embedding_layer_size": 256,
    "dropout": 0.0,
}
OLD_CLASSES = (  # for files older than torch 1.6, whose class names cannot be listed before loading
    "models.vocabulary.Vocabulary",
    "models.vocabulary.SMILESTokenizer",
    "reinvent_models.reinvent_core.models.vocabulary.Vocabulary",
    "reinvent_models.reinvent_core.models.vocabulary.SMILESTokenizer",
)
PREFIXES = {"_embedding.": "embedding.", "_rnn.": "cells.", "_linear.": "head."}  # of weights: REINVENT's -> ours


class Vocabulary:
    """Holder for REINVENT's class of this name: `_tokens` maps tokens to ids and ids to tokens."""


class SMILESTokenizer:
    """Holder for REINVENT's class of this name, which has no state."""


class ModelMetaData:
    """Holder for REINVENT's class of this name."""


class UUID:
    """Holder for Python's class of this name, in the metadata."""


HOLDERS: dict[str, type] = {cls.__name__: cls for cls in (Vocabulary, SMILESTokenizer, ModelMetaData, UUID)}


def read_reinvent(path: Path) -> dict[str, Any]:
    """Read the contents of a prior's file without running any code in it.

    Raises:
        ConfigError: the file is not a REINVENT prior, or names a class that REINVENT does not store.
    """
    try:
        if zipfile.is_zipfile(path):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        else:
            names = list(OLD_CLASSES)
        foreign = [name for name in names if name.rpartition(".")[2] not in HOLDERS]
        if foreign:
            raise ConfigError(
                f"{path}: refused because it names {foreign[0]}, which no REINVENT prior has; no code in it was run"
            )
        allowed = [(HOLDERS[name.rpartition(".")[2]], name) for name in names]
        with torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:
        raise ConfigError(f"{path}: not a prior of REINVENT ({str(error).partition(chr(10))[0]})") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: not a prior of REINVENT (its content has type {type(content).__name__}, not dict)"
        )
    missing = [key for key in ("vocabulary", "network", "max_sequence_length") if key not in content]
    if missing:
        raise ConfigError(f"{path}: not a prior of REINVENT ({', '.join(missing)} missing)")
    if content.get("model_type", "Reinvent") != "Reinvent":
        raise ConfigError(f"{path}: only priors of model_type Reinvent can be converted, got {content['model_type']}")
    return content


def convert_prior(content: Mapping[str, Any]) -> Prior:
    """Convert the contents of a REINVENT prior to a prior with the same log-likelihoods.

    Raises:
        ConfigError: the network or the vocabulary cannot be converted.
    """
    ids = token_ids(content["vocabulary"])
    if sorted(ids.values()) != list(range(len(ids))) or not {END, START} <= ids.keys():
        raise ConfigError(
            f"vocabulary: must have the tokens {END} and {START} and the ids 0, 1, 2, ... without gaps, "
            f"got {dict(list(ids.items())[:4])}"
        )
    others = sorted(ids.keys() - {END, START}, key=lambda token: ids[token])
    tokens = [END, START, *others]
    rows = torch.tensor([ids[token] for token in tokens])

    params = DEFAULTS | dict(content.get("network_params") or {})
    if params.get("layer_normalization"):
        raise ConfigError(
            "network_params.layer_normalization: must be false, got true; REINVENT normalises over positions, so "
            "a token's probability would depend on later tokens"
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
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            raise ConfigError(f"network: only weights of {', '.join(PREFIXES)} can be converted, got {name}")
        by_token = prefix != "_rnn."
        weights[PREFIXES[prefix] + name.removeprefix(prefix)] = tensor.index_select(0, rows) if by_token else tensor
    network = make_network(len(tokens), config)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"network: the weights do not have the sizes in network_params ({reason})") from None
    # REINVENT counts START among a sequence's tokens.
    length = content["max_sequence_length"]
    prior = Prior(network.eval(), Tokenizer(tokens), config, length - 1 if isinstance(length, int) else length)
    check_prior(prior, "max_sequence_length or network")
    return prior


def token_ids(vocabulary: Any) -> dict[str, int]:
    """Ids by token.

    Args:
        vocabulary: REINVENT's object, which has ids by token and tokens by id in one mapping, or its dictionary.

    Raises:
        ConfigError: it is neither.
    """
    mapping = getattr(vocabulary, "_tokens", vocabulary)
    if isinstance(mapping, Mapping) and isinstance(mapping.get("tokens"), Mapping):
        mapping = mapping["tokens"]
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"vocabulary: must be a mapping of tokens to ids, got a {type(mapping).__name__}")
    return {token: number for token, number in mapping.items() if isinstance(token, str) and isinstance(number, int)}
