"""`python -m chem.benchmark`: its configuration. What it does is tested in tests/chem/benchmarks."""

import pytest

from chem.benchmarks.suites import SUITES
from launch.cli.compose import compose


def test_the_defaults_are_the_published_setting():
    config = compose("chem.benchmark", [])
    assert (config["budget"], config["seeds"], config["tasks"]) == (10_000, 5, [])
    assert config["records"] == "benchmarks/records/pmo.jsonl"
    assert config["benchmark"] in SUITES


@pytest.mark.parametrize("name", SUITES)
def test_every_method_can_run(name):
    suite = SUITES[name]
    for method in suite.methods:
        config = compose("chem", suite.overrides(method, suite.tasks[-1]))
        assert config["oracle"]["components"][0]["name"] in ("pmo", "molexp", "donors")
        assert (config["loss"], config["budget"]) == ("reinvent", 10_000)
        assert (config["transform"]["name"] == "mara") == ("mara" in method)
