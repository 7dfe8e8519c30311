"""Names that a reader sees in figures and reports, in place of the keys of metrics and overrides."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

METRICS = {
    "step": "step",
    "beta": "beta",
    "beta_final": "beta at the end",
    "reward": "reward",
    "reward/raw": "reward",
    "reward/augmented": "augmented reward",
    "reward_in": "reward, in distribution",
    "reward_out": "reward, out of distribution",
    "kl_nats": "KL (nats)",
    "kl/reverse_nats": "reverse KL (nats)",
    "kl/forward_nats": "forward KL near the reference (nats)",
    "kl/forward_from_reference_nats": "forward KL (nats)",
    "kl/jensen_shannon_nats": "Jensen-Shannon near the reference (nats)",
    "kl/jensen_shannon_from_reference_nats": "Jensen-Shannon (nats)",
    "kl/alpha_nats": "alpha divergence near the reference (nats)",
    "kl/alpha_from_reference_nats": "alpha divergence (nats)",
    "policy/entropy_nats": "entropy of the policy (nats)",
    "policy/token_entropy_nats": "entropy of a token (nats)",
    "entropy_nats": "entropy of the answers (nats)",
    "answers/entropy_nats": "entropy of the answers (nats)",
    "answer_entropy_nats": "entropy of the answers (nats)",
    "answers/top_share": "share of the most common answer",
    "answers/distinct": "distinct answers in a group",
    "effective_answers": "effective number of answers",
    "coverage": "coverage of the right answers",
    "correct": "share of correct completions",
    "distinct": "distinct",
    "distinct/mean": "distinct completions",
    "ead": "EAD",
    "semantic_diversity": "semantic diversity",
    "utility": "utility",
    "observed_log_ratio": "log-ratio of the two most common answers",
    "predicted_log_ratio": "log-ratio at the optimum",
    "collapse/observed_log_ratio": "log-ratio of the two most common answers",
    "collapse/predicted_log_ratio": "log-ratio at the optimum",
    "mara/good_share": "share of good samples",
    "mara/unchanged_groups": "groups without a good sample",
    "advantage/std": "spread of the advantages",
    "loss": "loss",
    "grad_norm": "gradient norm",
    "length": "length (tokens)",
    "truncated_share": "share of truncated completions",
    "weight/effective_sample_size": "effective sample size",
    "good_share": "share of good outcomes",
    "coefficient_of_variation": "variation over the good outcomes",
    "total_variation": "distance from the optimum (TV)",
    "valid": "share of valid molecules",
    "unique": "share of distinct molecules",
    "scaffolds": "distinct scaffolds per molecule",
    "repeats": "share of repeats",
    "good": "good molecules",
    "calls": "oracle calls",
    "oracle/calls": "oracle calls",
    "failures": "failed oracle calls",
    "oracle/failed": "failed oracle calls",
}
SCREENED = {  # metrics of the molecules with a score of a screen or more, as in 0.8/yield
    "yield": "yield",
    "OB1": "calls to the first",
    "OB10": "calls to the 10th",
    "OB100": "calls to the 100th",
    "int_div1": "IntDiv1",
    "circles": "#Circles",
    "scaffolds": "scaffolds",
}
QUESTION_METRICS = ("coverage", "entropy_nats")  # also of single questions, as in coverage/season
TRANSFORMS = {
    "identity": "vanilla",
    "mara": "MARA",
    "unlikely": "Unlikely",
    "darling": "Darling",
    "ucpo": "UCPO",
    "differential_smoothing": "differential smoothing",
    "dra": "DRA",
    "gapo": "GAPO",
    "ips": "IPS",
    "uniqueness": "uniqueness",
    "batch_exploration": "batch exploration",
    "historical_exploration": "historical exploration",
    "both": "vanilla and MARA",
}
DIRECTIONS = {
    "reverse": "reverse KL",
    "forward": "forward KL",
    "jensen_shannon": "Jensen-Shannon",
    "alpha": "alpha divergence",
}
METHODS = {
    **TRANSFORMS,
    "rloo": "RLOO",
    "obe_batch": "OBE-Batch",
    "obe_historical": "OBE, historical",
    "rloo_forward": "RLOO, forward KL",
    "mara_reverse": "MARA, reverse KL",
    "mara_forward": "MARA, forward KL",
    "mara_answers_reverse": "MARA over answers, reverse KL",
    "mara_answers_forward": "MARA over answers, forward KL",
    "grpo": "GRPO",
    "grpo_no_std": "Dr. GRPO, KL of sequences",
    "dr_grpo": "Dr. GRPO",
    "dra_grpo": "DRA-GRPO",
    "ips_grpo": "IPS-GRPO",
    "dapo": "DAPO",
    "gspo": "GSPO",
    "cispo": "CISPO",
    "clip_cov": "Clip-Cov",
    "kl_cov": "KL-Cov",
    "maxrl": "MaxRL",
    "flowrl": "FlowRL",
    "dmpo": "DMPO",
    "reinforce_plus_plus": "REINFORCE++",
    "grpo_sequence_kl": "GRPO, KL of sequences",
    "reinforce": "REINFORCE",
    "reinvent": "REINVENT",
    "best_of_n": "best of n",
    "pass_at_k": "pass@k",
    "entropy": "entropy bonus",
    "dph": "DPH",
    "dph_js": "DPH, Jensen-Shannon",
}
VALUES: dict[
    str, Mapping[str, str]
] = {  # names that need no key beside them, by key; in the order of a label's parts
    "package": {},
    "method": METHODS,
    "transform": TRANSFORMS,
    "transform.level": {"answer": "over answers", "sequence": "over sequences"},
    "loss": {"reinvent": "REINVENT", "policy_gradient": "policy gradient"},
    "objective.direction": DIRECTIONS,
}
KEYS = {
    "objective.beta": "beta",
    "objective.entropy_coef": "entropy coefficient",
    "objective.level": "level",
    "objective.placement": "KL in the",
    "optimizer.lr": "learning rate",
    "transform.threshold.value": "threshold",
    "transform.threshold.kind": "threshold",
    "group_size": "group size",
    "batch_size": "batch size",
    "model.name_or_path": "model",
    "beta_schedule": "beta schedule",
    "prompts_per_step": "prompts per step",
    "max_new_tokens": "tokens",
}
NO_VALUE = "-"  # stands for a key that a run does not have


def metric_label(key: str) -> str:
    """The name of a metric or result, or the key itself if it has none."""
    for name in (key, key.removesuffix("/mean")):
        if name in METRICS:
            return METRICS[name]
    if key.startswith("base."):
        return f"base: {metric_label(key.removeprefix('base.'))}"
    if key.startswith("share/"):
        return f'answer "{key.removeprefix("share/")}"'
    prefix, _, name = key.partition("/")
    if name in SCREENED and re.fullmatch(r"[\d.]+", prefix):
        return f"{SCREENED[name]} at {prefix}"
    if re.fullmatch(r"pass@\d+", key):
        return key
    if prefix in QUESTION_METRICS and name and name != "se":
        return f"{METRICS[prefix]}: {name}"
    known = re.sub(r"/mean$", "", name) in METRICS  # of further sets of prompts, as in held_out/reward/mean
    return f"{prefix.replace('_', ' ')}: {metric_label(name)}" if known else key


def override_label(key: str, value: Any) -> str:
    """A setting in words, as in `vanilla` for transform=identity and `beta 0.1` for objective.beta=0.1."""
    key, text = key.removesuffix(".name"), str(value)
    if key == "experiment":
        return experiment_label(text)
    if text in VALUES.get(key, {}):
        return VALUES[key][text]
    if key in ("package", "method"):
        return text
    return f"{KEYS.get(key, key.rpartition('.')[2].replace('_', ' '))} {text}"


def experiment_label(name: str) -> str:
    """The name of an experiment in words, as in `synth: MARA 0.8` for synth/mara_0.8."""
    folder, _, last = name.rpartition("/")
    words = " ".join({**METHODS, **DIRECTIONS}.get(word, word) for word in last.split("_"))
    return f"{folder.replace('_', ' ')}: {words}" if folder else words


def configuration_labels(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label for each configuration of a sweep.

    Args:
        configurations: the settings that distinguish each, by key.
    """
    labels = [_configuration_label(settings) for settings in _without_common_folder(configurations)]
    repeated = {label for label, count in Counter(labels).items() if count > 1}
    return [
        ", ".join(f"{key}={value}" for key, value in settings.items()) if label in repeated and settings else label
        for label, settings in zip(labels, configurations, strict=True)
    ]


def _configuration_label(settings: Mapping[str, Any]) -> str:
    order = list(VALUES)
    shown = [(key, value) for key, value in settings.items() if str(value) != NO_VALUE]
    shown.sort(key=lambda item: _place(item[0].removesuffix(".name"), order))
    return ", ".join(override_label(key, value) for key, value in shown) or "all runs"


def _place(key: str, order: Sequence[str]) -> int:
    return order.index(key) if key in order else len(order)


def _without_common_folder(configurations: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out the folder of `experiment=` where it is the same in all configurations."""
    folders = {str(settings.get("experiment", "")).rpartition("/")[0] for settings in configurations}
    if len(folders) != 1 or not any(folders):
        return list(configurations)
    return [{**settings, "experiment": str(settings["experiment"]).rpartition("/")[2]} for settings in configurations]


def method_label(method: str) -> str:
    """The name of a method that `launch.analysis.palette.method_name` returns."""
    if method in METHODS:
        return METHODS[method]
    transform, _, direction = method.partition("_")
    if transform in ("vanilla", "mara") and direction in DIRECTIONS:
        return f"{METHODS.get(transform, transform)}, {DIRECTIONS[direction]}"
    return method
