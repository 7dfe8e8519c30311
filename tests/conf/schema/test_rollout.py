"""Keys of where completions are sampled: each rule beside a legal neighbour."""

import pytest

from core.rules import Choices

from .legality import assert_rejected, make_config

VLLM, IN_PROCESS, SERVER = "rollout=vllm", "rollout=vllm_in_process", "http://a:1"
CASES = [  # rejected overrides, the key that the message names, legal overrides
    ("rollout.name=vllm", "rollout.name", VLLM),
    (f"{VLLM} rollout.addresses=[a:1]", "rollout.addresses", f"{VLLM} rollout.addresses=['{SERVER}']"),
    (f"{VLLM} rollout.addresses=['{SERVER}/v1']", "rollout.addresses", f"{VLLM} rollout.addresses=['{SERVER}/']"),
    (
        f"{VLLM} rollout.addresses=['{SERVER}','{SERVER}/']",
        "rollout.addresses",
        f"{VLLM} rollout.addresses=['{SERVER}','{SERVER}2']",
    ),
    (
        f"{VLLM} rollout.addresses=['{SERVER}'] rollout.python=python",
        "rollout.addresses",
        f"{VLLM} rollout.python=python",
    ),
    (f"{VLLM} rollout.environment.A=true", "rollout.environment.A", f"{VLLM} rollout.environment.A=1"),
    (
        f"{IN_PROCESS} rollout.environment.A=[1]",
        "rollout.environment.A",
        f"{IN_PROCESS} rollout.environment.A=text rollout.arguments.max_num_seqs=4",
    ),
    (f"{IN_PROCESS} rollout.name=vllm", "rollout.name", IN_PROCESS),
    (
        f"{IN_PROCESS} transform=mara rollout.correction=mask",
        "rollout.correction",
        f"{IN_PROCESS} transform=mara rollout.correction=mask rollout.bound=null",
    ),
    (f"{VLLM} rollout.correction=clip", "rollout.correction", f"{VLLM} rollout.correction=mask"),
    (f"{VLLM} rollout.bound=.9", "rollout.bound", f"{VLLM} rollout.bound=1"),
    (f"{VLLM} rollout.servers=0", "rollout.servers", f"{VLLM} rollout.servers=2"),
    (f"{VLLM} rollout.retries=-1", "rollout.retries", f"{VLLM} rollout.retries=0"),
    (
        f"{VLLM} rollout.asynchronous=true rollout.correction=none",
        "rollout.correction",
        f"{VLLM} rollout.asynchronous=true",
    ),
    (
        f"{VLLM} transform=mara rollout.correction=mask",
        "rollout.correction",
        f"{VLLM} transform=mara rollout.correction=mask rollout.bound=null",
    ),
    (
        f"{VLLM} transform=mara objective.placement=loss",
        "rollout.bound",
        f"{VLLM} transform=mara objective.placement=loss rollout.bound=null",
    ),
]


@pytest.mark.parametrize(("rejected", "key", "legal"), CASES)
def test_a_rule_rejects_and_its_neighbour_is_legal(rejected, key, legal):
    assert_rejected("llm", rejected, key, legal)


def test_the_choices_of_a_rollout():
    local, vllm = make_config("llm"), make_config("llm", "rollout=vllm rollout.asynchronous=true rollout.bound=3")
    assert (local.choices().sampler_correction, local.choices().behind) == (None, 0)
    assert vllm.choices() == Choices(
        direction="reverse",
        threshold=True,
        beta=0.03,
        kl_samples=0,
        sampler_correction="truncate",
        sampler_bound=3.0,
        behind=1,
    )
    arguments = vllm.objective_arguments()
    assert (arguments["sampler_correction"], arguments["sampler_bound"]) == ("truncate", 3.0)
    assert local.objective_arguments()["sampler_correction"] is None


def test_an_engine_beside_each_rank_samples_with_the_present_weights():
    choices = make_config("llm", "rollout=vllm_in_process rollout.bound=null").choices()
    assert (choices.sampler_correction, choices.sampler_bound, choices.behind) == ("truncate", None, 0)
