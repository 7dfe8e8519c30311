"""The commands that `launch` starts, each with the class of its configuration."""

from conf.schema import launchers  # noqa: F401  # importing it registers the launchers' options
from conf.schema.benchmark import BenchmarkConfig
from conf.schema.chem import ChemConfig, ChemEvaluateConfig, PretrainConfig, SampleConfig, ScoreConfig, StockConfig
from conf.schema.didactic import DidacticConfig
from conf.schema.llm import EnsembleConfig, EvaluateConfig, LlmConfig
from conf.schema.run import JobConfig

COMMANDS: dict[str, type[JobConfig]] = {  # by what follows `python -m`
    "didactic": DidacticConfig,
    "llm": LlmConfig,
    "llm.ensemble": EnsembleConfig,
    "llm.evaluate": EvaluateConfig,
    "chem": ChemConfig,
    "chem.pretrain": PretrainConfig,
    "chem.sample": SampleConfig,
    "chem.score": ScoreConfig,
    "chem.evaluate": ChemEvaluateConfig,
    "chem.stock": StockConfig,
    "chem.benchmark": BenchmarkConfig,
}
