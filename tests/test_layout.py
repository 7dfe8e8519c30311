"""The tests mirror the code: the test of ROOM/PATH/MODULE.py is tests/ROOM/PATH/test_MODULE.py."""

from pathlib import Path

import pytest

from launch.cli.shadowing import ROOMS

HOME = Path(__file__).resolve().parents[1]
# Modules without a test of their own, and what tests them.
ELSEWHERE: dict[str, str] = {}


def modules() -> list[Path]:
    """The rooms' modules, but those that only collect names or parse a command line."""
    found = (path for room in (*ROOMS, "hydra_plugins") for path in (HOME / room).rglob("*.py"))
    return sorted(path.relative_to(HOME) for path in found if path.stem not in ("__init__", "__main__"))


def expected_test(module: Path) -> Path:
    return Path("tests") / module.parent / f"test_{module.name}"


@pytest.mark.parametrize("module", modules(), ids=str)
def test_a_module_has_its_test(module):
    where = Path(ELSEWHERE.get(str(module), expected_test(module)))
    assert (HOME / where).is_file()


def test_no_exception_is_stale():
    known = {str(module) for module in modules()}
    assert [name for name in ELSEWHERE if name not in known or (HOME / expected_test(Path(name))).is_file()] == []
