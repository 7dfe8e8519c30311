"""Write values and folders as overrides in Hydra's grammar."""

import re
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString


def quote(text: str) -> str:
    """The quoted value that Hydra and OmegaConf read as exactly this text, also if it contains `${`."""
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # OmegaConf reads \${ as ${, and \\ before it as \
    return QuotedString(escaped, Quote.single).with_quotes()


def run_folder_override(folder: Path | str) -> str:
    """The override that runs a job in a folder."""
    return f"hydra.run.dir={quote(str(folder))}"
