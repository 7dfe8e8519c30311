"""What to change in a run, the most effective first, as settings of its trainer."""

import math
from dataclasses import dataclass

from .analysis import Diagnosis, Run
from .optimum import Pair
from .trainer_kl import OPENRLHF, TRL, VERL, ZERO, KlFact
from .words import number, quoted, ratio

LEAST_GAP = math.log(2)  # nats; a smaller difference of equally good answers needs no change
MAX_ADVICE = 6
REINVENT = "reinvent"  # and Saturn, whose objective is the same
CHEM = "chem"  # this project's runs with molecules; the empty name: its other runs
NEARLY_AS_GOOD = 0.25  # of the range of the rewards: a larger difference is meant to count

MARA = {
    TRL: "MaraGRPOConfig(mara_beta={beta}, mara_threshold={threshold}) and MaraGRPOTrainer in place of GRPOConfig "
    "and GRPOTrainer: docs/trl.md",
    VERL: "VERL_USE_EXTERNAL_MODULES=mara.integrations.verl, algorithm.adv_estimator=mara "
    "algorithm.use_kl_in_reward=True algorithm.kl_ctrl.kl_coef={beta} +algorithm.mara.threshold={threshold} "
    "actor_rollout_ref.actor.policy_loss.loss_mode=mara",
    OPENRLHF: "--reward.remote_url FILE.py, with reward_func = MaraReward(..., beta={beta}, threshold={threshold}) "
    "of mara.integrations.openrlhf, and --algo.kl.init_coef {beta} --algo.kl.estimator k1",
    REINVENT: "transform=mara transform.level=answer transform.equivalence={equivalence} "
    "transform.threshold.value={threshold}, in what this makes (docs/chem.md): python -m chem.convert CONFIG FOLDER",
    CHEM: "transform=mara transform.level=answer transform.equivalence={equivalence} "
    "transform.threshold.value={threshold} objective.beta={beta}",
    "": "transform=mara transform.level=answer transform.threshold.value={threshold} objective.beta={beta}",
}
REVERSE_KL = {
    TRL: (
        "use_bias_correction_kl=True, importance_sampling_level='token', loss_type='dr_grpo' or 'dapo'; or "
        "RLOOTrainer"
    ),
    VERL: "algorithm.use_kl_in_reward=True algorithm.kl_penalty=kl algorithm.adv_estimator=rloo "
    "actor_rollout_ref.actor.use_kl_loss=False",
    OPENRLHF: "--algo.kl.estimator k1 --algo.advantage.estimator rloo, without --algo.kl.use_loss",
}
BETA = {
    TRL: "beta={beta}",
    VERL: "algorithm.use_kl_in_reward=True algorithm.kl_ctrl.kl_coef={beta}",
    OPENRLHF: "--algo.kl.init_coef {beta}",
    REINVENT: "a smaller sigma: 1 / {beta}",
    CHEM: "objective.beta={beta}",
    "": "objective.beta={beta}",
}
VERL_LOSS_BETA = "actor_rollout_ref.actor.kl_loss_coef={beta}"
LESS_NOISE = {
    TRL: "a larger num_generations, a smaller learning_rate, num_iterations=1",
    VERL: "a larger actor_rollout_ref.rollout.n, a smaller actor_rollout_ref.actor.optim.lr, "
    "actor_rollout_ref.actor.ppo_epochs=1",
    OPENRLHF: "a larger --rollout.n_samples_per_prompt, a smaller --actor.adam.lr, --train.max_epochs 1",
    REINVENT: "a larger batch_size, a smaller rate (learning_rate of Saturn), a smaller sigma",
    CHEM: "a larger batch_size, a smaller optimizer.lr",
    "": "a larger group_size, a smaller optimizer.lr",
}


@dataclass(frozen=True)
class Advice:
    """A change.

    Attributes:
        what: the change, in words.
        why: the reason, with the run's numbers.
        settings: how it is written in the run's trainer.
        nats: by how much it moves the log ratio of two answers, by which changes are ordered.
    """

    what: str
    why: str
    settings: str
    nats: float


def advice(diagnosis: Diagnosis) -> list[Advice]:
    """What to change, the most effective first; empty if nothing needs a change."""
    changes = [*_kl_changes(diagnosis), *(_mara(diagnosis) or _collapsed(diagnosis))]
    changes += [*_beta(diagnosis), *_drift(diagnosis)]
    return sorted(changes, key=lambda change: -change.nats)[:MAX_ADVICE]


def _written(template: str, **values: float) -> str:
    return template.format(**{name: number(value) for name, value in values.items()})


def _beta_setting(diagnosis: Diagnosis, beta: float) -> str:
    run = diagnosis.run
    in_loss = run.trainer == VERL and run.kl is not None and "use_kl_loss=true" in run.kl.setting.lower()
    return _written(VERL_LOSS_BETA if in_loss else BETA[run.trainer], beta=beta)


def _gap(diagnosis: Diagnosis) -> float:
    """The largest |log ratio| of two equally good answers now, nats."""
    gaps = [_now(pair) for pair in diagnosis.pairs if pair.equal and pair.good]
    return max(gaps, default=0.0)


def _now(pair: Pair) -> float:
    """|log ratio| now, 0 if it is not known; of an answer that was not sampled, that of half a sample."""
    if pair.now is None:
        return 0.0
    return abs(pair.now) if math.isfinite(pair.now) else math.log(2 * pair.counts[0])


def _kl_changes(diagnosis: Diagnosis) -> list[Advice]:
    """Of a KL term that is missing, does nothing, or is another divergence than its name says."""
    kl, run = diagnosis.run.kl, diagnosis.run
    if run.beta == 0:
        why = (
            "without one nothing holds the policy near the reference, and the share of equal answers drifts until "
            "one is left"
        )
        return [Advice("Add a KL term", why, _beta_setting(diagnosis, 0.03), _gap(diagnosis) + 0.1)]
    if kl is None or not kl.measured or kl.as_named:
        return []
    settings = REVERSE_KL[run.trainer]
    if kl.gradient == ZERO:
        why = f"{kl.setting} has zero expected gradient ({kl.source}), so this run has no KL"
        return [Advice("Use a KL term that has a gradient", why, settings, _gap(diagnosis) + 0.1)]
    return [Advice("Use the KL that the name says", _wrong_kl(kl), settings, 0.05)]


def _wrong_kl(kl: KlFact) -> str:
    return (
        f"{kl.setting} has another gradient: {kl.gradient} ({kl.source}); equal answers keep the "
        "reference's ratio under either, but beta means something else"
    )


def _mara(diagnosis: Diagnosis) -> list[Advice]:
    """MARA, if the optimum itself is unequal between good answers."""
    run = diagnosis.run
    unequal = [pair for pair in diagnosis.pairs if pair.mara is not None and pair.optimum is not None]
    unequal = [pair for pair in unequal if abs(pair.optimum or 0.0) >= max(LEAST_GAP, 2 * pair.ref_error)]
    if run.uses_mara or not unequal or diagnosis.threshold is None:
        return []
    worst = max(unequal, key=lambda pair: abs(pair.optimum or 0.0))
    optimum = worst.optimum or 0.0
    size = "at any beta above 0" if worst.equal else f"at beta {number(run.beta or 0.0)}"
    why = (
        f"{size} the optimum keeps {quoted(worst.a)} and {quoted(worst.b)} at {ratio(optimum)}; no setting of the "
        f"trainer changes that, and MARA makes it {ratio(worst.mara or 0.0)}"
    )
    what = "Change the objective: mode-anchored rewards (MARA)"
    return [Advice(what, why, _mara_settings(run, diagnosis.threshold), abs(optimum))]


def _mara_settings(run: Run, threshold: float) -> str:
    template = MARA[run.trainer].replace("{equivalence}", "scaffold" if run.answer_noun == "scaffold" else "answer")
    return _written(template, beta=run.beta or 0.03, threshold=threshold)


def _collapsed(diagnosis: Diagnosis) -> list[Advice]:
    """MARA, if good answers became fewer and their ratio at the optimum is not known."""
    run, onset = diagnosis.run, diagnosis.onset
    if run.uses_mara or onset is None or not onset.detected or diagnosis.threshold is None:
        return []
    why = (
        f"good {run.noun}s agree with probability {number(onset.after)}, at first with {number(onset.before)}; "
        "under a KL alone nothing brings the others back, because the optimum keeps the reference's ratio of equally "
        "good ones"
    )
    what, settings = "Change the objective: mode-anchored rewards (MARA)", _mara_settings(run, diagnosis.threshold)
    return [Advice(what, why, settings, onset.after - onset.before)]


def _beta(diagnosis: Diagnosis) -> list[Advice]:
    """A larger beta, if it is below that at which a slightly worse answer would be as likely as the best."""
    run = diagnosis.run
    if not run.beta:
        return []
    ties = [pair for pair in diagnosis.pairs if not pair.equal and run.beta < pair.tie_beta < math.inf]
    near = NEARLY_AS_GOOD * diagnosis.reward_range
    ties = [pair for pair in ties if abs(pair.reward_a - pair.reward_b) <= near]
    ties = [
        pair
        for pair in ties
        if pair.reward_a > pair.reward_b and pair.optimum is not None and pair.optimum > LEAST_GAP
    ]
    if not ties:
        return []
    pair = min(ties, key=lambda pair: pair.tie_beta)
    better = pair.optimum or 0.0
    why = (
        f"{quoted(pair.a)} and {quoted(pair.b)} have rewards {number(pair.reward_a)} and {number(pair.reward_b)}: "
        "at beta "
        f"{number(run.beta)} the optimum has {ratio(better)}, and they tie at {number(pair.tie_beta)}. If the "
        "difference in reward means nothing, a threshold below both, with MARA, keeps both"
    )
    return [
        Advice("Raise beta, or lower the threshold", why, _beta_setting(diagnosis, pair.tie_beta), min(better, 1.0))
    ]


def _drift(diagnosis: Diagnosis) -> list[Advice]:
    """Less noise, if the run is beyond the optimum of its own objective."""
    run = diagnosis.run
    beyond = [
        pair
        for pair in diagnosis.pairs
        if pair.excess is not None
        and run.beta != 0
        and math.isfinite(pair.excess)
        and pair.excess > 2 * pair.excess_error
    ]
    if not beyond:
        return []
    worst = max(beyond, key=lambda pair: pair.excess or 0.0)
    excess = worst.excess or 0.0
    why = (
        f"{quoted(worst.a)} and {quoted(worst.b)} are {excess:.1f} ± {worst.excess_error:.1f} nats beyond the "
        "optimum; "
        "this is noise of the gradient that the KL has not pulled back"
    )
    return [Advice("Reduce the drift", why, LESS_NOISE[run.trainer], excess)]
