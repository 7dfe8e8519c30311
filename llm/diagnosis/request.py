"""What `llm.diagnose` is asked for: its keys, the trainer's settings, and what is known of the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conf.schema.base import ConfigError
from core.diagnosis.analysis import Run
from core.diagnosis.own_run import own_run
from core.diagnosis.trainer_kl import DEFAULTS, KlFact, kl_fact
from launch.cli.key_values import check_keys, number_of, truth_of
from launch.runs.run_folder import flatten, read_yaml, user_path
from llm.diagnosis.columns import ALIASES
from llm.diagnosis.rollout_files import OURS, Options, Reading

OWN_KEYS = (
    *("trainer", "config", "beta", "threshold", "from_reference", "reference", "device", "split", "out"),
    *("equivalence", "embedder", "embedding_threshold"),
)
SETTINGS = tuple(dict.fromkeys(name for settings in DEFAULTS.values() for name in settings))
KEYS = tuple(dict.fromkeys((*OWN_KEYS, *ALIASES, *SETTINGS)))
NEAR_MODEL = ("actor_rollout_ref.actor.", "algorithm.")  # where verl's settings of the policy are
EMBEDDER, EMBEDDING_THRESHOLD = "sentence-transformers/all-MiniLM-L6-v2", 0.8


@dataclass(frozen=True)
class Request:
    """The keys of a command line, checked.

    Attributes:
        values: as typed.
        options: how files are read.
        out: the folder to write to.
    """

    values: dict[str, str]
    options: Options
    out: Path


def read_request(values: dict[str, str]) -> Request:
    """Check the keys of a command line.

    Raises:
        ConfigError: a key is unknown or has a value that it cannot have.
    """
    check_keys(values, KEYS)
    if values.get("trainer", "trl") not in DEFAULTS:
        raise ConfigError(f"trainer: must be one of {', '.join(DEFAULTS)}, got {values['trainer']}")
    if values.get("equivalence", "exact") not in ("exact", "embedding"):
        raise ConfigError(f"equivalence: must be exact or embedding, got {values['equivalence']}")
    number_of(values, "beta", 0.0)
    number_of(values, "threshold")
    number_of(values, "embedding_threshold")
    truth_of(values, "from_reference", True)
    columns = {what: values[what] for what in ALIASES if what in values}
    split = values.get("split", "").encode().decode("unicode_escape")
    return Request(values, Options(columns, split), user_path(values.get("out", "diagnosis")))


def known_run(request: Request, reading: Reading, classes: str) -> Run:
    """What is known of the run: from the keys, its trainer's configuration, and its files.

    Raises:
        ConfigError: a setting is not one of the trainer, or no number where it must be one.
    """
    values = request.values
    beta, threshold = number_of(values, "beta", 0.0), number_of(values, "threshold")
    if reading.trainer == OURS:
        how = "reference=FOLDER, the folder of the model before training, computes them."
        run, notes = own_run(flatten(dict(reading.config)), beta, threshold, classes=classes, how_to_score=how)
        for note in notes:
            reading.note(note)
        return run
    trainer = values.get("trainer", reading.trainer)
    kl = _kl(trainer, values) if trainer else None
    return Run(
        beta=beta if beta is not None else kl.beta if kl else None,
        threshold=threshold,
        trainer=trainer,
        kl=kl,
        from_reference=truth_of(values, "from_reference", True),
        classes=classes,
        how_to_score="reference=FOLDER, the folder or hub name of the model before training, computes them.",
    )


def _kl(trainer: str, values: Mapping[str, str]) -> KlFact | None:
    """The KL of a run; None if no setting of it is known."""
    settings = trainer_settings(trainer, user_path(values["config"])) if "config" in values else {}
    settings |= {name: values[name] for name in DEFAULTS[trainer] if name in values}
    strange = [name for name in SETTINGS if name in values and name not in DEFAULTS[trainer] and name != "beta"]
    if strange:
        allowed = ", ".join(DEFAULTS[trainer])
        raise ConfigError(f"{strange[0]}: no setting of trainer={trainer}; allowed: {allowed}")
    if not settings:
        return None
    try:
        return kl_fact(trainer, settings)
    except ValueError as error:
        raise ConfigError(f"trainer={trainer}: a coefficient must be a number ({error})") from None


def trainer_settings(trainer: str, path: Path) -> dict[str, str]:
    """The KL settings in a configuration of a trainer, as YAML or JSON: .hydra/config.yaml, or that of W&B.

    Raises:
        ConfigError: the file cannot be read, or has none of the trainer's settings.
    """
    content = read_yaml(path)
    flat = {key.removesuffix(".value"): value for key, value in flatten(content).items()} if content else {}
    settings: dict[str, str] = {}
    for name in DEFAULTS[trainer]:
        keys = [key for key in flat if key == name or key.endswith(f".{name}")]
        keys.sort(key=lambda key: not key.startswith(NEAR_MODEL))
        if keys and flat[keys[0]] is not None:
            settings[name] = str(flat[keys[0]])
    if not settings:
        raise ConfigError(
            f"config: {path} has none of the settings of trainer={trainer}: {', '.join(DEFAULTS[trainer])}"
        )
    return settings
