"""A forked process ends as `python -m MODULE` does."""

import os
import subprocess
import sys

import pytest

from tools.as_command import become_command

CODES = {
    "pass": (0, "", ""),
    "import sys; print(sys.argv[1:])": (0, "['a b']\n", ""),
    "import sys; sys.exit(3)": (3, "", ""),
    "import sys; sys.exit('one line')": (1, "", "one line\n"),
    "raise ValueError('wrong')": (1, "", "ValueError: wrong\n"),
}


@pytest.mark.parametrize("code", CODES)
def test_it_ends_as_the_module_does(tmp_path, monkeypatch, code):
    (tmp_path / "typed_command.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    paths = [tmp_path / "out", tmp_path / "err"]
    child = os.fork()
    if child == 0:

        def redirect():
            for number, path in enumerate(paths, 1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))

        become_command(["typed_command", "a b"], redirect)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    out, error = (path.read_text() for path in paths)
    assert (status, out, error[-len(CODES[code][2]) :] if CODES[code][2] else error) == CODES[code]
    typed = subprocess.run(
        [sys.executable, "-m", "typed_command", "a b"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (status, out, error.splitlines()[-1:]) == (typed.returncode, typed.stdout, typed.stderr.splitlines()[-1:])
