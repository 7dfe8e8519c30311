"""Training, pretraining, evaluation and inventories of chemistry: each rule beside a legal neighbour."""

import pytest

from conf.schema.base import ConfigError, check_config
from conf.schema.chem import FILTERS, PENALTIES, MoleculeFilterConfig, TransformerConfig
from core.rules import LOSSES
from launch.cli.groups import options

from .legality import assert_rejected, make_config, rejection

CASES = [  # rejected overrides, the key that the message names, legal overrides
    ("batch_size=1", "batch_size", "batch_size=1 advantage=no_baseline"),
    ("budget=0", "budget", "budget=null"),
    ("duplicates=count", "duplicates", "duplicates=zero"),
    ("screens=[]", "screens", "screens=[.5]"),
    ("screens=[.5,.5]", "screens", "screens=[.5,.6]"),
    ("replay.sample=3", "replay.sample", "replay.sample=3 replay.size=3"),
    ("replay.augmentations=-1", "replay.augmentations", "replay.augmentations=1"),
    ("replay.purge=true", "replay.purge", "replay.purge=true diversity_filter.name=identical_murcko"),
    ("transform=darling replay.size=9 replay.sample=3", "replay", "transform=darling replay.size=9"),
    ("transform=darling replay.augmentations=1", "replay", "transform=darling"),
    ("transform=darling transform.equivalence=exact", "transform.equivalence", "transform=darling"),
    ("diversity_filter.name=murcko", "diversity_filter.name", "diversity_filter.name=topological"),
    ("diversity_filter.penalty=cosine", "diversity_filter.penalty", "diversity_filter.penalty=tanh"),
    ("diversity_filter.bucket_size=0", "diversity_filter.bucket_size", "diversity_filter.bucket_size=1"),
    ("diversity_filter.min_score=1.1", "diversity_filter.min_score", "diversity_filter.min_score=1"),
    ("stop.window=0", "stop.window", "stop.window=1"),
    ("stop.max_repeats=1.1", "stop.max_repeats", "stop.max_repeats=1"),
    ("loss=reinvent advantage=centred", "advantage", "loss=reinvent"),
    ("loss=reinvent objective.direction=forward", "objective.direction", "objective.direction=forward"),
    ("loss=reinvent objective.entropy_coef=.1", "objective.entropy_coef", "objective.entropy_coef=.1"),
    ("loss=reinvent transform=darling", "transform", "loss=reinvent transform=mara"),
    ("objective.placement=reference", "objective.placement", "objective.placement=loss"),
    ("engine.name=zero3", "engine", "engine=zero2"),
    ("oracle.workers=0", "oracle.workers", "oracle.workers=1"),
]


@pytest.mark.parametrize(("rejected", "key", "legal"), CASES)
def test_a_rule_rejects_and_its_neighbour_is_legal(rejected, key, legal):
    assert_rejected("chem", rejected, key, legal)


@pytest.mark.parametrize(
    ("rejected", "message"),
    [
        (
            "transform=darling replay.size=9 replay.sample=3",
            "replay: must be off with transform=darling, which compares molecules as they are sampled; set "
            "replay.sample and replay.augmentations to 0, got 3 and 0",
        ),
        (
            "replay.purge=true",
            "replay.purge: must be false with diversity_filter.name=none, because no molecule is penalised, got true",
        ),
        ("screens=[.5,.5]", "screens: must be a list of one or more different scores, got [0.5, 0.5]"),
        ("replay.sample=3", "replay.sample: must be <= 0 (replay.size), got 3"),
        ("batch_size=1", "batch_size: must be >= 2 with advantage=leave_one_out, got 1"),
        (
            "objective.placement=reference",
            "objective.placement: must be reward or loss in this package, which does not sample completions from the "
            "reference, got reference",
        ),
        (
            "loss=reinvent objective.beta=0",
            "objective.beta: must be > 0 with loss=reinvent, got 0.0: its sigma is 1 / beta",
        ),
    ],
)
def test_a_message_in_full(rejected, message):
    assert rejection("chem", rejected) == message


def test_the_loss_is_a_choice_of_the_rules():
    assert make_config("chem", "loss=reinvent").choices().loss == "reinvent"
    assert make_config("chem").choices().loss == "policy_gradient"
    assert set(options("chem", "loss")) < set(LOSSES)


PRETRAIN = "data=a.smi"
PRETRAIN_CASES = [
    ("epochs=1", "data", PRETRAIN),
    (f"{PRETRAIN} max_tokens=99", "max_tokens", f"{PRETRAIN} max_tokens=100"),
    (f"{PRETRAIN} filter.max_heavy_atoms=4", "filter.max_heavy_atoms", f"{PRETRAIN} filter.max_heavy_atoms=5"),
    (f"{PRETRAIN} filter.elements=[]", "filter.elements", f"{PRETRAIN} filter.elements=[C]"),
    (f"{PRETRAIN} validation_share=1", "validation_share", f"{PRETRAIN} validation_share=.5"),
    (f"{PRETRAIN} spelling=random", "spelling", f"{PRETRAIN} spelling=randomised"),
    (f"{PRETRAIN} network.dropout=1", "network.dropout", f"{PRETRAIN} network.dropout=.5"),
    (f"{PRETRAIN} network=transformer network.heads=5", "network.heads", f"{PRETRAIN} network=transformer"),
    (
        f"{PRETRAIN} network=transformer network.positions=127",
        "network.positions",
        f"{PRETRAIN} network=transformer network.positions=127 max_tokens=127",
    ),
]


@pytest.mark.parametrize(("rejected", "key", "legal"), PRETRAIN_CASES)
def test_a_rule_of_pretraining(rejected, key, legal):
    assert_rejected("chem.pretrain", rejected, key, legal)


def test_the_sizes_of_a_network_and_a_molecule_fit():
    sizes = {"name": "transformer", "layers": 2, "width": 12, "positions": 8, "dropout": 0.0}
    check_config(TransformerConfig(**sizes, heads=4), "network.")
    with pytest.raises(ConfigError, match=r"^network\.heads: must divide network\.width, got 5 and 12$"):
        check_config(TransformerConfig(**sizes, heads=5), "network.")
    limits = {"elements": ["C"], "max_tokens": 9, "min_token_count": 1, "largest_fragment": True}
    check_config(MoleculeFilterConfig(**limits, min_heavy_atoms=3, max_heavy_atoms=3), "filter.")
    with pytest.raises(
        ConfigError, match=r"^filter\.max_heavy_atoms: must be >= 3 \(filter\.min_heavy_atoms\), got 2$"
    ):
        check_config(MoleculeFilterConfig(**limits, min_heavy_atoms=3, max_heavy_atoms=2), "filter.")


@pytest.mark.parametrize(
    ("command", "rejected", "key", "legal"),
    [
        ("chem.evaluate", "screens=[.5]", "file", "file=a.csv"),
        ("chem.evaluate", "file=a.csv screens=[.5,.5]", "screens", "file=a.csv screens=[.5]"),
        ("chem.evaluate", "file=a.csv circle_distance=1", "circle_distance", "file=a.csv circle_distance=0"),
        ("chem.evaluate", "file=a.csv shown=0", "shown", "file=a.csv shown=1"),
        ("chem.stock", "max_atoms=0", "max_atoms", "max_atoms=1"),
        ("chem.stock", "depth=0", "depth", "depth=1"),
        ("chem.stock", "max_depth=-1", "max_depth", "max_depth=0"),
    ],
)
def test_a_rule_of_another_command(command, rejected, key, legal):
    assert_rejected(command, rejected, key, legal)


def test_the_names_are_those_of_the_code():
    filters = pytest.importorskip("chem.filters")
    assert set(PENALTIES) == filters.PENALTIES.keys()
    assert FILTERS[0] == "none"
