"""Folders and values as overrides: every printable character comes back from Hydra and OmegaConf as it was."""

import random
import string

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from launch.cli.compose import _compose
from launch.cli.overrides import quote, run_folder_override

CHARACTERS = [*filter(str.isprintable, string.printable), *"éßñ漢ا😀\u00a0\u2028\t\n"]
SPECIAL = "\\${}'\",:=[]()#~ é"


def read(override):
    """The value that a configuration has after this override."""
    return OmegaConf.create({"value": OverridesParser.create().parse_override(override).value()}).value


@pytest.mark.parametrize("text", [f"/a/{c}" for c in CHARACTERS] + [f"/a/{c}b" for c in CHARACTERS])
def test_every_printable_character_is_kept(text):
    assert read(f"key={quote(text)}") == text


def test_characters_next_to_each_other_are_kept():
    generator = random.Random(0)
    texts = ["/" + "".join(generator.choices(SPECIAL, k=generator.randint(1, 9))) for _ in range(300)]
    texts += ["", "null", "true", "1", "???x", "${x}", "\\${x}", "a\\\\${x}${y}\\", "'", "\\'", "${oc.env:HOME}"]
    assert [text for text in texts if read(f"key={quote(text)}") != text] == []


def test_a_run_folder_may_have_any_name():
    folder = "/tmp/" + "".join(c for c in CHARACTERS if c != "/") + "${x}"
    assert _compose("didactic", [run_folder_override(folder)], with_hydra=True).hydra.run.dir == folder


@pytest.mark.parametrize("character", "é#!()';&^<>[]{}\"=,`")
def test_control_without_quotes_these_are_errors_or_other_values(character):
    try:
        assert read(f"key=/a/{character}b c") != f"/a/{character}b c"
    except Exception as error:
        assert type(error).__module__.startswith(("hydra", "omegaconf"))  # noqa: PT017
