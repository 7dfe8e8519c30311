"""Values of keys that follow from the model, unless a file or the command line sets them.

conf/llm/config.yaml refers to them as `${for_model:${model.name_or_path},KEY}`, so that they belong to the model that
is loaded, whichever group, file or override names it.
"""

from typing import Any

Values = dict[str, float | int | str | None]

# For the models that are trained here. Their matrices are too small for a GPU or for more threads.
PINNED: Values = {"model.device": "cpu", "model.dtype": "float32", "threads": 1}
BEST: Values = {"model.device": "auto", "model.dtype": "auto", "threads": None}
MODELS: dict[str, Values] = {
    "tiny": PINNED | {"optimizer.lr": 3.0e-4, "micro_batch": 64},
    "tiny_many": PINNED | {"optimizer.lr": 1.0e-3, "micro_batch": 128},
    "tiny_spellings": PINNED | {"optimizer.lr": 3.0e-4, "micro_batch": 192},
    "tiny_creative": PINNED | {"optimizer.lr": 1.0e-3, "micro_batch": 128},
    "tiny_maths": PINNED | {"optimizer.lr": 1.0e-3, "micro_batch": 128},
    "smollm2": BEST | {"optimizer.lr": 1.0e-5, "micro_batch": 64},
}
# Any other model. The learning rate is that of the paper, for training all weights.
OTHERS: Values = BEST | {"optimizer.lr": 1.0e-6, "micro_batch": 16}


def for_model(name: Any, key: str) -> float | int | str | None:
    """The value of a key for a model, by `model.name_or_path`. The resolver `for_model` of the YAML files."""
    return MODELS.get(name, OTHERS)[key]


RESOLVERS = {"for_model": for_model}
