// Problems to begin with: those of the paper's figures 2 to 5, and two of our own.
"use strict";
const Presets = (() => {
  const range = (count) => Array.from({ length: count }, (_, i) => i);

  /** Figure 2: a bell-shaped reference, and two bumps of reward where log ref is -4.05 and -5.95. */
  function twoBumps() {
    const [a, refA, b, refB] = [25, -4.05, 75, -5.95];
    const position = range(100);
    const bell = (centre) => {
      const variance = ((b - centre) ** 2 - (a - centre) ** 2) / (2 * (refA - refB));
      return Targets.normalised(position.map((x) => -((x - centre) ** 2) / (2 * variance)));
    };
    let [low, high] = [a, (a + b) / 2 - 1]; // of the centre, by bisection
    const side = Math.sign(bell(low)[a] - refA);
    for (let i = 0; i < 80; i++) {
      const middle = (low + high) / 2;
      if (Math.sign(bell(middle)[a] - refA) === side) low = middle;
      else high = middle;
    }
    const bump = (x, mode, height) => height * Math.exp(-((x - mode) ** 2) / 32);
    return {
      ref: bell((low + high) / 2).map(Math.exp),
      reward: position.map((x) => Math.max(bump(x, a, 0.75), bump(x, b, 1))),
    };
  }

  /** Figure 5: a steeply falling reference, and reward 1 on two plateaus. */
  function plateaus() {
    const mass = range(100).map((i) => (1 - i / 100) ** 4);
    const total = mass.reduce((a, b) => a + b, 0);
    return {
      ref: mass.map((value) => value / total),
      reward: range(100).map((i) => (i < 25 || (i >= 50 && i < 75) ? 1 : 0)),
    };
  }

  // name: what the button says; note: what there is to see.
  const LIST = {
    start: {
      name: "Two good answers",
      note: "A and B are equally good, but the model says A fifteen times as often. RL keeps that ratio at every beta; MARA evens it out.",
      problem: () => ({ reward: [1, 1, 0], ref: [0.3, 0.02, 0.68] }),
      set: { beta: 0.01, mara: "sequence" },
    },
    figure2: {
      name: "Figure 2",
      note: "Two bumps of reward, .75 and 1; the better one is rare. Slide beta: at .132 the optimum jumps from one to the other.",
      problem: twoBumps,
      set: { beta: 0.15, threshold: 0.75, mara: "off" },
    },
    figure3: {
      name: "Figure 3",
      note: "Rewards of 0, .9 and 1, all equally likely. With a small beta, nearly as good is not good enough.",
      problem: () => ({ reward: [0, 0.9, 1], ref: [1 / 3, 1 / 3, 1 / 3] }),
      set: { beta: 0.001, threshold: 0.9, mara: "off" },
    },
    figure4: {
      name: "Figure 4",
      note: "B and C are equally good, and the reference's ratio of 15 to 1 stays at every beta, under either KL.",
      problem: () => ({ reward: [0, 1, 1], ref: [0.68, 0.3, 0.02] }),
      set: { beta: 0.01, threshold: 1, mara: "off" },
    },
    figure5: {
      name: "Figure 5",
      note: "100 outcomes, two equally good plateaus. RL keeps about 96 to 4 between them; MARA is flat over both.",
      problem: plateaus,
      set: { beta: 0.01, threshold: 1, mara: "sequence", log: true },
    },
    spellings: {
      name: "Three spellings",
      note: "Venus is spelt in three ways. MARA by sequence gives each spelling a share; MARA by answer gives each answer one.",
      problem: () => ({
        reward: [1, 1, 1, 1, 0],
        ref: [0.4, 0.1, 0.06, 0.04, 0.4],
        answers: ["Mars", "Venus", "Venus", "Venus", "Pluto"],
      }),
      set: { beta: 0.1, mara: "answer" },
    },
  };

  return { LIST };
})();
