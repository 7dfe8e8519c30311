"""`python -m chem.benchmark`: its configuration. What it does is tested in tests/chem/benchmarks."""

from chem.benchmarks.suites import SUITES
from launch.cli.compose import compose


def test_the_defaults_are_the_published_setting():
    config = compose("chem.benchmark", [])
    assert (config["budget"], config["seeds"], config["tasks"]) == (10_000, 5, [])
    assert config["records"] == "benchmarks/records/pmo.jsonl"
    assert config["benchmark"] in SUITES


def test_every_method_can_run():
    for method in compose("chem.benchmark", [])["methods"]:
        config = compose("chem", [f"experiment=benchmark/{method}", *SUITES["molexp"].overrides("AP")])
        assert config["oracle"]["components"][0]["name"] == "molexp"
        assert (config["loss"], config["budget"], config["cache"]) == ("reinvent", 10_000, None)
