"""The table of rejected combinations: each rule with its message, and the alternative that the message names."""

import math
import re
import subprocess
import sys
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pytest

from core.advantages import ADVANTAGES as ADVANTAGE_FUNCTIONS
from core.advantages import BONUSES, BY_CLASS
from core.divergences import DIVERGENCES
from core.objective import POLICY_LOSSES
from core.rules import (
    ADVANTAGES,
    ADVANTAGES_WITH_K,
    ALGORITHMS,
    DIVERGENCE_PLACEMENTS,
    GOOD_SAMPLE_TRANSFORMS,
    LEVELS,
    LOSSES,
    PLACEMENTS,
    REWARD_KEEPING_TRANSFORMS,
    RULES,
    TOKEN_LOSSES,
    Choices,
    check_choices,
    first_violation,
    mara_algorithm,
)
from core.transforms import INPUTS, TRANSFORMS

DEFAULT = Choices(direction="reverse")
MARA = {"transform": "mara", "threshold": True}
SECOND = {**MARA, "algorithm": "2"}
REINVENT = {"loss": "reinvent", "advantage": "no_baseline"}
FLOWRL = {"loss": "flowrl", "advantage": "group_normalised", "length_normalised": True}
PASS_AT_K = {"advantage": "pass_at_k", "advantage_k": 2, "threshold": True}
GUARANTEE = "makes the effective beta depend on length, and MARA's guarantee needs the same beta for all samples"
THRESHOLD = "set it to the lowest reward that counts as good or, with kind=quantile, to a number in [0, 1]"
CASES = [  # choices that break a rule, the key and the message, and the changes that the message asks for
    ({"direction": "sideways"}, "direction", "must be one of reverse, forward, jensen_shannon, alpha, ", {}),
    ({"level": "word"}, "level", "must be one of sequence, token, reward_to_go, got word", {"level": "token"}),
    ({"placement": "exact"}, "placement", "must be one of reward, loss, reference, got exact", {"placement": "loss"}),
    ({**MARA, "algorithm": "3"}, "algorithm", "must be one of auto, 1, 2, got 3", {"algorithm": "2"}),
    ({"advantage": "gae"}, "advantage", "must be one of leave_one_out, centred, ", {"advantage": "my.module:gae"}),
    (
        {"loss": "ppo"},
        "loss",
        "must be one of policy_gradient, reinvent, cispo, clip_cov, ",
        {"loss": "policy_gradient"},
    ),
    ({**MARA, "classes": "word"}, "classes", "must be one of sequence, answer, got word", {"classes": "answer"}),
    ({**MARA, "mass": "guess"}, "mass", "must be one of remembered, group, reference, got guess", {"mass": "group"}),
    (
        {**MARA, "anchor": "best"},
        "anchor",
        "must be one of auto, group, cross_fitted, remembered, ",
        {"anchor": "auto"},
    ),
    (
        {**MARA, "direction": "my.module:Divergence"},
        "direction",
        "must be one of reverse, forward, jensen_shannon, alpha with transform=mara, got my.module:Divergence: "
        "MARA's "
        "optimum is uniform for strictly convex f-divergences",
        {"direction": "jensen_shannon"},
    ),
    (
        {**MARA, "direction": "jensen_shannon", "algorithm": "1"},
        "algorithm",
        "must be auto or 2 with direction=jensen_shannon, got 1: Algorithm 1 is uniform under reverse KL only",
        {"algorithm": "auto"},
    ),
    (
        {"direction": "forward", "level": "reward_to_go"},
        "level",
        "must be sequence or token with direction=forward and placement=reward, got reward_to_go",
        {"level": "token"},
    ),
    (
        {**MARA, "direction": "forward", "placement": "loss", "anchor": "group"},
        "anchor",
        "must be auto or remembered with MARA's Algorithm 2 and placement=loss, got group: only a baseline over "
        "rewards",
        {"anchor": "auto"},
    ),
    (
        {**MARA, "placement": "loss", "anchor": "cross_fitted"},
        "anchor",
        "cannot be cross_fitted unless the KL term is in the reward of the sequence",
        {"placement": "reward"},
    ),
    (
        {"direction": "alpha", "alpha": 1.0},
        "alpha",
        "must be a finite number other than 0 and 1 with direction=alpha, got 1.0; instead of 0 use "
        "direction=forward, instead of 1 use direction=reverse",
        {"direction": "reverse", "alpha": None},
    ),
    ({"direction": "alpha"}, "alpha", "must be a finite number other than 0 and 1 ", {"alpha": 0.5}),
    (
        {"alpha": 0.5},
        "alpha",
        "is only used with direction=alpha; set it to null, got 0.5 with direction=reverse",
        {"alpha": None},
    ),
    (
        {"direction": "jensen_shannon", "placement": "loss"},
        "placement",
        "cannot be loss with direction=jensen_shannon, because this divergence has no elementary loss term; use "
        "placement=reward",
        {"placement": "reward"},
    ),
    (
        {"max_log_weight": 2.0},
        "max_log_weight",
        "is only used with direction=forward or alpha and placement=reward or loss; set it to auto, got 2.0 with "
        "direction=reverse and placement=reward",
        {"max_log_weight": "auto"},
    ),
    (
        {"max_log_weight": "none", "direction": "forward"},
        "max_log_weight",
        "must be auto, a number or null, got none",
        {"max_log_weight": None},
    ),
    (
        {"beta_schedule": "adaptive", "direction": "forward", "kl_samples": 0},
        "kl_samples",
        "must be > 0 with beta_schedule=adaptive and direction=forward, got 0: the estimate from the policy's own",
        {"kl_samples": 8},
    ),
    (
        {"placement": "reference", "level": "token"},
        "level",
        "must be sequence with placement=reference, got token: the divergence is estimated from whole completions",
        {"level": "sequence"},
    ),
    (
        {"length_normalised": True, "level": "token"},
        "length_normalised",
        "cannot be true with level=token and placement=reward, because the length-normalised loss takes no per-token "
        "reward; use placement=loss or level=sequence",
        {"placement": "loss"},
    ),
    (
        {"gamma": 0.9, "updates": 6},
        "gamma",
        "must be 1 with several updates per batch (update.epochs * update.minibatches = 6), got 0.9",
        {"gamma": 1.0},
    ),
    (
        {"direction": "forward", "beta": 0.0},
        "beta",
        "must be > 0 with direction=forward, got 0.0: the forward-KL optimum is not defined at 0; to train without a "
        "KL term, use direction=reverse",
        {"direction": "reverse"},
    ),
    (
        {"direction": "forward", "beta": math.nan},
        "beta",
        "must be > 0 with direction=forward, got nan",
        {"beta": 1.0},
    ),
    (
        {**MARA, "beta": 0.0},
        "beta",
        "must be > 0 with transform=mara, got 0.0: MARA compensates for the KL term; to train without a KL term, use "
        "transform=identity",
        {"transform": "identity"},
    ),
    (
        {"beta_schedule": "adaptive", "beta": 0.0},
        "beta",
        "must be > 0 with beta_schedule=adaptive, got 0.0: the schedule multiplies beta, so 0 would stay 0",
        {"beta": 0.1},
    ),
    (
        {"direction": "forward", "beta_schedule": "linear", "final_beta": 0.0},
        "final_beta",
        "must be > 0 with transform=mara or direction=forward, which need a KL term at every step, got 0.0 with "
        "transform=identity and direction=forward",
        {"final_beta": 0.1},
    ),
    (
        {"transform": "ucpo"},
        "threshold",
        f"must be given with transform=ucpo, which treats good samples differently; {THRESHOLD}",
        {"threshold": True},
    ),
    (
        {**PASS_AT_K, "threshold": False},
        "threshold",
        f"must be given with advantage=pass_at_k, which counts good samples; {THRESHOLD}",
        {"threshold": True},
    ),
    (
        {"beta_schedule": "automatic"},
        "threshold",
        f"must be given with beta_schedule=automatic, which compares pairs of good samples; {THRESHOLD}",
        {"threshold": True},
    ),
    (
        {**PASS_AT_K, "advantage_k": None},
        "advantage_k",
        "must be given with advantage=pass_at_k; set it to the size of the subsets, a whole number >= 1",
        {"advantage_k": 1},
    ),
    (
        {"advantage_k": 3},
        "advantage_k",
        "is only used with advantage=max_at_k or pass_at_k; set it to null, got 3 with advantage=leave_one_out",
        {"advantage_k": None},
    ),
    (
        {**PASS_AT_K, "advantage_k": 0},
        "advantage_k",
        "must be >= 1 with advantage=pass_at_k, got 0: it is the size of the subsets",
        {"advantage_k": 1},
    ),
    (
        {"advantage": "max_at_k", "advantage_k": 1},
        "advantage_k",
        "must be >= 2 with advantage=max_at_k, got 1: the maximum of a subset is compared with that of its other",
        {"advantage_k": 2},
    ),
    (
        {**PASS_AT_K, "transform": "darling"},
        "transform",
        "must be one of identity, differential_smoothing, ucpo, uniqueness, batch_exploration, "
        "historical_exploration with advantage=pass_at_k, got darling: "
        "the advantage depends on which samples are good, not on their rewards",
        {"transform": "ucpo"},
    ),
    (
        {"transform": "darling", "advantage": "group_normalised"},
        "advantage",
        "cannot be group_normalised with transform=darling, which is defined without division by the standard "
        "deviation; use advantage=centred or leave_one_out",
        {"advantage": "centred"},
    ),
    (
        {**MARA, "placement": "reference"},
        "placement",
        "cannot be reference with transform=mara unless direction=forward and Algorithm 2 are used",
        {"direction": "forward"},
    ),
    (
        {**MARA, "advantage": "max_at_k"},
        "advantage",
        "cannot be max_at_k with transform=mara, whose optimum is that of the expected reward; use "
        "advantage=leave_one_out or transform=identity",
        {"advantage": "leave_one_out"},
    ),
    (
        {**SECOND, "level": "token"},
        "level",
        "must be sequence with MARA's Algorithm 2, got token: the algorithm replaces log-probabilities of whole",
        {"level": "sequence"},
    ),
    (
        {**MARA, "length_normalised": True},
        "length_normalised",
        f"must be false with transform=mara: a length-normalised loss {GUARANTEE}",
        {"length_normalised": False},
    ),
    (
        {**MARA, "gamma": 0.5},
        "gamma",
        f"must be 1 with transform=mara, got 0.5: a discount {GUARANTEE}",
        {"gamma": 1},
    ),
    (
        {**MARA, "advantage": "group_normalised", "placement": "loss"},
        "advantage",
        "cannot be group_normalised with transform=mara unless the KL term is in the reward that is normalised, or "
        "the policy collapses onto the rarest good sample; use placement=reward and level=sequence, or "
        "advantage=leave_one_out; got placement=loss and level=sequence",
        {"placement": "reward"},
    ),
    (
        {**MARA, "advantage": "group_normalised", "level": "token"},
        "advantage",
        "cannot be group_normalised with transform=mara unless the KL term is in the reward",
        {"advantage": "leave_one_out"},
    ),
    (
        {"token_mean": True, "length_normalised": True},
        "token_mean",
        "must be false with length_normalised=true, which divides by the length of each completion already",
        {"length_normalised": False},
    ),
    (
        {**MARA, "token_mean": True, "placement": "loss", "anchor": "remembered"},
        "token_mean",
        "must be false with transform=mara unless the KL term is in the reward of the sequence",
        {"placement": "reward"},
    ),
    (
        {"ratio": "geometric_mean"},
        "length_normalised",
        "must be true with ratio=geometric_mean, whose gradient is divided by the length",
        {"length_normalised": True},
    ),
    ({"ratio": "word"}, "ratio", "must be one of token, sequence, geometric_mean, got word", {"ratio": "token"}),
    *(
        (
            {"loss": loss, "ratio": "sequence"},
            "ratio",
            f"must be token with loss={loss}, which is defined on tokens, got sequence",
            {"ratio": "token"},
        )
        for loss in TOKEN_LOSSES
    ),
    ({"loss": "cispo", "gamma": 0.9}, "gamma", "must be 1 with loss=cispo, got 0.9", {"gamma": 1}),
    *(
        (
            {**FLOWRL, key: value},
            key,
            f"must be {needed} with loss=flowrl, got {shown}: the loss ",
            {key: getattr(replace(DEFAULT, **FLOWRL), key)},
        )
        for key, value, needed, shown in (
            ("direction", "forward", "reverse", "forward"),
            ("placement", "loss", "reward", "loss"),
            ("entropy_coef", 0.1, "0", "0.1"),
            ("length_normalised", False, "true", "false"),
            ("transform", "ips", "identity", "ips"),
        )
    ),
    (
        {**FLOWRL, "level": "token", "length_normalised": False},
        "level",
        "must be sequence with loss=flowrl, got token: the loss is computed from whole completions",
        {"level": "sequence", "length_normalised": True},
    ),
    (
        {**FLOWRL, "advantage": "max_at_k"},
        "advantage",
        "cannot be max_at_k with loss=flowrl, whose advantage normalises the rewards; use advantage=group_normalised",
        {"advantage": "group_normalised"},
    ),
    ({**FLOWRL, "beta": 0.0}, "beta", "must be > 0 with loss=flowrl, got 0.0", {"beta": 1.0}),
    (
        {**MARA, "match_coef": 0.5},
        "match_coef",
        "must be 0 with transform=mara, got 0.5: the term has an optimum of its own",
        {"match_coef": 0.0},
    ),
    (
        {**MARA, "redraw": 3},
        "redraw",
        "must be 0 with transform=mara, got 3: the KL term also moves groups whose rewards tie",
        {"redraw": 0},
    ),
    *(
        (
            {**REINVENT, key: value},
            key,
            f"must be {needed} with loss=reinvent, got {shown}: the loss ",
            {key: getattr(replace(DEFAULT, **REINVENT), key)},
        )
        for key, value, needed, shown in (
            ("direction", "forward", "reverse", "forward"),
            ("level", "token", "sequence", "token"),
            ("placement", "loss", "reward", "loss"),
            ("entropy_coef", 0.1, "0", "0.1"),
            ("length_normalised", True, "false", "true"),
            ("gamma", 0.9, "1", "0.9"),
            ("skip_tied_groups", True, "false", "true"),
        )
    ),
    (
        {"loss": "reinvent"},
        "advantage",
        "must be no_baseline with loss=reinvent, got leave_one_out: the loss has no baseline",
        {"advantage": "no_baseline"},
    ),
    (
        {**REINVENT, "beta": 0.0},
        "beta",
        "must be > 0 with loss=reinvent, got 0.0: its sigma is 1 / beta",
        {"beta": 1.0},
    ),
    (
        {"sampler_correction": "clip"},
        "sampler_correction",
        "must be one of truncate, mask, none, got clip",
        {"sampler_correction": "mask"},
    ),
    (
        {"sampler_correction": "truncate", "sampler_bound": 0.5},
        "sampler_bound",
        "must be >= 1, the weight of a completion that sampler and policy give the same probability, got 0.5",
        {"sampler_bound": 1.0},
    ),
    (
        {"sampler_correction": "none", "behind": 1},
        "sampler_correction",
        "cannot be none where completions are sampled one step ahead",
        {"sampler_correction": "truncate"},
    ),
    (
        {**MARA, "sampler_correction": "mask", "sampler_bound": 2.0},
        "sampler_correction",
        "cannot be mask with transform=mara and a bound",
        {"sampler_correction": "truncate"},
    ),
    (
        {**MARA, "sampler_correction": "none", "placement": "loss"},
        "sampler_correction",
        "cannot be none with transform=mara unless the KL term is in the reward of the sequence",
        {"sampler_correction": "truncate"},
    ),
    (
        {**MARA, "sampler_correction": "truncate", "sampler_bound": 2.0, "advantage": "no_baseline"},
        "sampler_bound",
        "must be null with transform=mara unless the KL term is in the reward of the sequence and a baseline is "
        "subtracted, got 2.0",
        {"sampler_bound": None},
    ),
    (
        {**REINVENT, "transform": "unlikely", "threshold": True},
        "transform",
        "must be identity or mara with loss=reinvent, got unlikely: the other transforms are for advantages",
        {"transform": "mara"},
    ),
]


@pytest.mark.parametrize(("changes", "key", "message", "alternative"), CASES)
def test_a_rule_rejects_with_its_message_and_accepts_the_alternative(changes, key, message, alternative):
    choices = replace(DEFAULT, **changes)
    violation = first_violation(choices)
    assert violation is not None
    assert violation.key == key
    assert violation.text.startswith(message)
    with pytest.raises(ValueError, match=f"^{re.escape(key)}: {re.escape(message)}"):
        check_choices(choices)
    if alternative:
        check_choices(replace(choices, **alternative))


def test_every_rule_has_a_case():
    """A rule that an earlier one always anticipates would never be reported."""
    reported = {first_violation(replace(DEFAULT, **changes)) for changes, *_ in CASES}
    texts = [violation.text for violation in reported if violation is not None]
    for rule in RULES:
        pattern = re.sub(r"\\\{\w+\\\}", ".*", re.escape(rule.text))
        assert any(re.fullmatch(pattern, text) for text in texts), rule


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.key}: {rule.text[:40]}")
def test_a_message_is_one_sentence_that_goes_on_from_the_key(rule):
    text = rule.text.format(**{field.name: "VALUE" for field in fields(Choices)})
    assert rule.key in vars(DEFAULT)
    assert text.startswith(("must be ", "must be given", "cannot be ", "is only used "))
    assert not text.endswith(".")
    assert "\n" not in text
    assert "{" not in text


def test_the_defaults_and_each_method_are_legal():
    for changes in ({}, MARA, SECOND, REINVENT, PASS_AT_K, {**MARA, "direction": "forward"}):
        assert first_violation(replace(DEFAULT, **changes)) is None
    assert first_violation(replace(DEFAULT, direction="my.module:Divergence")) is None
    assert first_violation(replace(DEFAULT, level="my.module:level")) is not None  # control: only where it is allowed


def test_values_in_messages_are_written_as_in_yaml():
    for alpha, expected in ((None, "got null;"), (math.inf, "got inf;"), (0, "got 0;")):
        violation = first_violation(replace(DEFAULT, direction="alpha", alpha=alpha))
        assert violation is not None
        assert expected in violation.text
    violation = first_violation(replace(DEFAULT, **REINVENT, skip_tied_groups=True))
    assert violation is not None
    assert "got true:" in violation.text


def test_the_algorithm_of_mara():
    assert [mara_algorithm(direction) for direction in ("reverse", "forward", "alpha")] == [1, 2, 2]
    for direction, number in product(("reverse", "forward"), (1, 2)):
        assert mara_algorithm(direction, number) == mara_algorithm(direction, str(number)) == number
        assert Choices(direction=direction, algorithm=str(number)).mara_algorithm == number


def test_the_names_in_the_rules_are_those_of_the_functions():
    assert set(ADVANTAGES) == set(ADVANTAGE_FUNCTIONS)
    placements = {
        name: tuple(placement for placement in PLACEMENTS if getattr(divergence, placement) is not None)
        for name, divergence in DIVERGENCES.items()
    }
    assert placements == DIVERGENCE_PLACEMENTS
    assert set(ADVANTAGES_WITH_K) <= set(ADVANTAGES)
    needs_threshold = {name for name, inputs in INPUTS.items() if "threshold" in inputs} | BONUSES.keys()
    assert set(GOOD_SAMPLE_TRANSFORMS) == needs_threshold
    assert set(REWARD_KEEPING_TRANSFORMS) == {"identity"} | BONUSES.keys() | BY_CLASS.keys()
    known = TRANSFORMS.keys() | BONUSES.keys() | BY_CLASS.keys()
    assert set(GOOD_SAMPLE_TRANSFORMS) | set(REWARD_KEEPING_TRANSFORMS) <= known
    assert (
        ("sequence", "token", "reward_to_go"),
        ("auto", "1", "2"),
        ("policy_gradient", "reinvent", *TOKEN_LOSSES, "flowrl"),
    ) == (LEVELS, ALGORITHMS, LOSSES)
    assert POLICY_LOSSES.keys() == {"policy_gradient", *TOKEN_LOSSES}


def test_the_rules_are_read_without_loading_torch():
    code = "import sys, core.rules, core.extension; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# The rows of the tables of docs/mara.md: first cell -> choices, each of them with transform=mara.
REFUSED_ON_THE_PAGE: dict[str, list[dict]] = {
    "`beta = 0`": [{"beta": 0.0}],
    "a divergence of your own": [{"direction": "my.module:divergence"}],
    "Algorithm 1 under Jensen-Shannon and alpha": [
        {"direction": "jensen_shannon", "algorithm": "1"},
        {"direction": "alpha", "alpha": 0.5, "algorithm": "1"},
    ],
    "Algorithm 2 with `placement=loss` and an anchor of the group": [
        {"algorithm": "2", "placement": "loss", "anchor": "group"},
        {"direction": "forward", "placement": "loss", "anchor": "group"},
    ],
    "`placement=reference` under reverse KL": [{"placement": "reference"}],
    "`max_at_k`, `mean_normalised`, `pass_at_k`": [
        {"advantage": "max_at_k"},
        {"advantage": "mean_normalised"},
        {"advantage": "pass_at_k", "advantage_k": 2},
    ],
    "Algorithm 2 with `level=token`": [{"algorithm": "2", "level": "token"}],
    "`length_normalised=true`": [{"length_normalised": True}],
    "`gamma` below 1": [{"gamma": 0.9}],
    "`group_normalised` with the KL outside the sequence's reward": [
        {"advantage": name, **where}
        for name in ("group_normalised", "group_normalised_sample_std")
        for where in ({"placement": "loss"}, {"level": "token"})
    ],
}
ALLOWED_ON_THE_PAGE: dict[str, dict] = {
    "Algorithm 1 under forward KL": {"algorithm": "1", "direction": "forward"},
    "`no_baseline`, reverse KL, `anchor=group`": {"advantage": "no_baseline", "anchor": "group"},
    "Algorithm 1 with `centred` and `placement=loss`": {"advantage": "centred", "placement": "loss"},
    "`skip_tied_groups=true`, reverse KL": {"skip_tied_groups": True},
    "Algorithm 1 with `level=token`": {"level": "token"},
    "a threshold of `kind=quantile`": {},
}


def rows_of(title):
    """First cells of the table under a heading of docs/mara.md."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "mara.md").read_text(encoding="utf-8")
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    return [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line.startswith("| ")][1:]


def test_the_page_about_mara_lists_what_is_refused_and_what_runs():
    refused, allowed = rows_of("What is refused, and why"), rows_of("What is allowed and not uniform")
    assert refused == list(REFUSED_ON_THE_PAGE)
    assert allowed == list(ALLOWED_ON_THE_PAGE)
    for row, cases in REFUSED_ON_THE_PAGE.items():
        for changes in cases:
            assert first_violation(replace(DEFAULT, **{**MARA, **changes})) is not None, row
    for row, allowed_changes in ALLOWED_ON_THE_PAGE.items():
        assert first_violation(replace(DEFAULT, **{**MARA, **allowed_changes})) is None, row
