"""Completion of `mara` with TAB in bash, zsh and fish: commands, flags, groups with their options, and keys.

The shell asks `mara -sc query=SHELL` with the words of the line in MARA_WORDS, one per line. The last of them is to
be completed, and may be empty; a dot follows it, since shells remove empty lines at the end. The keys are those of
the configuration that the words before it give.
"""

import io
import os
import re
import runpy
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from conf.schema.base import Key
from launch.cli.command_table import BY_MODULE, BY_WORDS, STARTED_AS

SHELLS = ("bash", "zsh", "fish")
WORDS = "MARA_WORDS"
FLAGS = ("--help", "--multirun", "--cfg", "--resolve", "--config-dir", "--config-name", "--config-path", "--info")

BASH = r"""
_mara_complete() {
    local line=() word cword="${COMP_WORDS[COMP_CWORD]}"
    read -ra line <<< "${COMP_LINE:0:COMP_POINT}"
    [[ "${COMP_LINE:0:COMP_POINT}" == *[[:space:]] ]] && line+=("")
    word="${line[${#line[@]}-1]}"
    local cut="${word%"$cword"}"  # bash breaks words at = and :, and replaces the last part only
    [[ "$cword" == "=" || "$cword" == ":" ]] && cut="$word"
    [[ "$word" == *"$cword" ]] || cut=""
    mapfile -t COMPREPLY < <(MARA_WORDS="$(printf '%s\n' "${line[@]:1}" .)" "${line[0]}" -sc query=bash 2> /dev/null)
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" != *[=/.] ]] && compopt +o nospace
    return 0
}
complete -o default -o bashdefault -o nospace -F _mara_complete mara
"""
ZSH = r"""
_mara_complete() {
    local -a found
    found=("${(@f)$(MARA_WORDS="${(F)words[2,CURRENT]}"$'\n.' "$words[1]" -sc query=zsh 2> /dev/null)}")
    found=(${found:#})
    local -a open closed
    open=(${(M)found:#*[=/.]}) closed=(${found:#*[=/.]})
    compadd -S '' -- $open
    compadd -- $closed
    (( $#found )) || { compset -P '*='; _files }
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u }
compdef _mara_complete mara
"""
FISH = r"""
function __mara_complete
    set -l words (commandline -opc) (commandline -ct)
    MARA_WORDS=(string join \n -- $words[2..-1] . | string collect) $words[1] -sc query=fish 2> /dev/null
end
complete -c mara -a '(__mara_complete)'
"""
SCRIPTS = dict(zip(SHELLS, (BASH, ZSH, FISH), strict=True))
REMOVALS = {
    "bash": "complete -r mara\nunset -f _mara_complete",
    "zsh": "compdef -d mara\nunfunction _mara_complete",
    "fish": "complete -c mara -e\nfunctions -e __mara_complete",
}
REQUEST = (  # what can be asked for
    f"--shell-completion: must be install=SHELL or uninstall=SHELL, SHELL one of {', '.join(SHELLS)}; for example "
    'eval "$(mara -sc install=bash)"'
)


def answer(request: str) -> str | None:
    """What `mara -sc REQUEST` prints; None if the request is not understood."""
    action, _, shell = request.partition("=")
    if shell not in SHELLS:
        return None
    if action == "query":
        return "".join(f"{candidate}\n" for candidate in candidates(os.environ.get(WORDS, "\n.").split("\n")[:-1]))
    scripts = {"install": SCRIPTS, "uninstall": REMOVALS}.get(action)
    return None if scripts is None else scripts[shell].strip() + "\n"


def candidates(words: Sequence[str]) -> list[str]:
    """The completions of the last word of a command line that starts with `mara`."""
    *before, word = words
    if not before:
        return _matching(dict.fromkeys(words.partition(" ")[0] for words in BY_WORDS), word)
    os.environ[STARTED_AS] = "mara"
    completions: list[str] = []
    if len(before) == 1:
        further = [words.partition(" ")[2] for words in BY_WORDS if words.startswith(f"{before[0]} ")]
        completions += [second for second in further if second.startswith(word)]
    length = 2 if " ".join(before[:2]) in BY_WORDS else 1
    name = " ".join(before[:length])
    module = BY_WORDS[name].module if name in BY_WORDS else name
    if module in BY_MODULE:
        with suppress(Exception), redirect_stderr(io.StringIO()):  # an error in the words before
            completions += _arguments(module, before[length:], word)
    return completions


def _matching(names: Iterable[str], word: str) -> list[str]:
    return [name for name in names if name.startswith(word)]


def _arguments(module: str, before: Sequence[str], word: str) -> list[str]:
    """The completions of an argument of a command."""
    from conf.schema.commands import COMMANDS  # imported here, as is Hydra below: completing a command needs neither

    package: str | None = {"llm.plan": "llm"}.get(module, module)
    if module == "launch.submit":
        package = next((argument for argument in before if argument in COMMANDS), None)
    if word.startswith("-"):
        return _matching(FLAGS if module in COMMANDS else _flags(module), word)
    if module == "launch.submit" and package is None:
        return _matching(COMMANDS, word)
    return _overrides(package, before, word) if package in COMMANDS else []


def _flags(module: str) -> list[str]:
    """The long flags in the help of a command."""
    help_text, arguments = io.StringIO(), sys.argv
    sys.argv = [module, "--help"]
    try:
        with redirect_stdout(help_text), suppress(SystemExit):
            runpy.run_module(module, run_name="__main__")
    finally:
        sys.argv = arguments
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", help_text.getvalue())))


def _overrides(package: str, before: Sequence[str], word: str) -> list[str]:
    """Groups with their options, and keys with the values that the schema allows."""
    from launch.cli.compose import compose_unchecked
    from launch.cli.groups import groups, options
    from launch.cli.help import described_keys

    overrides = [argument for argument in before if "=" in argument and argument[0] != "-"]
    of_user = [Path(after) for flag, after in pairwise(before) if flag in ("--config-dir", "-cd")]
    key, equals, start = word.partition("=")
    chosen, comma, last = start.rpartition(",")  # the values of a sweep
    if equals:
        own = {path.stem for folder in of_user for path in (folder / key).glob("*.yaml")}
        folder = last.rpartition("/")[0]  # experiment=NAME/CELL
        cells = {f"{folder}/{cell}" for cell in options(package, f"{key}/{folder}")} if folder else ()
        values = sorted({*options(package, key), *own, *cells})
        if not values:
            keys = described_keys(compose_unchecked(package, overrides))
            values = next((_values(value, described) for name, value, described in keys if name == key), [])
        return [f"{key}={chosen}{comma}{value}" for value in _matching(values, last)]
    names = [f"{group}=" for group in (*groups(package), "hydra/launcher")]
    names += [f"{name}=" for name, _, _ in described_keys(compose_unchecked(package, overrides))]
    return sorted({_next_part(name, word) for name in _matching(names, word)})


def _next_part(name: str, word: str) -> str:
    """A dotted name up to the first dot behind a word."""
    end = name.find(".", len(word))
    return name if end < 0 else name[: end + 1]


def _values(value: Any, key: Key) -> list[str]:
    """The values that a key allows, if they can be listed."""
    return ["true", "false"] if isinstance(value, bool) else list(key.choices or ())
