"""The model card of a trained policy: Markdown with metadata, from the files of its run."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from launch.runs.run_folder import read_config, read_json, read_record

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PATH = re.compile(  # a folder of a machine: absolute, of a user, or above the working folder
    r"(?<![\w.:/<~])(?:~|[A-Za-z]:)?[/\\](?:[\w.@+ -]+[/\\])+[\w.@+-]*|(?<![\w./])(?:\.\./)+(?:[\w.@+ -]+/)*[\w.@+-]*"
)
SECRET = re.compile(r"\b(?:hf|sk|ghp|gho|github_pat|glpat|xox[abp])[_-][A-Za-z0-9_-]{16,}|\bAKIA[A-Z0-9]{16}\b")
SECRET_KEY = re.compile(r"(?:^|[._])(?:password|secret|api_?key|access_?key|auth_?token|credentials?)$", re.I)
REMOVED = "(removed)"
NOT_RESULTS = ("completions", "prompts", "samples", "parameters", "vocabulary", "records")
PAPER = "https://arxiv.org/abs/2510.20817"
CITATION = """\
@inproceedings{gxchen2026kl,
  title     = {{KL}-Regularized Reinforcement Learning is Designed to Mode Collapse},
  author    = {GX-Chen, Anthony and Prakash, Jatin and Guo, Jeff and Fergus, Rob and Ranganath, Rajesh},
  booktitle = {International Conference on Learning Representations},
  year      = {2026},
  url       = {https://arxiv.org/abs/2510.20817}
}"""


def model_card(run: Path, title: str | None, license_name: str | None, repository: str | None) -> str:
    """The card of a finished run.

    Args:
        run: its folder.
        title: null: what was trained, and how.
        license_name: null: that of the base, if it is known.
        repository: the name of the model on the Hub, if it is known, for the lines that load it.
    """
    record, config, summary = read_record(run), cleaned(read_config(run)), read_json(run / "summary.json")
    facts = cleaned(record.get("model") or {})
    license_name = license_name or facts.get("license")
    chemical = record["package"].startswith("chem")
    sections = {
        "Method": method_table(config),
        "Data": data_text(config, summary),
        "Results": results_text(summary, run),
        "Base and license": base_text(facts, config, license_name),
        "How to load": loading_text(chemical, repository),
        "Configuration": configuration_text(record, config),
        "Citation": f"```bibtex\n{CITATION}\n```",
    }
    title = title or default_title(record, config, facts)
    metadata = card_metadata(record, config, facts, license_name, chemical, summary)
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items() if text)
    block = OmegaConf.to_yaml(OmegaConf.create(metadata))
    return f"---\n{block}---\n\n# {title}\n\n{opening(record, config, facts)}\n\n{body}\n"


def card_metadata(
    record: Mapping[str, Any],
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    license_name: str | None,
    chemical: bool,
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    """The metadata block of the card. What is not known is left out."""
    base = hub_base(facts, config)
    tags = ["mara-rl", *(["chemistry", "smiles", "molecule-generation"] if chemical else [])]
    if "objective" in config:
        tags += ["reinforcement-learning", "kl-regularization"]
    if str((config.get("transform") or {}).get("name", "")) == "mara":
        tags.append("mode-anchored-reward-augmentation")
    datasets = [name for name in data_names(config) if HUB_NAME.fullmatch(name)]
    optional = {
        "license": license_name,
        "base_model": base,
        "base_model_relation": "finetune" if base else None,
        "datasets": list(dict.fromkeys(datasets)) or None,
        "pipeline_tag": None if chemical else "text-generation",
    }
    library = "mara-rl" if chemical else "transformers"
    return {"library_name": library, "tags": tags, **{key: value for key, value in optional.items() if value}}


def hub_base(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """The name of the base on the Hub; None if it is not from there."""
    name = str((config.get("model") or {}).get("name_or_path", ""))
    if HUB_NAME.fullmatch(name) and str(facts.get("origin", name)).startswith(name):
        return name
    named = re.search(r"(?:^|, of )(HuggingFaceTB/[\w.-]+)", str(facts.get("origin", "")))
    return named.group(1) if named else None


def data_names(config: Mapping[str, Any]) -> list[str]:
    """The data sets that the configuration names."""
    data = config.get("data")
    if isinstance(data, str):
        return [data]
    sources = [source for source in (data or {}).values() if isinstance(source, Mapping)]
    return [str(source["path"]) for source in sources if source.get("path")]


# --- text ---------------------------------------------------------------------------------------------------------


def default_title(record: Mapping[str, Any], config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """What was trained, and how."""
    if record["package"] == "chem.pretrain":
        return "A prior over SMILES"
    if record["package"] == "llm.ensemble":
        return "An average of a policy and its reference"
    transform = (config.get("transform") or {}).get("name")
    method = "MARA" if transform == "mara" else "KL-regularised RL"
    return f"{base_name(facts, config)}, post-trained with {method}"


def base_name(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The base in words."""
    on_hub = hub_base(facts, config)
    if on_hub is not None:
        return on_hub
    origin = facts.get("origin") or config.get("prior") or config.get("policy") or "a model"
    return str(origin).removeprefix("trained here: ").partition(", commit ")[0]


def opening(record: Mapping[str, Any], config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The first sentence."""
    if record["package"] == "chem.pretrain":
        return "A network over SMILES, trained by maximum likelihood, for post-training with `python -m chem`."
    if record["package"] == "llm.ensemble":
        return f"The averaged weights of a policy (its weight is {config.get('weight')}) and of its reference."
    uses_mara = (config.get("transform") or {}).get("name") == "mara"
    mara = ", with mode-anchored reward augmentation (MARA), which keeps every good answer" if uses_mara else ""
    return (
        f"A policy trained by KL-regularised reinforcement learning from {base_name(facts, config)}{mara}. "
        f"The method is that of [GX-Chen et al. (2026)]({PAPER})."
    )


def method_table(config: Mapping[str, Any]) -> str:
    """The choices that define the objective, and the length of the training."""
    objective, transform = config.get("objective"), config.get("transform") or {}
    if not objective:
        keys = ("epochs", "batch_size", "spelling", "weight")
        return table(("key", "value"), [(key, config[key]) for key in keys if config.get(key) is not None])
    threshold = transform.get("threshold") or {}
    rows = {
        "objective": "expected reward - beta * divergence(policy, reference)",
        "divergence": f"{objective.get('direction')}, level {objective.get('level')}",
        "place of the divergence": objective.get("placement"),
        "beta": f"{objective.get('beta')}, schedule {(config.get('beta_schedule') or {}).get('name')}",
        "reward transform": transform.get("name"),
        "threshold of good rewards": f"{threshold.get('value')} ({threshold.get('kind')})",
        "advantage": config.get("advantage"),
        "steps": config.get("steps"),
        "group": config.get("group_size") or config.get("batch_size"),
        "prompts per step": config.get("prompts_per_step"),
        "learning rate": (config.get("optimizer") or {}).get("lr"),
        "seed": config.get("seed"),
    }
    return table(("choice", "value"), [(name, value) for name, value in rows.items() if value is not None])


def data_text(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The task or oracle, and the origin, size and hash of each data set."""
    lines = []
    task = config.get("task")
    if isinstance(task, Mapping):
        lines.append(f"Task: `{task.get('name')}`.")
    if isinstance(config.get("oracle"), Mapping):
        names = [str(component.get("name")) for component in config["oracle"].get("components", [])]
        lines.append(f"Reward: the oracle of {', '.join(f'`{name}`' for name in names)}.")
    data = cleaned(summary.get("data") or {})
    sources = data if all(isinstance(facts, Mapping) for facts in data.values()) else {"training": data}
    rows: list[tuple[Any, ...]] = []
    for name, facts in sources.items():
        origin, count = facts.get("origin") or facts.get("file"), facts.get("records") or facts.get("kept")
        rows.append((name, origin, count, facts.get("sha256")))
    if rows:
        lines.append(table(("set", "origin", "records", "sha256"), rows))
    return "\n\n".join(lines)


def results_text(summary: Mapping[str, Any], run: Path) -> str:
    """The results beside those of the base, and the evaluation if there is one."""
    base = summary.get("base") if isinstance(summary.get("base"), Mapping) else {}
    columns = ("result", *(("base",) if base else ()), "this model")
    rows = [(name, *((shown,) if base else ()), value) for name, value, shown in result_rows(summary, base or {})]
    parts = [table(columns, rows), "± is one standard error, over prompts or completions as in the run's own table."]
    if (run / "evaluation" / "summary.json").is_file():
        evaluation = read_json(run / "evaluation" / "summary.json")
        rows = [(name, value) for name, value, _ in result_rows(evaluation, {})]
        parts += ["From `llm.evaluate`:", table(("metric", "this model"), rows)]
    return "\n\n".join(part for part in parts if part)


def result_rows(summary: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (name, value, value of the base) of each result that is a number; counts of samples are no results."""
    for key, value in summary.items():
        last = key.rpartition("/")[2]
        if isinstance(value, bool) or not isinstance(value, int | float) or last == "se" or last in NOT_RESULTS:
            continue
        yield key.removesuffix("/mean"), number_text(summary, key), number_text(base, key)


def number_text(values: Mapping[str, Any], key: str) -> str:
    """A value with its standard error, if there is one, both with three decimals."""
    value, error = values.get(key), values.get(f"{key.removesuffix('/mean')}/se")
    if not isinstance(value, int | float):
        return "-"
    if not isinstance(error, int | float) or not error:
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f"{value:.3f} ± {error:.3f}"


def base_text(facts: Mapping[str, Any], config: Mapping[str, Any], license_name: str | None) -> str:
    """The base with its hash, and the license."""
    digest = f" (sha256 {facts['sha256']})" if "sha256" in facts else ""
    known = license_name or "not known; look up that of the base before you share this model"
    origin = facts.get("origin") or base_name(facts, config)
    return f"- base: {origin}{digest}\n- license: {known}"


def loading_text(chemical: bool, repository: str | None) -> str:
    """Lines that load the model."""
    name = repository or "FOLDER"
    if chemical:
        return (
            "With a clone of mara and its extra `chem`:\n\n```bash\n"
            f"hf download {name} --local-dir policy\npython -m chem.sample prior=policy count=1000\n```"
        )
    return (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{name}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n```\n\n'
        "Sample at temperature 1 without truncation: that is the distribution that was trained."
    )


def configuration_text(record: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The resolved configuration, folded, with the versions of the code and the libraries."""
    versions = ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())
    commit = (record.get("code") or {}).get("commit")
    code = f"; code at commit {commit}" if commit else ""
    text = OmegaConf.to_yaml(OmegaConf.create(dict(config)))
    return (
        f"`python -m {record['package']}` with {versions}{code}.\n\n"
        f"<details><summary>Resolved configuration</summary>\n\n```yaml\n{text}```\n\n</details>"
    )


def table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A Markdown table; empty without rows."""
    if not rows:
        return ""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: Any) -> str:
    return "-" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


# --- what must not be published -----------------------------------------------------------------------------------


def cleaned(value: Any, key: str = "") -> Any:
    """A value without folders of this machine, of which the last part is kept, and without secrets."""
    if isinstance(value, Mapping):
        return {name: cleaned(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(item, key) for item in value]
    if not isinstance(value, str):
        return value
    if SECRET_KEY.search(key):
        return REMOVED
    text = SECRET.sub(REMOVED, value)
    return PATH.sub(lambda found: Path(found.group().replace("\\", "/")).name or REMOVED, text)


def private_text(text: str, places: Iterable[str] = ()) -> str:
    """What a text says about a machine, or a secret that it holds, in words; empty if there is neither.

    Args:
        text: the text.
        places: folders that it must not name, beside the home and the working folder.
    """
    if SECRET.search(text):
        return "what looks like an access token"
    folders = {str(Path.home()), str(Path.cwd()), *places} - {"", "/"}
    return next((f"the folder {folder}" for folder in sorted(folders) if folder in text), "")
