"""Reading a command line before Hydra does: flags and overrides in any order, mistakes in one line."""

import re
import sys
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from conf.schema.base import ConfigError
from conf.schema.renames import renamed_key, renamed_option
from launch.cli.errors import not_an_override
from launch.cli.groups import options


def read_command_line(package: str) -> None:
    """Put flags before overrides in `sys.argv`, and refuse what Hydra would accept or answer with a page.

    Raises:
        ConfigError: an unknown flag, a key that is given twice, a renamed key, or no such option of a group.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        what, found, unknown = message.partition("unrecognized arguments: ")
        flags = ", ".join(re.findall(r"--[\w-]+", parser.format_usage()))
        raise ConfigError(f"{unknown}: no such flag; allowed: {flags}" if found else what)

    parser.error = refuse  # type: ignore[method-assign]
    overrides = parser.parse_intermixed_args().overrides
    flags = sys.argv[1:]
    for override in overrides:
        flags.remove(override)
    sys.argv = [f"python -m {package}", *flags, *overrides]
    check_overrides(package, overrides)


def check_overrides(package: str, overrides: list[str]) -> None:
    given: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides(overrides):
        key, value = override.get_key_element().lstrip("+~"), str(override.input_line).partition("=")[2]
        if not key:
            raise ConfigError(not_an_override(f"={value}"))
        if key in given:
            raise ConfigError(f"{key}: must be given once, got {given[key]} and {value}")
        given[key] = value
        if renamed_key(key) != key:
            raise ConfigError(f"{key}: was renamed to {renamed_key(key)}")
        if renamed_option(key, value) != value:
            raise ConfigError(f"{key}: {value} was renamed to {key}={renamed_option(key, value)}")
        chooses = override.is_sweep_override() or override.is_delete() or isinstance(override.value(), str | dict)
        if options(package, key) and not chooses:
            raise ConfigError(f"{key}: must be one of {', '.join(options(package, key))}, got {value}")
