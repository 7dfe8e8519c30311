"""`python -m llm experiment=NAME`: post-train a causal language model."""

from typing import TYPE_CHECKING

from conf.schema.llm import LlmConfig
from launch.cli.app import start
from launch.runs.progress import working

if TYPE_CHECKING:
    from launch.runs.run import Run


def train(config: LlmConfig, run: "Run") -> None:
    """Train one policy, in the run folder of `run`."""
    with working("loading the libraries"):
        from llm.train import train as train_policy  # imported here: loads torch and transformers

    train_policy(config, run)


if __name__ == "__main__":
    start("llm", train)
