"""Print the table of docs/models.md: how a tiny model of each architecture is read, and what its head does.

    python -m tools.models_table [docs/models.md]

With a page, its table is replaced. The models are those of `tests/llm/architectures.py`, which the tests compare with
rows that are read one at a time.
"""

import sys
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from launch.analysis.marked_page import TABLE, write_marked
from launch.runs.run_folder import one_line_errors
from llm.inference.head import body_of, head_of
from llm.inference.paths import path_of
from llm.inference.rope import length_limit

HEADER = "| class | `model_type` | path | head | note |\n|---|---|---|---|---|\n"
TIES = "exact for rows of at most `index_topk` tokens; past it, equal scores may be ordered differently"
NOTES = {
    "deepseek_v32": TIES,
    "glm_moe_dsa": TIES,
    "recurrent_gemma": "its state is in the layers, where its rows cannot be repeated",
    "rwkv": "its state is wrong for batches of single tokens",
}


def row(name: str, model: Any) -> str:
    """The line of a model of `tests/llm/architectures.py`."""
    note = NOTES.get(name, "")
    try:
        form = head_of(model)
        path = path_of(body_of(model)).name
    except ConfigError as error:
        path, head, note = "refused", "", str(error).removeprefix("model.name_or_path: ")
    else:
        parts = {"bias": form.bias is not None, "scale": form.scale != 1.0, "cap": form.cap is not None}
        head = ", ".join(part for part, present in parts.items() if present)
    if length_limit(model.config):
        note = "refused past `original_max_position_embeddings`"
    return f"| {type(model).__name__} | {name} | {path} | {head} | {note} |\n"


def main(arguments: list[str]) -> None:
    """Print the table, or write it into the page that is named."""
    from tests.llm.architectures import ARCHITECTURES, build

    table = HEADER + "".join(row(name, build(name)) for name in ARCHITECTURES)
    if arguments:
        with one_line_errors("tools.models_table"):
            write_marked(Path(arguments[0]), *TABLE, table)
    else:
        print(table, end="")


if __name__ == "__main__":
    main(sys.argv[1:])
