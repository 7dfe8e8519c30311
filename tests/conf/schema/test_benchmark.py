"""The keys of chem.benchmark."""

import pytest

from conf.schema.base import ConfigError
from launch.cli.compose import compose


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark=moses", "benchmark: must be one of pmo, molexp, molexpl, table2, got moses"),
        ("seeds=0", "seeds: must be >= 1 and <= 10000, got 0"),
        ("budget=99", "budget: must be >= 100, got 99"),
        ("workers=-1", "workers: must be >= 0, got -1"),
    ],
)
def test_wrong_values_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        compose("chem.benchmark", [override])
