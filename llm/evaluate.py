"""`python -m llm.evaluate`: how good and how diverse the completions of a run, a model or a file are."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from conf.schema.llm import EvaluateConfig
from launch.cli.app import start
from launch.runs.run_folder import user_path

if TYPE_CHECKING:
    from launch.runs.run import Run


def evaluate(config: EvaluateConfig, run: "Run") -> None:

    evaluate(config, run)


def evaluation_folder(run: str | None, otherwise: str) -> str:
    """Where an evaluation is written by default: into the folder of the run that it is about."""
    known = run is not None and (user_path(run) / "config.yaml").exists()
    return str(Path(str(run)) / "evaluation") if known else otherwise


if __name__ == "__main__":
    OmegaConf.register_new_resolver("evaluation_folder", evaluation_folder, replace=True)
    start("llm.evaluate", evaluate)
