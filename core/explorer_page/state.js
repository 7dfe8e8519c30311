// The state of the page: what it holds, how it is written into the address, and the problem that follows from it.
"use strict";
const State = (() => {
  const BETA = [1e-4, 10]; // range of the slider
  const LEVELS = ["off", "sequence", "answer"];
  const DIRECTIONS = ["reverse", "forward"];
  const MOST_ADDED = 12; // outcomes

  const letters = (count) =>
    Array.from({ length: count }, (_, i) => (count <= 26 ? String.fromCharCode(65 + i) : String(i)));
  const sum = (values) => values.reduce((a, b) => a + b, 0);

  /** A whole state from what differs from the usual. threshold null: the best reward on the support. */
  function complete(given) {
    const usual = {
      figure: null,
      beta: 0.01,
      entropy: 0,
      threshold: null,
      direction: "reverse",
      mara: "off",
      method: "",
      log: false,
    };
    const state = { ...usual, ...given };
    state.answers = state.answers || letters(state.reward.length);
    return state;
  }

  function fromPreset(name) {
    const { problem, set } = Presets.LIST[name];
    return complete({ ...problem(), ...set, figure: name });
  }

  /** Throw an Error with one line if a state is not a problem. */
  function check({ reward, ref, answers, beta, entropy, threshold, direction, mara, method }) {
    const count = reward.length;
    if (count < 1) throw new Error("rewards: there must be at least one");
    if (ref.length !== count)
      throw new Error(`reference: there must be ${count} probabilities as there are rewards, not ${ref.length}`);
    if (answers.length !== count)
      throw new Error(`answers: there must be ${count} as there are rewards, not ${answers.length}`);
    if (!reward.every(Number.isFinite)) throw new Error("rewards: each must be a finite number");
    if (!ref.every((value) => Number.isFinite(value) && value >= 0))
      throw new Error("reference: each must be a number of at least 0");
    if (Math.abs(sum(ref) - 1) > 1e-6) throw new Error(`reference: must sum to 1, not ${sum(ref)}`);
    if (!(beta > 0 && beta < Infinity)) throw new Error(`beta: must be above 0, not ${beta}`);
    if (!(entropy >= 0 && entropy < Infinity)) throw new Error(`entropy: must be at least 0, not ${entropy}`);
    if (threshold !== null && !Number.isFinite(threshold))
      throw new Error(`threshold: must be a number, not ${threshold}`);
    if (!DIRECTIONS.includes(direction)) throw new Error(`KL: must be reverse or forward, not ${direction}`);
    if (!LEVELS.includes(mara)) throw new Error(`MARA: must be off, sequence or answer, not ${mara}`);
    if (method !== "" && !Object.hasOwn(Methods.TABLE, method))
      throw new Error(`method: ${method} is not on this page`);
  }

  /** The part of the address after #, which reproduces the state exactly. */
  function toHash(state) {
    const words = state.figure
      ? [`problem=${state.figure}`]
      : [`reward=${state.reward.join(",")}`, `ref=${state.ref.join(",")}`];
    const usual = complete(
      state.figure ? Presets.LIST[state.figure].problem() : { reward: state.reward, ref: state.ref },
    );
    if (state.answers.join("\n") !== usual.answers.join("\n")) {
      words.push(`answers=${state.answers.map(encodeURIComponent).join(",")}`);
    }
    words.push(`beta=${state.beta}`);
    for (const name of ["entropy", "threshold", "direction", "mara", "method", "log"]) {
      if (state[name] !== usual[name]) words.push(`${name}=${state[name]}`);
    }
    return `#${words.join("&")}`;
  }

  /** The state of an address; null without one. Throws an Error with one line. */
  function fromHash(hash) {
    if (hash.length < 2) return null;
    const given = {};
    for (const word of hash.slice(1).split("&")) {
      const at = word.indexOf("=");
      given[word.slice(0, at)] = word.slice(at + 1);
    }
    const number = (text) => (text.trim() === "" ? NaN : Number(text));
    const numbers = (text) => text.split(",").map(number);
    let state = {};
    if (given.problem !== undefined) {
      if (!Object.hasOwn(Presets.LIST, given.problem))
        throw new Error(`problem: ${given.problem} is not on this page`);
      state = { ...Presets.LIST[given.problem].problem(), figure: given.problem };
    } else {
      if (given.reward === undefined || given.ref === undefined) throw new Error("reward= and ref= must be given");
      state = { reward: numbers(given.reward), ref: numbers(given.ref) };
    }
    if (given.answers !== undefined) state.answers = given.answers.split(",").map(decodeURIComponent);
    for (const name of ["beta", "entropy", "threshold"])
      if (given[name] !== undefined) state[name] = number(given[name]);
    for (const name of ["direction", "mara", "method"]) if (given[name] !== undefined) state[name] = given[name];
    if (given.log !== undefined) state.log = given.log === "true";
    state = complete(state);
    check(state);
    return state;
  }

  /** Give an outcome a reference probability; the others keep the ratios that they have in `values`. */
  function withReference(values, index, probability) {
    const p = Charts.clamp(probability, 0, 1);
    const rest = sum(values.filter((_, i) => i !== index));
    if (values.length === 1) return [1];
    return values.map((value, i) => {
      if (i === index) return p;
      return rest > 0 ? (value * (1 - p)) / rest : (1 - p) / (values.length - 1);
    });
  }

  /** The problem in the terms of `Targets`. */
  function problemOf(state) {
    const best = Math.max(...state.reward.filter((_, i) => state.ref[i] > 0));
    return {
      reward: state.reward,
      refLogp: state.ref.map(Math.log),
      answers: state.answers,
      beta: state.beta,
      entropy: state.entropy,
      threshold: state.threshold === null ? best : state.threshold,
    };
  }

  /** What each outcome is called: its answer, with a number where several outcomes have the same. */
  function names({ answers }) {
    const count = new Map();
    for (const answer of answers) count.set(answer, (count.get(answer) || 0) + 1);
    const seen = new Map();
    return answers.map((answer) => {
      if (count.get(answer) === 1) return answer;
      seen.set(answer, (seen.get(answer) || 0) + 1);
      return `${answer} ${seen.get(answer)}`;
    });
  }

  return {
    BETA,
    MOST_ADDED,
    check,
    complete,
    fromHash,
    fromPreset,
    letters,
    names,
    problemOf,
    toHash,
    withReference,
  };
})();
