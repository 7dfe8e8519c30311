"""Convert a configuration, whichever program it is of."""

from pathlib import Path

from chem.foreign.conversion import Conversion
from chem.foreign.ledger import Ledger, Section
from chem.foreign.reinvent import convert_reinvent, read_configuration
from chem.foreign.saturn import convert_saturn
from conf.schema.base import ConfigError


def convert_configuration(path: Path) -> Conversion:
    """Convert a file of REINVENT 4 or Saturn.

    Raises:
        ConfigError: it is neither, or cannot be converted.
    """
    values = read_configuration(path)
    saturn = "goal_directed_generation" in values
    if not saturn and "run_type" not in values:
        raise ConfigError(f"{path}: must have the key run_type (REINVENT 4) or goal_directed_generation (Saturn)")
    ledger = Ledger()
    source = Section(ledger, values, "", "Saturn" if saturn else "REINVENT 4")
    ledger.add(source)
    try:
        return convert_saturn(source) if saturn else convert_reinvent(source, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
