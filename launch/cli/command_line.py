"""Read a command line before Hydra does: flags and overrides in any order, errors on one line."""

import re
import sys
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from conf.schema.base import ConfigError
from conf.schema.renames import renamed_key, renamed_option
from launch.cli.completion import REQUEST, answer
from launch.cli.errors import invalid_override_message
from launch.cli.groups import options

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")


def read_command_line(package: str) -> None:
    """Reorder `sys.argv`, overrides before flags, and reject errors that Hydra would accept or print as a usage page.

    Raises:
        ConfigError: an unknown flag, one that would load a pickle, or an override that `check_overrides` rejects.
    """
    parser = get_args_parser()

    def raise_config_error(message: str) -> NoReturn:
        before, is_unknown, unknown = message.partition("unrecognized arguments: ")
        flags = ", ".join(re.findall(r"--[\w-]+", parser.format_usage()))
        raise ConfigError(f"{unknown}: unknown flag; allowed: {flags}" if is_unknown else before)

    parser.error = raise_config_error  # type: ignore[method-assign]
    arguments = parser.parse_intermixed_args()
    if arguments.shell_completion:
        script = answer(arguments.overrides[0] if arguments.overrides else "")
        if script is None:
            raise ConfigError(REQUEST)
        print(script, end="")
        sys.exit(0)
    if arguments.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun: it loads a pickle; use python -m launch.reproduce RUN instead")
    overrides = arguments.overrides
    flags = sys.argv[1:]
    for override in overrides:
        flags.remove(override)
    sys.argv = [f"python -m {package}", *overrides, *flags]  # --info takes what follows it for its value
    check_overrides(package, overrides)


def check_overrides(package: str, overrides: list[str]) -> None:
    """Reject overrides that Hydra would accept without effect, or answer with a message that does not help.

    Raises:
        ConfigError: a key that is empty, given twice or renamed, or a value that cannot be an option of its group.
    """
    values: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides(overrides):
        key, value = override.get_key_element().lstrip("+~"), str(override.input_line).partition("=")[2]
        if not key:
            raise ConfigError(invalid_override_message(f"={value}"))
        if key in values:
            raise ConfigError(f"{key}: given twice, as {values[key]} and as {value}; remove one of them")
        if key in FOLDERS and value.strip("'\" ") in ("", "null"):
            raise ConfigError(f"{key}: must be a folder, got {value or 'nothing'}; is a variable of the shell empty?")
        values[key] = value
        if renamed_key(key) != key:
            raise ConfigError(f"{key}: was renamed to {renamed_key(key)}")
        if renamed_option(key, value) != value:
            raise ConfigError(f"{key}: {value} was renamed to {key}={renamed_option(key, value)}")
        may_be_option = (
            override.is_sweep_override() or override.is_delete() or isinstance(override.value(), str | dict)
        )
        if options(package, key) and not may_be_option:
            raise ConfigError(f"{key}: must be one of {', '.join(options(package, key))}, got {value}")
