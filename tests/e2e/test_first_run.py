"""The first run of each package on a terminal, with an empty cache: no silence, and no message of a library."""

import re

import pytest

from .terminal import on_terminal

LONGEST_SILENCE = 5.0  # seconds
NOISE = re.compile(r"warning|warn\(|deprecat|\[W|\bINFO\b|\bDEBUG\b|it/s\]|accelerator|Traceback", re.IGNORECASE)
RUNS = {
    "llm": ("llm", ["steps=2", "evaluation_completions=64"]),
    "reward models and data": ("llm", ["experiment=creative_tiny", "steps=1", "evaluation_completions=24"]),
    "adapter": ("llm", ["steps=1", "model.lora.rank=4", "evaluation_completions=64"]),
    "plan": ("llm.plan", []),
    "chem": ("chem", ["steps=2"]),
    "didactic": ("didactic", ["steps=40"]),
}


NIGHTLY = ("reward models and data", "adapter")


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.long) if c in NIGHTLY else c for c in RUNS])
def test_a_first_run_is_never_silent_and_shows_only_what_is_ours(case, tmp_path):
    module, arguments = RUNS[case]
    if case == "adapter":
        pytest.importorskip("peft")
    shown = on_terminal(module, *arguments, home=tmp_path / "home")
    assert shown.status == 0, shown.text
    assert shown.gap < LONGEST_SILENCE
    noise = [line for line in shown.text.splitlines() if NOISE.search(line)]
    assert noise == []
    assert re.search(r"^next: python -m ", shown.text, re.MULTILINE)
    if module != "llm.plan":
        folder = re.search(r"^run folder: (.+?) *$", shown.text, re.MULTILINE)
        assert folder is not None
        assert f"picture: {folder[1]}/figure.png" in shown.text


@pytest.mark.slow
def test_a_silence_is_measured(tmp_path):
    """The measurement sees a silence; the control."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "silent.py").write_text("import time\nprint('a', flush=True)\ntime.sleep(1.5)\nprint('warning: b')\n")
    shown = on_terminal("silent", home=home)
    assert 1.4 < shown.gap < LONGEST_SILENCE
    assert NOISE.search(shown.text)
