// The optima of `core.targets` and the reward augmentation of `core.mara`, for one problem. Logarithms are natural; -Infinity
// is an outcome off the support of the reference. The equations are explained in those two modules.
"use strict";
const Targets = (() => {
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const highest = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);

  function logSumExp(values) {
    const top = highest(values);
    return top === -Infinity ? top : top + Math.log(sum(values.map((value) => Math.exp(value - top))));
  }

  function logAddExp(a, b) {
    const top = Math.max(a, b);
    return Number.isFinite(top) ? top + Math.log1p(Math.exp(-Math.abs(a - b))) : top;
  }

  function normalised(logits) {
    const total = logSumExp(logits);
    return logits.map((value) => value - total);
  }

  /** Index of the largest of the values that are allowed, the first of equals; -1 if none is. */
  function argmax(values, allowed) {
    let best = -1;
    values.forEach((value, i) => {
      if (allowed[i] && (best < 0 || value > values[best])) best = i;
    });
    return best;
  }

  /** Reverse KL, eq. 2: log G = (beta log ref + R) / (beta + entropy) + constant. beta + entropy must be > 0. */
  function reverseTarget(refLogp, reward, beta, entropy = 0) {
    const temperature = beta + entropy;
    const logp = beta === 0 ? refLogp.map(() => 0) : refLogp;
    const supported = logp.map((value) => value > -Infinity);
    const best = highest(reward.filter((_, i) => supported[i]));
    const logit = logp.map((value, i) => value * (beta / temperature) + (reward[i] - best) / temperature);
    const pivot = argmax(logit, supported);
    return normalised(
      logp.map((value, i) =>
        supported[i]
          ? (value - logp[pivot]) * (beta / temperature) + (reward[i] - reward[pivot]) / temperature
          : -Infinity,
      ),
    );
  }

  /** Forward KL, eq. 5: beta ref / (Lambda - R). A better reward off the support takes what is missing at Lambda = max R. */
  function forwardTarget(refLogp, reward, beta) {
    const logMass = refLogp.map((value) => value + Math.log(beta));
    const supported = refLogp.map((value) => value > -Infinity);
    const best = highest(reward.filter((_, i) => supported[i]));
    const logGap = reward.map((value, i) => (supported[i] ? Math.log(Math.max(best - value, 0)) : Infinity));
    const top = highest(reward);
    const above = Math.max(top - best, 0);
    if (above > 0) {
      const atTop = logMass.map((value, i) => value - logAddExp(Math.log(above), logGap[i]));
      const missing = 1 - sum(atTop.map(Math.exp));
      if (missing > 0) {
        const share = Math.log(missing / reward.filter((value) => value === top).length);
        return atTop.map((value, i) => (reward[i] === top ? share : value));
      }
    }
    const u = solveNormalisation(logMass, logGap);
    return logMass.map((value, i) => (supported[i] ? value - logAddExp(u, logGap[i]) : -Infinity));
  }

  /** u = log(Lambda - max R), where sum_i exp(logMass_i) / (e^u + gap_i) = 1, by Newton's method on 1/Z in logarithms. */
  function solveNormalisation(logMass, logGap) {
    const atBest = logSumExp(logMass.filter((_, i) => logGap[i] === -Infinity));
    const single = logMass.map((mass, i) =>
      mass > logGap[i] ? mass + Math.log1p(-Math.exp(logGap[i] - mass)) : -Infinity,
    );
    let u = Math.max(atBest, highest(single)); // both are lower bounds of the root
    for (let i = 0; i < 200; i++) {
      const slack = logGap.map((gap) => logAddExp(u, gap));
      const term = logMass.map((mass, k) => (mass === -Infinity ? mass : mass - slack[k]));
      const total = sum(term.map(Math.exp));
      const slope = logSumExp(term.map((value, k) => (value === -Infinity ? value : value - slack[k]))) + u;
      const step = Math.log1p(Math.exp(Math.log(total) + Math.log(Math.max(total - 1, 0)) - slope));
      u += step;
      if (step <= 4e-16 * Math.max(Math.abs(u), 1)) return u;
    }
    throw new Error("the forward-KL normalisation did not converge");
  }

  /** log G(a)/G(b) under reverse KL, eq. 7. */
  function reverseLogRatio(refA, refB, rewardA, rewardB, beta, entropy = 0) {
    return (beta * (refA - refB) + (rewardA - rewardB)) / (beta + entropy);
  }

  /** The beta at which two outcomes tie under reverse KL, eq. 10; Infinity: never, 0: the rewards are equal. */
  function reverseCrossover(refA, refB, rewardA, rewardB) {
    const refGap = refA - refB;
    const rewardGap = rewardB - rewardA;
    if (rewardGap === 0) return 0;
    return refGap * rewardGap > 0 && Number.isFinite(refGap) ? rewardGap / refGap : Infinity;
  }

  /** The same under forward KL, where it depends on the whole reference; a and b are on its support. */
  function forwardCrossover(refLogp, reward, a, b) {
    const refGap = refLogp[a] - refLogp[b];
    const rewardGap = reward[b] - reward[a];
    if (rewardGap === 0) return 0;
    if (!(refGap * rewardGap > 0)) return Infinity;
    const excess = Math.abs(rewardGap) / Math.expm1(Math.abs(refGap)); // Lambda - the higher of the two rewards
    const level = Math.max(reward[a], reward[b]);
    const slack = reward.map((value) => excess + (level - value));
    if (!slack.every((value, i) => (refLogp[i] > -Infinity ? value > 0 : value >= 0))) return Infinity;
    return Math.exp(-logSumExp(refLogp.map((value, i) => (value > -Infinity ? value - Math.log(slack[i]) : value))));
  }

  /** Whether a reward reaches the threshold, in float32 as in `core.mara.reaches`. */
  const reaches = (reward, threshold) => Math.fround(reward) >= Math.fround(threshold);

  const goodOutcomes = (refLogp, reward, threshold) =>
    reward.map((value, i) => reaches(value, threshold) && refLogp[i] > -Infinity);

  /** Log of the reference's probability of the good outcomes with the same answer; 0 probability for other outcomes. */
  function answerMass(refLogp, good, answers) {
    return answers.map((answer) => logSumExp(refLogp.filter((_, i) => good[i] && answers[i] === answer)));
  }

  /** The good outcome of the largest mass; of equals the best rewarded, then the first; -1 without a good outcome. */
  function anchorOf(reward, mass, good) {
    const most = highest(mass.filter((_, i) => good[i]));
    return argmax(
      reward,
      good.map((value, i) => value && mass[i] === most),
    );
  }

  /** Algorithm 1: rewards of the good outcomes, R(z) + beta (log mass(z) - log mass(c)). */
  function augmentReward(refLogp, reward, { beta, threshold, mass = refLogp }) {
    const good = goodOutcomes(refLogp, reward, threshold);
    const anchor = anchorOf(reward, mass, good);
    return reward.map((value, i) => (good[i] ? reward[anchor] + beta * (mass[anchor] - mass[i]) : value));
  }

  /** Algorithm 2: {reward, refLogp}; the good have R(z), and the reference times mass(z) / mass(c). */
  function anchorReference(refLogp, reward, { threshold, mass = null }) {
    const good = goodOutcomes(refLogp, reward, threshold);
    const used = mass || refLogp;
    const anchor = anchorOf(reward, used, good);
    return {
      reward: reward.map((value, i) => (good[i] ? reward[anchor] : value)),
      refLogp: refLogp.map((value, i) => {
        if (!good[i]) return value;
        return mass === null ? used[anchor] : value + (used[anchor] - used[i]);
      }),
    };
  }

  /** exp of the entropy of the shares of the good outcomes. */
  function effectiveModes(logp, good) {
    const share = normalised(logp.filter((_, i) => good[i]));
    return Math.exp(sum(share.map((value) => (value === -Infinity ? 0 : -value * Math.exp(value)))));
  }

  /** The same over the answers of the good outcomes. */
  function effectiveAnswers(logp, good, answers) {
    const mass = answerMass(logp, good, answers);
    return effectiveModes(
      mass,
      good.map((value, i) => value && answers.findIndex((other, k) => good[k] && other === answers[i]) === i),
    );
  }

  /** The optimum with MARA (`off`, `sequence` or `answer`) and without. Forward KL with entropy has no closed form: null. */
  function optimum(problem, direction, level) {
    const { refLogp, reward, beta, entropy, threshold, answers } = problem;
    if (direction === "forward" && entropy > 0) return null;
    let options = { beta, threshold };
    if (level === "answer") {
      const good = goodOutcomes(refLogp, reward, threshold);
      options = { ...options, mass: answerMass(refLogp, good, answers) };
    }
    if (direction === "reverse") {
      const shaped = level === "off" ? reward : augmentReward(refLogp, reward, options);
      return reverseTarget(refLogp, shaped, beta, entropy);
    }
    const used = level === "off" ? { refLogp, reward } : anchorReference(refLogp, reward, options);
    return forwardTarget(used.refLogp, used.reward, beta);
  }

  return {
    anchorOf,
    anchorReference,
    answerMass,
    augmentReward,
    effectiveAnswers,
    effectiveModes,
    forwardCrossover,
    forwardTarget,
    goodOutcomes,
    logSumExp,
    normalised,
    optimum,
    reaches,
    reverseCrossover,
    reverseLogRatio,
    reverseTarget,
  };
})();
