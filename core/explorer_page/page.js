// The page: controls that change the state, and what is drawn and said about it.
"use strict";
const Page = (() => {
  const { element, short } = Charts;
  const at = (id) => document.getElementById(id);
  const BETAS = Array.from({ length: 101 }, (_, i) => State.BETA[0] * (State.BETA[1] / State.BETA[0]) ** (i / 100));
  let state = null;
  let running = null; // timer of a method's computation
  let reached = null; // {logp, settled} or {reason} of the chosen method
  let written = ""; // the hash that this page wrote last
  let writing = null; // timer of writing it

  const sliders = {
    reward: new Charts.BarSliders(at("rewards"), {
      read: readRewards,
      write: (i, value) => change({ reward: replaced(state.reward, i, value) }),
      step: 0.01,
    }),
    ref: new Charts.BarSliders(at("references"), {
      read: readReferences,
      write: (i, value, values) => change({ ref: State.withReference(values, i, value) }),
      step: 0.01,
    }),
  };

  const replaced = (values, index, value) => values.map((old, i) => (i === index ? value : old));
  const rounded = (value) => Number(value.toFixed(3));
  const other = (direction) => (direction === "reverse" ? "forward" : "reverse");

  function readRewards() {
    const problem = State.problemOf(state);
    const good = Targets.goodOutcomes(problem.refLogp, problem.reward, problem.threshold);
    const anchor = Targets.anchorOf(problem.reward, massOf(problem, good), good);
    const names = State.names(state);
    return {
      names,
      values: state.reward,
      low: Math.min(0, Math.floor(Math.min(...state.reward))),
      high: Math.max(1, Math.ceil(Math.max(...state.reward))),
      colour: "var(--reward)",
      line: problem.threshold,
      marks: good.map((value, i) =>
        i === anchor ? "★ anchor" : value ? "good" : problem.refLogp[i] === -Infinity ? "never" : "",
      ),
      describe: (i) => `reward of ${names[i]}`,
    };
  }

  function readReferences() {
    const names = State.names(state);
    return {
      names,
      values: state.ref,
      low: 0,
      high: referenceTop(),
      log: state.log,
      colour: "var(--reference)",
      describe: (i) => `reference probability of ${names[i]}`,
    };
  }

  /** The top of the axis of the reference: 1, or less where many outcomes share it; it stays while a bar is dragged. */
  function referenceTop() {
    const { ref } = sliders;
    if (state.log || state.ref.length <= State.MOST_ADDED) return 1;
    if (!ref.drag) ref.top = Charts.niceTop(Math.max(...state.ref));
    return ref.top;
  }

  /** The masses that MARA compares: those of answers, or of the sequences themselves. */
  function massOf(problem, good) {
    return state.mara === "answer" ? Targets.answerMass(problem.refLogp, good, problem.answers) : problem.refLogp;
  }

  /** Change the state, draw it, and write the address. */
  function change(changes, keep = {}) {
    const next = { ...state, ...changes };
    if (changes.reward && !keep.exact) next.reward = changes.reward.map(rounded);
    if (changes.reward || changes.ref) next.figure = null;
    state = next;
    draw();
    scheduleWriting();
  }

  function scheduleWriting() {
    clearTimeout(writing);
    writing = setTimeout(writeAddress, 300);
  }

  function writeAddress() {
    clearTimeout(writing);
    written = State.toHash(state);
    history.replaceState(null, "", written);
    at("link").href = written;
  }

  // --- drawing ---------------------------------------------------------------------------------------------------

  function draw() {
    drawControls();
    startMethod(State.problemOf(state));
    redraw();
  }

  /** Draw the charts anew, for instance at another width. */
  function redraw() {
    sliders.reward.draw();
    sliders.ref.draw();
    drawResults();
  }

  function drawResults() {
    const problem = State.problemOf(state);
    const good = Targets.goodOutcomes(problem.refLogp, problem.reward, problem.threshold);
    const names = State.names(state);
    const context = { state, problem, good, names, reached };
    const shown = seriesOf(problem, state.direction);
    const title = (direction) => `The optimum under ${direction} KL`;
    at("main-title").textContent = shown ? title(state.direction) : "";
    at("legend").replaceChildren(
      ...(shown || []).map(({ name, colour }) =>
        element("span", {}, [element("i", { style: `background: ${colour}` }), name]),
      ),
    );
    drawChart("main", shown, names, true);
    const second = seriesOf(problem, other(state.direction));
    at("other-title").replaceChildren(
      title(other(state.direction)),
      element("span", { class: "soft" }, [second ? "the same problem" : "has no closed form with an entropy bonus"]),
    );
    drawChart("other", second, names, false);
    at("verdict").textContent = Report.verdict(context);
    drawSweeps(context);
    at("numbers").replaceChildren(...Report.numbers(context));
    at("probabilities").replaceChildren(...Report.table(context));
  }

  function drawChart(id, series, names, labelled) {
    at(id).style.display = series ? "" : "none";
    if (series) Charts.drawSeries(at(id), { names, series, log: state.log, labelled });
  }

  const shades = (name) => `var(--${name.replaceAll("_", "-")})`;

  /** What a chart shows: reference, optimum without MARA, with it, and the other method; null without a closed form. */
  function seriesOf(problem, direction) {
    const without = Targets.optimum(problem, direction, "off");
    if (!without) return null;
    const series = [
      { name: "reference", colour: "var(--reference)", values: state.ref },
      { name: "without MARA", colour: shades(`vanilla_${direction}`), values: without.map(Math.exp) },
    ];
    if (state.mara !== "off") {
      const name = { sequence: "mara", answer: "mara_answers" }[state.mara];
      const values = Targets.optimum(problem, direction, state.mara).map(Math.exp);
      series.push({ name: `MARA ${Report.LEVEL_WORDS[state.mara]}`, colour: shades(`${name}_${direction}`), values });
    }
    if (state.method && reached && reached.logp && direction === state.direction) {
      series.push({ name: state.method, colour: Methods.COLOURS[state.method], values: reached.logp.map(Math.exp) });
    }
    return series;
  }

  /** Curves over beta: of each outcome, or where there are many, of each run of good outcomes and of the others. */
  function drawSweeps(context) {
    const { problem, names } = context;
    const closed = !(state.direction === "forward" && state.entropy > 0);
    const levels = state.mara === "off" ? ["off"] : ["off", state.mara];
    at("sweep-title").textContent = closed ? `Every beta, under ${state.direction} KL` : "";
    const parts =
      names.length > State.MOST_ADDED ? runsOfGood(context) : names.map((name, i) => ({ name, members: [i] }));
    const colours = Charts.outcomeColours(parts.length);
    ["sweep", "sweep-mara"].forEach((id, n) => {
      const level = levels[n];
      at(id).style.display = closed && level ? "" : "none";
      if (!closed || !level) return;
      const targets = BETAS.map((beta) =>
        Targets.optimum({ ...problem, beta }, state.direction, level).map(Math.exp),
      );
      const share = (values, members) => members.reduce((total, i) => total + values[i], 0);
      const lines = parts.map(({ name, members }, k) => ({
        name,
        colour: colours[k],
        values: targets.map((values) => share(values, members)),
      }));
      const ties = level === "off" ? Report.crossovers(context).listed.map((pair) => pair[state.direction]) : [];
      const title = level === "off" ? "without MARA" : `with MARA ${Report.LEVEL_WORDS[level]}`;
      at(id).setAttribute("aria-label", `probability of each outcome over beta, ${title}`);
      at(id).betaAt = Charts.drawSweep(at(id), { betas: BETAS, lines, beta: state.beta, crossovers: ties, title });
    });
  }

  /** Neighbouring good outcomes together, and all others: [{name, members}]. */
  function runsOfGood({ good, names }) {
    const runs = [];
    const rest = { name: "others", members: [] };
    good.forEach((value, i) => {
      if (!value) rest.members.push(i);
      else if (i && good[i - 1]) runs[runs.length - 1].members.push(i);
      else runs.push({ members: [i] });
    });
    for (const run of runs) {
      const [first, last] = [run.members[0], run.members[run.members.length - 1]];
      run.name = first === last ? names[first] : `${names[first]}–${names[last]}`;
    }
    return runs.length > 6
      ? [{ name: "good", members: runs.flatMap(({ members }) => members) }, rest]
      : [...runs, rest];
  }

  // --- another method ---------------------------------------------------------------------------------------------

  /** Compute where the chosen method leads, a few milliseconds at a time so that the page can be used meanwhile. */
  function startMethod(problem) {
    clearTimeout(running);
    reached = null;
    at("method-note").textContent = "";
    if (!state.method) return;
    const steps = Methods.steps(state.method, problem);
    const some = () => {
      const end = performance.now() + 25;
      while (performance.now() < end) {
        const { done, value } = steps.next();
        if (done) return finishMethod(value);
      }
      at("method-note").textContent = `Following the expected gradient of ${state.method} …`;
      running = setTimeout(some);
      return undefined;
    };
    if (Methods.TABLE[state.method].closed) some();
    else running = setTimeout(some, 120);
  }

  function finishMethod(value) {
    reached = value;
    at("method-note").textContent = Report.methodText({ state, reached, names: State.names(state) });
    if (!Methods.TABLE[state.method].closed) drawResults(); // a closed form is there before the rest is drawn
  }

  // --- controls -----------------------------------------------------------------------------------------------------

  function drawControls() {
    setValue("beta", Math.log10(state.beta));
    at("beta").setAttribute("aria-valuetext", short(state.beta));
    setValue("beta-exact", state.beta);
    setValue("entropy", state.entropy);
    setValue("entropy-exact", state.entropy);
    setValue("threshold", state.threshold === null ? "" : state.threshold);
    at("method").value = state.method;
    for (const name of ["direction", "mara"])
      document.querySelector(`input[name=${name}][value=${state[name]}]`).checked = true;
    at("log").setAttribute("aria-pressed", state.log);
    const count = state.reward.length;
    at("add").disabled = count >= State.MOST_ADDED;
    at("remove").disabled = count <= 2 || count > State.MOST_ADDED;
    for (const button of at("presets").children)
      button.setAttribute("aria-pressed", button.dataset.name === state.figure);
    say(state.figure ? Presets.LIST[state.figure].note : "");
    drawEditor();
  }

  /** Say something about the problem. Without a text the old one keeps its place, so that a bar that is dragged stays there. */
  function say(text) {
    if (text) at("note").textContent = text;
    at("note").style.visibility = text ? "visible" : "hidden";
  }

  /** Write a value into a field that is not being typed in. */
  function setValue(id, value) {
    const field = at(id);
    if (field !== document.activeElement || field.type === "range") field.value = value;
    if (field !== document.activeElement) field.classList.remove("wrong");
  }

  function drawEditor() {
    const body = at("editor");
    const count = state.reward.length;
    if (body.children.length !== count) body.replaceChildren(...state.reward.map((_, i) => editorRow(i)));
    const names = State.names(state);
    state.reward.forEach((_, i) => {
      body.children[i].firstChild.textContent = names[i];
      setValue(`reward-${i}`, state.reward[i]);
      setValue(`ref-${i}`, Number(state.ref[i].toPrecision(6)));
      setValue(`answer-${i}`, state.answers[i]);
    });
  }

  function editorRow(i) {
    const cell = (kind, label, apply) => {
      const field = element("input", {
        id: `${kind}-${i}`,
        "aria-label": `${label} of outcome ${i + 1}`,
        autocomplete: "off",
        spellcheck: "false",
      });
      if (kind !== "answer") field.setAttribute("inputmode", "decimal");
      onText(field, apply);
      return element("td", {}, [field]);
    };
    const finite = (text) => (text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : null);
    return element("tr", {}, [
      element("th", { scope: "row" }),
      cell(
        "reward",
        "reward",
        (text) => finite(text) !== null && { reward: replaced(state.reward, i, finite(text)) },
      ),
      cell(
        "ref",
        "reference",
        (text) =>
          finite(text) >= 0 &&
          finite(text) <= 1 &&
          finite(text) !== null && { ref: State.withReference(state.ref, i, finite(text)) },
      ),
      cell("answer", "answer", (text) => text.trim() !== "" && { answers: replaced(state.answers, i, text.trim()) }),
    ]);
  }

  /** Apply what is typed into a field: `apply` returns changes of the state, or false for what is no value. */
  function onText(field, apply) {
    const input = () => {
      const changes = apply(field.value);
      field.classList.toggle("wrong", !changes);
      if (changes) change(changes, { exact: true });
    };
    field.addEventListener("change", input);
  }

  function addOutcome() {
    const count = state.reward.length;
    const share = 1 / (count + 1);
    const name = State.letters(count + 1).find((letter) => !state.answers.includes(letter));
    change(
      {
        reward: [...state.reward, 0],
        ref: [...state.ref.map((value) => value * (1 - share)), share],
        answers: [...state.answers, name],
      },
      { exact: true },
    );
  }

  function removeOutcome() {
    const ref = state.ref.slice(0, -1);
    const total = ref.reduce((a, b) => a + b, 0);
    const scaled = ref.map((value) => (total > 0 ? value / total : 1 / ref.length));
    change({ reward: state.reward.slice(0, -1), ref: scaled, answers: state.answers.slice(0, -1) }, { exact: true });
  }

  function connect() {
    for (const [name, preset] of Object.entries(Presets.LIST)) {
      const button = element("button", { type: "button", "data-name": name }, [preset.name]);
      button.addEventListener("click", () => show(State.fromPreset(name)));
      at("presets").append(button);
    }
    at("method").append(
      element("option", { value: "" }, ["none"]),
      ...Object.keys(Methods.TABLE).map((name) => element("option", { value: name }, [name])),
    );
    at("method").addEventListener("change", () => change({ method: at("method").value }));
    at("beta").addEventListener("input", () =>
      change({ beta: Number((10 ** Number(at("beta").value)).toPrecision(3)) }),
    );
    at("entropy").addEventListener("input", () => change({ entropy: Number(at("entropy").value) }));
    const positive = (text) => Number(text) > 0 && Number(text) < Infinity;
    onText(at("beta-exact"), (text) => positive(text) && { beta: Number(text) });
    onText(at("entropy-exact"), (text) => (positive(text) || Number(text) === 0) && { entropy: Number(text) });
    onText(at("threshold"), (text) =>
      text.trim() === "" ? { threshold: null } : Number.isFinite(Number(text)) && { threshold: Number(text) },
    );
    for (const name of ["direction", "mara"]) {
      at(name).addEventListener("change", (event) => {
        change({ [name]: event.target.value });
        if (event.target.value === "answer") at("exact").open = state.reward.length <= State.MOST_ADDED;
      });
    }
    at("add").addEventListener("click", addOutcome);
    at("remove").addEventListener("click", removeOutcome);
    at("log").addEventListener("click", () => change({ log: !state.log }));
    for (const id of ["sweep", "sweep-mara"]) {
      at(id).addEventListener("click", (event) =>
        change({ beta: Number(at(id).betaAt(event.clientX).toPrecision(3)) }),
      );
    }
    addEventListener("hashchange", () => location.hash !== written && start());
    addEventListener("resize", redraw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  }

  /** Show a whole state. */
  function show(next) {
    state = next;
    draw();
    writeAddress();
  }

  /** Begin with the state of the address, else with the problem that the page was written for, else with the first one. */
  function start() {
    try {
      const given = JSON.parse(at("problem").textContent);
      const next = State.fromHash(location.hash) || (given ? State.complete(given) : State.fromPreset("start"));
      State.check(next);
      show(next);
    } catch (error) {
      show(State.fromPreset("start"));
      say(`This link does not describe a problem (${error.message}). Here is another one.`);
    }
  }

  return { connect, start, state: () => state };
})();
Page.connect();
Page.start();
