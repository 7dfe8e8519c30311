// Where other methods lead (docs/methods.md): in closed form, or by following the expected natural gradient over all groups
// of completions, without sampling noise, as tools/method_optima.py does. Completions have one token.
"use strict";
const Methods = (() => {
  const GROUP = 8; // completions of a group
  const MOST_OUTCOMES = 6; // on the support: 1287 groups
  const MAX_STEP = 0.1; // largest change of a log-probability in a step
  const STEPS = 1000;
  const SETTLED = 3e-4; // largest change of a log-probability at the full rate, of outcomes that count
  const SMALLEST = 1e-6; // probability of an outcome that counts

  const range = (count) => Array.from({ length: count }, (_, i) => i);
  const sum = (values) => values.reduce((total, value) => total + value, 0);

  /** All multisets of GROUP outcomes out of `count`: numbers of each outcome, and log of the number of orders. */
  function allGroups(count) {
    const logFactorial = [0];
    for (let i = 1; i <= GROUP; i++) logFactorial.push(logFactorial[i - 1] + Math.log(i));
    const groups = [];
    const fill = (numbers, left) => {
      if (numbers.length === count - 1) {
        const all = [...numbers, left];
        groups.push({ numbers: all, logOrders: logFactorial[GROUP] - sum(all.map((n) => logFactorial[n])) });
        return;
      }
      for (let n = left; n >= 0; n--) fill([...numbers, n], left - n);
    };
    fill([], GROUP);
    return groups;
  }

  // --- advantages of the outcomes of a group: (numbers, rewards) -> one for each outcome -------------------------------

  const mean = (numbers, values) => sum(values.map((value, i) => (numbers[i] ? numbers[i] * value : 0))) / GROUP;

  function centred(numbers, reward) {
    const middle = mean(numbers, reward);
    return reward.map((value) => value - middle);
  }

  function normalisedByStd(numbers, reward) {
    const advantage = centred(numbers, reward);
    const std = Math.sqrt(
      mean(
        numbers,
        advantage.map((value) => value * value),
      ),
    );
    const scale = Math.max(...reward.map((value, i) => (numbers[i] ? Math.abs(value) : 0)));
    return advantage.map((value) => (std <= 4 * Number.EPSILON * scale ? 0 : value / std));
  }

  /** GRPO's own standard deviation, of n - 1. */
  const normalisedBySampleStd = (numbers, reward) =>
    normalisedByStd(numbers, reward).map((value) => value * Math.sqrt((GROUP - 1) / GROUP));

  function normalisedByMean(numbers, reward) {
    const middle = mean(numbers, reward);
    return centred(numbers, reward).map((value) => value / (middle === 0 ? 1 : middle));
  }

  /** Best of the group: the best completion gets its lead over the runner-up. */
  function bestOfGroup(numbers, reward) {
    const drawn = range(reward.length)
      .filter((i) => numbers[i] > 0)
      .sort((a, b) => reward[b] - reward[a]);
    const [best, next] = drawn;
    const lead = numbers[best] > 1 || next === undefined ? 0 : reward[best] - reward[next];
    return reward.map((_, i) => (i === best ? lead : 0));
  }

  /** Pass@k with k = 4, standardised over the subsets of k completions. */
  function passAtFour(numbers, _, problem) {
    const correct = sum(numbers.filter((_, i) => problem.good[i]));
    let fails = 1;
    for (let i = 0; i < 4; i++) fails *= Math.max(GROUP - correct - i, 0) / (GROUP - i);
    const value = fails === 0 || correct === 0 ? 0 : Math.sqrt(fails / (1 - fails));
    return problem.good.map((good) => (good ? value : (-value * correct) / Math.max(GROUP - correct, 1)));
  }

  // --- rewards and bonuses of a group -----------------------------------------------------------------------------------

  const sameAnswer = (numbers, { answers }) =>
    answers.map((answer) => sum(numbers.filter((_, i) => answers[i] === answer)));

  const darling = (numbers, problem) => {
    const size = sameAnswer(numbers, problem);
    return problem.reward.map((value, i) => value * (1 - (size[i] - 1) / (GROUP - 1)));
  };

  const byFrequency = (numbers, problem) => {
    const size = sameAnswer(numbers, problem);
    return problem.reward.map((value, i) => (value * GROUP) / Math.max(size[i], 1));
  };

  const gapo = (numbers, problem) => {
    const size = sameAnswer(numbers, problem);
    const good = Math.max(sum(numbers.filter((_, i) => problem.good[i])), 1);
    return problem.good.map((value, i) => (value ? 1 - size[i] / good : -1));
  };

  /** Unlikely: the likelier a good completion is within its group, the less it gets; strength .25. */
  const unlikely = (numbers, problem, logp) =>
    problem.reward.map((value, i) => {
      if (!problem.good[i]) return value;
      const lower = sum(numbers.filter((_, k) => logp[k] < logp[i]));
      const tied = sum(numbers.filter((_, k) => logp[k] === logp[i]));
      return value * (1 - (0.25 * (lower + (tied - 1) / 2)) / GROUP);
    });

  const differentialSmoothing = (numbers, problem, logp) =>
    logp.map((value, i) => (problem.good[i] ? -0.01 * value : 0));

  function ucpo(numbers, problem, logp) {
    const total = Targets.logSumExp(
      logp.map((value, i) => (problem.good[i] && numbers[i] ? value + Math.log(numbers[i]) : -Infinity)),
    );
    const surprise = logp.map((value, i) => (problem.good[i] && numbers[i] ? total - value : 0));
    const entropy = sum(surprise.map((value, i) => (value ? numbers[i] * value * Math.exp(-value) : 0)));
    return surprise.map((value, i) => (problem.good[i] && numbers[i] ? 0.1 * (value - entropy) : 0));
  }

  const plainReward = (_, problem) => problem.reward;

  // --- the table: how a method's optimum is found ------------------------------------------------------------------------

  // closed: (problem) -> log-probabilities. Otherwise a group is trained on `advantage` of `reward`, times `weight`, plus
  // `bonus`, with the KL term `kl` (reverse; forward: with capped weights; reference: forward, on samples of the reference).
  // `moves`: whether these depend on the policy.
  const onBest = ({ refLogp, reward }) => {
    const best = Math.max(...reward.filter((_, i) => refLogp[i] > -Infinity));
    return Targets.normalised(refLogp.map((value, i) => (reward[i] === best ? value : -Infinity)));
  };
  const plain = (direction) => (problem) => Targets.optimum({ ...problem, entropy: 0 }, direction, "off");
  const withCentred = (problem) =>
    Targets.reverseTarget(problem.refLogp, problem.reward, (problem.beta * GROUP) / (GROUP - 1));
  const std = { reward: plainReward, advantage: normalisedByStd, kl: "reverse" };
  const TABLE = {
    rloo: { kl: "reverse", closed: plain("reverse") },
    rloo_forward: { kl: "forward", closed: plain("forward") },
    reinforce: { kl: "reverse", closed: plain("reverse") },
    reinforce_plus_plus: { kl: "reverse", closed: plain("reverse") },
    entropy: {
      kl: "reverse",
      closed: ({ refLogp, reward, beta }) => Targets.reverseTarget(refLogp, reward, beta, 0.01),
    },
    grpo_no_std: { kl: "reverse", closed: withCentred },
    mara_reverse: { kl: "reverse", closed: (p) => Targets.optimum({ ...p, entropy: 0 }, "reverse", "sequence") },
    mara_forward: { kl: "forward", closed: (p) => Targets.optimum({ ...p, entropy: 0 }, "forward", "sequence") },
    mara_answers_reverse: {
      kl: "reverse",
      closed: (p) => Targets.optimum({ ...p, entropy: 0 }, "reverse", "answer"),
    },
    mara_answers_forward: {
      kl: "forward",
      closed: (p) => Targets.optimum({ ...p, entropy: 0 }, "forward", "answer"),
    },
    dr_grpo: { kl: "none", closed: onBest },
    dapo: { kl: "none", closed: onBest },
    cispo: { kl: "none", closed: onBest },
    gspo: { kl: "none", closed: onBest },
    kl_cov: { kl: "none", closed: onBest },
    grpo: { reward: plainReward, advantage: normalisedBySampleStd, kl: "forward" },
    grpo_sequence_kl: std,
    maxrl: { reward: plainReward, advantage: normalisedByMean, kl: "reverse" },
    best_of_n: { reward: plainReward, advantage: bestOfGroup, kl: "reverse" },
    pass_at_k: { reward: plainReward, advantage: passAtFour, kl: "reverse" },
    dph: { reward: plainReward, advantage: normalisedByStd, kl: "reference" },
    unlikely: { ...std, reward: unlikely, moves: true },
    differential_smoothing: { ...std, bonus: differentialSmoothing, moves: true },
    ucpo: { ...std, bonus: ucpo, moves: true },
    uniqueness: { ...std, weight: (numbers, problem) => sameAnswer(numbers, problem).map((n) => 1 / Math.max(n, 1)) },
    darling: { reward: darling, advantage: centred, kl: "reverse" },
    ips_grpo: { ...std, reward: byFrequency },
    dra_grpo: { ...std, reward: byFrequency }, // with similarities of 0 and 1 it is ips_grpo over GROUP
    gapo: { ...std, reward: gapo },
  };

  // The colours of launch/analysis/palette.py.
  const COLOURS = {
    rloo: "#0072B2",
    rloo_forward: "#56B4E9",
    reinforce: "#661100",
    reinforce_plus_plus: "#664250",
    entropy: "#808000",
    grpo_no_std: "#6A5FC0",
    mara_reverse: "#D55E00",
    mara_forward: "#E69F00",
    mara_answers_reverse: "#882255",
    mara_answers_forward: "#CC79A7",
    dr_grpo: "#FF0040",
    dapo: "#0000FF",
    cispo: "#00B200",
    gspo: "#FF00FF",
    kl_cov: "#B20000",
    grpo: "#332288",
    grpo_sequence_kl: "#9C8FE0",
    maxrl: "#4058FF",
    best_of_n: "#A0522D",
    pass_at_k: "#AA4499",
    dph: "#2A9D9D",
    unlikely: "#009E73",
    differential_smoothing: "#7A8B99",
    ucpo: "#C2185B",
    uniqueness: "#512E66",
    darling: "#B8860B",
    ips_grpo: "#FF7373",
    dra_grpo: "#86B200",
    gapo: "#FF009F",
  };

  /** The advantage of each outcome of a group. */
  function advantageOf(method, group, problem, logp) {
    const reward = method.reward(group.numbers, problem, logp);
    let advantage = method.advantage(group.numbers, reward, problem);
    if (method.weight) {
      const weight = method.weight(group.numbers, problem);
      advantage = advantage.map((value, i) => value * weight[i]);
    }
    if (method.bonus) {
      const bonus = method.bonus(group.numbers, problem, logp);
      advantage = advantage.map((value, i) => value + bonus[i]);
    }
    return advantage;
  }

  function weightCap(group, { reward, beta }) {
    const drawn = reward.filter((_, i) => group.numbers[i]);
    return 2 * (1 + Math.max(1, Math.max(...drawn) - Math.min(...drawn)) / beta);
  }

  /** The groups of a problem with what does not depend on the policy. */
  const prepare = (method, problem) =>
    allGroups(problem.reward.length).map((group) => ({
      ...group,
      drawn: range(problem.reward.length).filter((i) => group.numbers[i]),
      advantage: method.moves ? null : advantageOf(method, group, problem, null),
      cap: weightCap(group, problem),
    }));

  /** The expected derivative of the loss by the log-probability of each outcome, over its probability. */
  function pull(method, groups, problem, logp) {
    const { refLogp, beta } = problem;
    const result = logp.map(() => 0);
    for (const group of groups) {
      const advantage = group.advantage || advantageOf(method, group, problem, logp);
      let logChance = group.logOrders;
      for (const i of group.drawn) logChance += group.numbers[i] * logp[i];
      for (const i of group.drawn) {
        let coefficient = -advantage[i];
        if (method.kl === "forward") coefficient += beta * (1 - Math.min(Math.exp(refLogp[i] - logp[i]), group.cap));
        result[i] += ((group.numbers[i] * coefficient) / GROUP) * Math.exp(logChance - logp[i]);
      }
    }
    return result.map((value, i) => {
      if (method.kl === "reverse") return value + beta * (logp[i] - refLogp[i]);
      return method.kl === "reference" ? value - beta * Math.exp(refLogp[i] - logp[i]) : value;
    });
  }

  /**
   * Follow the expected natural gradient from the reference: a generator that pauses after each step and returns
   * {logp, settled}. The rate is halved when a step turns back.
   */
  function* settle(method, problem) {
    const groups = prepare(method, problem);
    const full = 0.3 / problem.beta;
    let [logp, rate, last, earlier] = [problem.refLogp, full, problem.refLogp.map(() => 0), problem.refLogp];
    for (let step = 0; step < STEPS; step++) {
      if (step === 0.9 * STEPS) earlier = logp;
      const derivative = pull(method, groups, problem, logp);
      const middle = sum(derivative.map((value, i) => Math.exp(logp[i]) * value));
      const move = derivative.map((value) => middle - value);
      const turned = sum(move.map((value, i) => value * last[i] * Math.exp(logp[i]))) < 0;
      rate = turned ? rate / 2 : Math.min(rate * 1.1, full);
      const largest = Math.max(...move.map(Math.abs), 1e-300);
      const size = Math.min(rate, MAX_STEP / largest);
      logp = Targets.normalised(logp.map((value, i) => value + move[i] * size));
      last = move;
      if (full * Math.max(...move.filter((_, i) => Math.exp(logp[i]) > SMALLEST).map(Math.abs)) < SETTLED) {
        return { logp, settled: true };
      }
      yield;
    }
    const moved = Math.max(...logp.map((value, i) => Math.abs(Math.exp(value) - Math.exp(earlier[i]))));
    return { logp, settled: moved <= 0.01 };
  }

  /**
   * Where a method leads, as a generator that pauses after each step: it returns {logp, settled}, or {reason} where the
   * page cannot say.
   * problem: as in Targets.optimum; the threshold says what is good.
   */
  function* steps(name, problem) {
    const method = TABLE[name];
    if (method.closed) return { logp: method.closed(problem), settled: true };
    const kept = range(problem.reward.length).filter((i) => problem.refLogp[i] > -Infinity);
    if (kept.length > MOST_OUTCOMES) {
      return { reason: `${name} is computed for at most ${MOST_OUTCOMES} outcomes on the reference's support` };
    }
    if (method.advantage === normalisedByMean && kept.some((i) => problem.reward[i] < 0)) {
      return { reason: `${name} divides by the mean reward, so it needs rewards of at least 0` };
    }
    const small = {
      ...problem,
      refLogp: Targets.normalised(kept.map((i) => problem.refLogp[i])),
      reward: kept.map((i) => problem.reward[i]),
      answers: kept.map((i) => problem.answers[i]),
    };
    small.good = Targets.goodOutcomes(small.refLogp, small.reward, small.threshold);
    const { logp, settled } = yield* settle(method, small);
    const all = problem.refLogp.map(() => -Infinity);
    kept.forEach((i, k) => (all[i] = logp[k]));
    return { logp: all, settled };
  }

  /** The same at once. */
  function outcome(name, problem) {
    const running = steps(name, problem);
    for (;;) {
      const { done, value } = running.next();
      if (done) return value;
    }
  }

  return { COLOURS, GROUP, MOST_OUTCOMES, TABLE, outcome, prepare, pull, steps };
})();
