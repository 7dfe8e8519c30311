"""`python -m llm.evaluate`: measure the quality and diversity of the completions of a run, a model or a file."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from conf.schema.llm import EvaluateConfig
from launch.cli.app import start
from launch.runs.progress import working
from launch.runs.run_folder import user_path

if TYPE_CHECKING:
    from launch.runs.run import Run


def evaluate(config: EvaluateConfig, run: "Run") -> None:
    """Evaluate one subject, in the run folder of `run`."""
    with working("loading the libraries"):
        from llm.evaluation.pipeline import run_evaluation  # imported here: loads torch and transformers

    run_evaluation(config, run)


def evaluation_folder(run: str | None, otherwise: str) -> str:
    """Default output folder: evaluation/ in the folder of the run that is evaluated, else `otherwise`."""
    is_run = run is not None and (user_path(run) / "config.yaml").exists()
    return str(Path(str(run)) / "evaluation") if is_run else otherwise


if __name__ == "__main__":
    OmegaConf.register_new_resolver("evaluation_folder", evaluation_folder, replace=True)
    start("llm.evaluate", evaluate)
