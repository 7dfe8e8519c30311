"""Models of Chemprop 2: graph neural networks, read with torch's restricted loader."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chem.files import find_file
from chem.oracles.qsar import BatchedModel
from conf.schema.base import ConfigError

PARTS = ("message_passing", "agg", "predictor")
DICTIONARY = "lightning.fabric.utilities.data.AttributeDict"  # a dict, read as one
FUNCTIONS = ("torchmetrics.metric.jit_distributed_available", "torchmetrics.utilities.data.dim_zero_sum")


class ChempropModel(BatchedModel):
    """The prediction of a Chemprop model of one molecule, without further descriptors.

    Args:
        model: file .pt that `chemprop train` wrote.
        column: task of a model with several, from 0.

    Raises:
        ConfigError: Chemprop is not installed, or the file is no such model.
    """

    version = "1"  # change it whenever the values change

    def __init__(self, model: str, column: int | None = None) -> None:
        path = find_file("model", model)
        try:
            from chemprop.data import BatchMolGraph
            from chemprop.featurizers import SimpleMoleculeMolGraphFeaturizer
        except ImportError as error:
            raise ConfigError(
                "model: models of Chemprop need the package chemprop, which cannot be imported: pip install "
                f"'chemprop>=2.1' ({' '.join(str(error).split())[:200]})"
            ) from error
        try:
            network = read_chemprop(path)
        except ConfigError:
            raise
        except Exception as error:  # a damaged file, or a model of another kind
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"model: {path.name} cannot be read as a model of Chemprop 2 ({reason})") from error

        def predict(graphs: list[Any]) -> np.ndarray:
            with torch.inference_mode():
                return network(BatchMolGraph(graphs)).numpy()

        super().__init__(path, SimpleMoleculeMolGraphFeaturizer(), predict, ("chemprop", "torch"), column)


def read_chemprop(path: Path) -> Callable[..., torch.Tensor]:
    """Read a network, of which only classes of `chemprop.nn` and torch's activations are made.

    Raises:
        ConfigError: the file names anything else.
    """
    from chemprop.models import MPNN

    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    allowed = [allowed_global(path, name) for name in names]
    with torch.serialization.safe_globals(allowed):
        content = torch.load(path, map_location="cpu", weights_only=True)
    settings = content["hyper_parameters"]
    settings["predictor"]["criterion"] = None  # of the training
    parts = {name: settings[name].pop("cls")(**settings[name]) for name in PARTS}
    network = MPNN(**{**settings, **parts, "metrics": None})
    unequal = network.load_state_dict(content["state_dict"], strict=False)
    keys = [key for key in (*unequal.missing_keys, *unequal.unexpected_keys) if "task_weights" not in key]
    if keys:
        raise ConfigError(f"model: {path.name} does not fit this version of Chemprop: {', '.join(keys[:3])}")
    return network.eval()


def allowed_global(path: Path, name: str) -> Any:
    """The class or function of this name, for torch's restricted loader.

    Raises:
        ConfigError: a file of Chemprop does not need it.
    """
    module, _, last = name.rpartition(".")
    if name == DICTIONARY:
        return dict, name
    if name in FUNCTIONS or module.startswith(("chemprop.nn.", "torch.nn.modules.activation")):
        found = getattr(import_module(module), last, None)
        if name in FUNCTIONS or isinstance(found, type):
            return found
    raise ConfigError(f"model: {path.name} names {name}, which no model of Chemprop does; it was not read")
