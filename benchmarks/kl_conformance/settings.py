"""Every KL setting of the trainers: what is set, where it is, what it says, and the losses that are called."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.kl_conformance.problem import Loss
from benchmarks.kl_conformance.stand_ins import Missing, version

SUM, PER_LENGTH = "sum over tokens", "each completion divided by its length"
TRAINERS = {"trl": "TRL", "verl": "verl", "openrlhf": "OpenRLHF"}  # packages, and what they are called


@dataclass(frozen=True)
class Setting:
    """A KL setting.

    Attributes:
        name: what a user sets.
        where: the functions that are called.
        claim: what the name or the documentation says of it, in our words.
        losses: its variants by name. They have the same expected gradient; the optimum is that of the first.
        group: completions per group.
        coupled: whether the loss of a group depends on the other groups of its batch.
        note: what the table adds to the verdict.
    """

    name: str
    where: str
    claim: str
    losses: dict[str, Loss]
    group: int = 1
    coupled: bool = False
    note: str = ""


def trl_settings() -> list[Setting]:
    """KL settings of TRL."""
    from benchmarks.kl_conformance.trl_trainers import a2po_loss, gmpo_loss, grpo_loss, rloo_loss

    where = "`trl.trainer.grpo_trainer`: `GRPOTrainer._compute_loss`"
    normalisations = {
        SUM: ("dr_grpo", "luspo", "dapo", "cispo", "vespo"),
        PER_LENGTH: ("grpo", "sapo"),
        "divided by the tokens of a batch of two": ("bnpo",),
    }
    corrections = [
        ("`use_bias_correction_kl=False`", False, ("token", "sequence"), "KL coefficient; the metric is called `kl`"),
        (
            "`use_bias_correction_kl=True`, `importance_sampling_level=token`",
            *(True, ("token",), "the unbiased gradient of the reverse KL"),
        ),
        (
            "`use_bias_correction_kl=True`, `importance_sampling_level=sequence`",
            *(True, ("sequence",), "KL per token times a weight of the sequence; said not to be unbiased"),
        ),
    ]
    settings = []
    for text, correction, levels, claim in corrections:
        for normalisation, loss_types in normalisations.items():
            losses: dict[str, Loss] = {
                f"{loss_type}, {level}": partial(
                    grpo_loss,
                    loss_type=loss_type,
                    use_bias_correction_kl=correction,
                    importance_sampling_level=level,
                )
                for loss_type in loss_types
                for level in levels
            }
            name = f"GRPO, {text}; `loss_type` {', '.join(loss_types)}"
            coupled = loss_types == ("bnpo",)
            settings.append(Setting(name, where, claim, losses, 2 if coupled else 1, coupled, normalisation))
    return [
        *settings,
        Setting(
            "RLOO, `beta`",
            "`trl.trainer.rloo_trainer`: `RLOOTrainer._generate_and_score_completions`, `._compute_loss`",
            "KL penalty in the reward, first order, summed over tokens",
            {"": rloo_loss},
            group=2,
        ),
        Setting(
            "GMPO, `beta`",
            "`trl.experimental.gmpo.gmpo_trainer`: `GMPOTrainer._compute_loss`",
            "KL regularisation, averaged over the sequence",
            {"": gmpo_loss},
            note=PER_LENGTH,
        ),
        Setting(
            "A2PO, `beta2`",
            "`trl.experimental.a2po.a2po_trainer`: `A2POTrainer.compute_loss`",
            "temperature of the KL in a regression",
            {"": a2po_loss},
            note="half of the squared error over `beta2`",
        ),
    ]


SUMS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm")  # verl's, up to a constant
BY_MODE = {
    SUMS: ("every `loss_agg_mode` but seq-mean-token-mean", SUM),
    ("seq-mean-token-mean",): ("`loss_agg_mode` seq-mean-token-mean", PER_LENGTH),
}


def verl_settings(folder: Path | None) -> list[Setting]:
    """KL settings of verl."""
    from benchmarks.kl_conformance.verl_trainer import Verl

    verl = Verl(folder)
    in_loss = {
        ("kl", "k1"): "estimate of the KL",
        ("abs",): "estimate of the KL",
        ("mse", "k2", "mse+", "k2+"): "estimate of the KL; with its gradient",
        ("low_var_kl", "k3"): "estimate of the KL, of low variance",
        ("kl+", "k1+", "abs+", "low_var_kl+", "k3+"): "unbiased estimate of the gradient of the KL",
    }
    settings = []
    for kinds, claim in in_loss.items():
        for modes, (mode_text, note) in BY_MODE.items():
            losses: dict[str, Loss] = {
                f"{kind}, {mode}": partial(verl.loss_kl, kl_loss_type=kind, loss_agg_mode=mode)
                for kind in kinds
                for mode in modes
            }
            name = f"`use_kl_loss`, `kl_loss_type` {', '.join(kinds)}; {mode_text}"
            where = "`verl.workers.utils.losses`: `ppo_loss`; `verl.trainer.ppo.core_algos`: `kl_penalty`, `agg_loss`"
            settings.append(Setting(name, where, claim, losses, note=note))
    in_reward = {
        ("kl", "k1", "kl+", "k1+"): "estimate of the KL",
        ("abs", "abs+"): "estimate of the KL",
        ("mse", "k2", "mse+", "k2+"): "estimate of the KL",
        ("low_var_kl", "k3", "low_var_kl+", "k3+"): "estimate of the KL, of low variance",
    }
    where = (
        "`verl.trainer.ppo.ray_trainer`: `apply_kl_penalty`, `compute_advantage`; "
        "`verl.workers.utils.losses`: `ppo_loss`"
    )

    def reward_losses(
        kinds: tuple[str, ...], modes: tuple[str, ...], estimator: str, by_std: bool
    ) -> dict[str, Loss]:
        return {
            f"{kind}, {mode}": partial(
                verl.reward_kl, kl_penalty=kind, loss_agg_mode=mode, adv_estimator=estimator, by_std=by_std
            )
            for kind in kinds
            for mode in modes
        }

    for kinds, claim in in_reward.items():
        for estimator in ("rloo", "remax"):
            name = f"`use_kl_in_reward`, `kl_penalty` {', '.join(kinds)}; `adv_estimator` {estimator}"
            note = SUM if estimator == "rloo" else f"{SUM}, reward to go"
            settings.append(Setting(name, where, claim, reward_losses(kinds, SUMS, estimator, False), 2, note=note))
    kinds = ("kl", "k1", "kl+", "k1+")
    per_length = reward_losses(kinds, ("seq-mean-token-mean",), "rloo", False)
    by_std = reward_losses(kinds, SUMS, "grpo", True)
    name, claim = f"`use_kl_in_reward`, `kl_penalty` {', '.join(kinds)}; `adv_estimator` ", in_reward[kinds]
    return [
        *settings,
        Setting(f"{name}rloo; {BY_MODE['seq-mean-token-mean',][0]}", where, claim, per_length, 2, note=PER_LENGTH),
        Setting(f"{name}grpo, `norm_adv_by_std_in_grpo`", where, claim, by_std, 3, note=f"{SUM}, groups of three"),
    ]


def openrlhf_settings(folder: Path | None) -> list[Setting]:
    """KL settings of OpenRLHF."""
    from benchmarks.kl_conformance.openrlhf_trainer import OpenRLHF

    openrlhf = OpenRLHF(folder)
    compute = "`openrlhf.models.utils`: `compute_approx_kl`"
    in_loss = {
        (("k1",), False): "KL as a loss; advised against",
        (("k2",), False): "KL as a loss, nearly that of k1",
        (("k3",), False): "KL as a loss, that of GRPO",
        (("k1", "k2", "k3"), True): "the true gradient of the reverse KL, corrected for off-policy samples",
    }
    modes = ("token-mean", "seq-mean-token-mean")
    settings = []
    for (kinds, unbiased), claim in in_loss.items():
        losses: dict[str, Loss] = {
            f"{kind}, {mode}": partial(
                openrlhf.loss_kl, estimator=kind, unbiased_gradient=unbiased, loss_agg_mode=mode
            )
            for mode in modes
            for kind in kinds
        }
        flag = ", `--algo.kl.unbiased_gradient`" if unbiased else ""
        name = f"`--algo.kl.use_loss`, `--algo.kl.estimator` {', '.join(kinds)}{flag}"
        where = f"`openrlhf.trainer.ray.ppo_actor`: `ActorPPOTrainer.training_step`; {compute}"
        note = f"{SUM} with every `--actor.loss_agg_mode`"
        settings.append(Setting(name, where, claim, losses, note=note))
    for kind, claim in {
        "k1": "KL penalty in the reward; advised",
        "k2": "KL penalty in the reward; advised against",
        "k3": "KL penalty in the reward; advised against",
    }.items():
        losses = {
            estimator: partial(
                openrlhf.reward_kl, estimator=kind, adv_estimator=estimator, loss_agg_mode="token-mean"
            )
            for estimator in ("rloo", "dr_grpo", "group_norm", "flash_reinforce")
        }
        name = f"`--algo.kl.estimator` {kind}; `--algo.advantage.estimator` {', '.join(losses)}"
        where = (
            "`openrlhf.trainer.ppo_utils.experience_maker`: `RemoteExperienceMaker.compute_advantages_and_returns`; "
            f"{compute}"
        )
        settings.append(Setting(name, where, claim, losses, 2, note=f"{SUM}, reward to go"))
    return settings


def all_settings(folders: dict[str, Path | None]) -> tuple[dict[str, list[Setting]], dict[str, str]]:
    """The settings of each trainer that is installed, by package, and what is missing and why.

    Args:
        folders: where packages are installed; None: on the path.
    """
    makers: dict[str, Callable[[], list[Setting]]] = {
        "trl": trl_settings,
        "verl": lambda: verl_settings(folders.get("verl")),
        "openrlhf": lambda: openrlhf_settings(folders.get("openrlhf")),
    }
    settings, missing = {}, {}
    for package, make in makers.items():
        try:
            settings[package] = make()
        except Missing as error:
            missing[package] = str(error)
        except ModuleNotFoundError as error:
            if package != "trl" or error.name != "trl":
                raise
            missing[package] = "trl is not installed: pip install -e '.[trl]'"
    return settings, missing


def versions(packages: list[str], folders: dict[str, Path | None]) -> dict[str, str]:
    """The version of each package."""
    return {package: version(package, folders.get(package)) for package in packages}
