// What the page says about a problem, in words and tables. context: {state, problem, good, names, reached}.
"use strict";
const Report = (() => {
  const { element, short, percent } = Charts;
  const MOST_PAIRS = 6; // crossovers that are listed
  const LEVEL_WORDS = { off: "", sequence: "by sequence", answer: "by answer" };
  const KL_WORDS = {
    none: "without a KL term",
    reverse: "with reverse KL",
    forward: "with forward KL",
    reference: "with forward KL on samples of the reference",
  };

  const called = (name) => (/^\d+$/.test(name) ? `outcome ${name}` : name);
  const indices = (values) => values.map((_, i) => i);
  const probability = (value) => (value === 0 ? "0" : value >= 5e-5 ? value.toFixed(4) : value.toExponential(1));
  const nats = (value) => (Math.abs(value) < 5e-5 ? "0" : value.toFixed(3));

  /** Effective number of good outcomes, or of good answers where MARA compares answers. */
  function modes({ state, problem, good }, logp) {
    return state.mara === "answer"
      ? Targets.effectiveAnswers(logp, good, problem.answers)
      : Targets.effectiveModes(logp, good);
  }

  /** How many there could be, and what they are: [number, words]. */
  function goodCount({ state, good, problem }) {
    if (state.mara !== "answer") return [good.filter(Boolean).length, "good outcomes"];
    return [new Set(problem.answers.filter((_, i) => good[i])).size, "good answers"];
  }

  function verdict(context) {
    const { state, problem, good, names } = context;
    const without = Targets.optimum(problem, state.direction, "off");
    if (!without) return "Forward KL has no closed form with an entropy bonus. Set it to 0, or choose reverse KL.";
    const outcomes = good.filter(Boolean).length;
    if (outcomes === 0) return "No outcome is good at this threshold, so MARA changes nothing.";
    if (outcomes === 1) return `Only ${called(names[good.indexOf(true)])} is good, so there is nothing to even out.`;
    const [count, words] = goodCount(context);
    const number = modes(context, without);
    const share = Targets.normalised(without.map((value, i) => (good[i] ? value : -Infinity))).map(Math.exp);
    const top = share.indexOf(Math.max(...share));
    const does =
      number > 0.99 * count
        ? `is even over the ${words}`
        : `gives ${percent(share[top])}% of the good mass to ${called(names[top])}`;
    let text = `Without MARA the optimum ${does}: effectively ${number.toFixed(2)} of ${count} ${words}.`;
    if (state.mara !== "off") {
      text += ` With MARA ${LEVEL_WORDS[state.mara]}: ${modes(context, Targets.optimum(problem, state.direction, state.mara)).toFixed(2)}.`;
    }
    return text;
  }

  /**
   * Pairs of outcomes of which the better is the rarer: {listed: [{better, likelier, reverse, forward}], more}, those
   * nearest to beta. Of many outcomes only the good ones are compared.
   */
  function crossovers({ problem, good }) {
    const { refLogp, reward, beta } = problem;
    const kept = indices(reward).filter(
      (i) => refLogp[i] > -Infinity && (reward.length <= State.MOST_ADDED || good[i]),
    );
    const pairs = kept.flatMap((i) =>
      kept
        .filter((j) => reward[i] > reward[j] && refLogp[i] < refLogp[j])
        .map((j) => ({
          better: i,
          likelier: j,
          reverse: Targets.reverseCrossover(refLogp[i], refLogp[j], reward[i], reward[j]),
        })),
    );
    const distance = ({ reverse }) => Math.abs(Math.log(reverse) - Math.log(beta));
    pairs.sort((a, b) => distance(a) - distance(b));
    const listed = pairs.slice(0, MOST_PAIRS);
    for (const pair of listed) pair.forward = Targets.forwardCrossover(refLogp, reward, pair.better, pair.likelier);
    return { listed, more: pairs.length - listed.length };
  }

  function numbers(context) {
    const { good } = context;
    const rows = [["Crossover beta", ties(context)]];
    if (good.filter(Boolean).length > 1) {
      rows.push(["Effective modes", modesTable(context)], ["Log ratio", logRatio(context)]);
    }
    return rows.flatMap(([name, content]) => [element("dt", {}, [name]), element("dd", {}, [content])]);
  }

  function tableOf(head, rows, caption) {
    const line = (cells, first) =>
      element(
        "tr",
        {},
        cells.map((text, i) =>
          first || i === 0 ? element("th", { scope: first ? "col" : "row" }, [text]) : element("td", {}, [text]),
        ),
      );
    const table = element("table", {}, [
      element("thead", {}, [line(head, true)]),
      element(
        "tbody",
        {},
        rows.map((cells) => line(cells, false)),
      ),
    ]);
    return element("div", { class: "scroll", tabindex: "0" }, [
      table,
      ...(caption ? [element("p", { class: "soft" }, [caption])] : []),
    ]);
  }

  /** The betas at which two outcomes are equally likely. */
  function ties(context) {
    const { state, names } = context;
    const { listed, more } = crossovers(context);
    const which = names.length > State.MOST_ADDED ? "good outcome" : "outcome";
    if (!listed.length) return `none: no ${which} has a higher reward than one that is likelier under the reference`;
    const both = state.entropy === 0;
    const rows = listed.map(({ better, likelier, reverse, forward }) => [
      `${names[better]} below, ${names[likelier]} above`,
      short(reverse),
      ...(both ? [forward < Infinity ? short(forward) : "never"] : []),
    ]);
    return tableOf(
      ["likelier", "reverse", ...(both ? ["forward"] : [])],
      rows,
      more > 0 ? `and ${more} more pairs, further from beta` : "",
    );
  }

  function modesTable(context) {
    const { state, problem } = context;
    const levels = state.mara === "answer" ? ["off", "sequence", "answer"] : ["off", "sequence"];
    const [count, words] = goodCount(context);
    const rows = ["reverse", "forward"]
      .filter((direction) => Targets.optimum(problem, direction, "off"))
      .map((direction) => [
        `${direction} KL`,
        ...levels.map((level) => modes(context, Targets.optimum(problem, direction, level)).toFixed(3)),
      ]);
    const caption = `of ${count} ${words}; ${modes(context, problem.refLogp).toFixed(3)} in the reference`;
    return tableOf(
      ["", ...levels.map((level) => (level === "off" ? "without" : `MARA ${LEVEL_WORDS[level]}`))],
      rows,
      caption,
    );
  }

  /** Eq. 7 in numbers: for the two likeliest good outcomes, or of many for the likeliest and the rarest. */
  function logRatio({ state, problem, good, names }) {
    const { refLogp, reward, beta, entropy } = problem;
    const order = indices(names)
      .filter((i) => good[i])
      .sort((i, j) => refLogp[j] - refLogp[i]);
    const [a, b] = [order[0], order[names.length > State.MOST_ADDED ? order.length - 1 : 1]];
    const value = Targets.reverseLogRatio(refLogp[a], refLogp[b], reward[a], reward[b], beta, entropy);
    const parts = entropy
      ? `(${short(beta)} × ${nats(refLogp[a] - refLogp[b])} + ${nats(reward[a] - reward[b])}) / ${short(beta + entropy)}`
      : `${nats(refLogp[a] - refLogp[b])} from the reference and ${nats((reward[a] - reward[b]) / beta)} from rewards / beta`;
    const ratio = Math.exp(Math.abs(value));
    const [first, second] = value < 0 ? [b, a] : [a, b];
    let text = `Under reverse KL, log policy(${names[a]}) / policy(${names[b]}) = ${nats(value)} nats, ${parts} (eq. 7). `;
    text += `So ${called(names[first])} is ${ratio < 1e6 ? `${short(ratio)} times` : "more than 1e6 times"} as likely as ${called(names[second])}.`;
    if (state.mara !== "off") {
      const after = Targets.optimum(problem, "reverse", state.mara);
      text += ` With MARA ${LEVEL_WORDS[state.mara]} it is ${nats(after[a] - after[b])} nats.`;
    }
    return text;
  }

  function table({ state, problem, names, reached }) {
    const columns = [
      ["reward", state.reward.map(short)],
      ["reference", state.ref.map(probability)],
    ];
    for (const direction of ["reverse", "forward"]) {
      for (const level of ["off", "sequence", "answer"]) {
        const logp = Targets.optimum(problem, direction, level);
        if (!logp || (level === "answer" && state.mara !== "answer")) continue;
        columns.push([
          `${direction}${level === "off" ? "" : `, MARA ${LEVEL_WORDS[level]}`}`,
          logp.map((value) => probability(Math.exp(value))),
        ]);
      }
    }
    if (reached && reached.logp && state.method)
      columns.push([state.method, reached.logp.map((value) => probability(Math.exp(value)))]);
    return [
      ...tableOf(
        ["outcome", ...columns.map(([name]) => name)],
        names.map((name, i) => [name, ...columns.map(([, cells]) => cells[i])]),
      ).firstChild.children,
    ];
  }

  /** Where another method leads, and how that is known. */
  function methodText({ state, reached, names }) {
    if (reached.reason) return `${reached.reason}.`;
    const { kl, closed } = Methods.TABLE[state.method];
    const way = closed
      ? "in closed form"
      : `by following its expected gradient over all groups of ${Methods.GROUP} from the reference`;
    const shares = names.map((name, i) => `${name} ${probability(Math.exp(reached.logp[i]))}`).join(", ");
    const moving = reached.settled ? "" : "; it is still moving";
    return `${state.method}, ${KL_WORDS[kl]}, ${way}${moving}${names.length <= State.MOST_ADDED ? `: ${shares}` : ""}.`;
  }

  return { LEVEL_WORDS, crossovers, methodText, numbers, table, verdict };
})();
