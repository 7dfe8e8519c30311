// Bars that are sliders, bars that are results, and curves over beta, as SVG. Texts are set as text, never as markup.
"use strict";
const Charts = (() => {
  const LEFT = 40; // pixels for the numbers of the axis
  const LOWEST = 1e-6; // bottom of a logarithmic axis

  function element(name, attributes = {}, children = []) {
    const svg = ["svg", "g", "rect", "line", "text", "path", "circle", "title"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  /** A number in few characters: three digits, or a power of ten. */
  function short(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e-3 && size < 1e4) return String(Number(value.toPrecision(3)));
    return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
  }

  /** The height of a value on an axis from low (bottom) to high (top). */
  function axis({ low, high, top, bottom, log }) {
    const share = log
      ? (value) => (Math.log(clamp(value, LOWEST, high)) - Math.log(LOWEST)) / (Math.log(high) - Math.log(LOWEST))
      : (value) => (value - low) / (high - low);
    const ticks = log ? [1, 1e-2, 1e-4, 1e-6].filter((tick) => tick <= high) : [low, (low + high) / 2, high];
    return {
      y: (value) => bottom - clamp(share(value), 0, 1) * (bottom - top),
      value(y) {
        const part = clamp((bottom - y) / (bottom - top), 0, 1);
        if (!log) return low + part * (high - low);
        return part === 0 ? 0 : Math.exp(Math.log(LOWEST) + part * (Math.log(high) - Math.log(LOWEST)));
      },
      ticks,
    };
  }

  function drawAxis(scale, width) {
    return scale.ticks.flatMap((tick) => [
      element("line", { class: "axis", x1: LEFT, x2: width, y1: scale.y(tick), y2: scale.y(tick) }),
      element("text", { x: LEFT - 5, y: scale.y(tick) + 4, "text-anchor": "end" }, [short(tick)]),
    ]);
  }

  /** Names below the bars: all of a few, each tenth of many. */
  function drawNames(names, x, step, y) {
    const every = Math.ceil(names.length / Math.max(1, Math.floor((step * names.length) / 26)));
    const most = Math.max(2, Math.floor((step * every) / 7.2));
    return names.flatMap((name, i) => {
      if (i % every) return [];
      const text = name.length > most ? `${name.slice(0, most - 1)}…` : name;
      return [element("text", { class: "name", x: x(i) + step / 2, y, "text-anchor": "middle" }, [text])];
    });
  }

  /**
   * One slider for each outcome.
   * read: () -> {names, values, low, high, log, colour, describe(i), line, marks}
   * write: (outcome, value, values when the drag began) -> nothing
   */
  class BarSliders {
    constructor(svg, { read, write, step }) {
      Object.assign(this, { svg, read, write, step, current: 0, drag: null });
      svg.addEventListener("pointerdown", (event) => this.begin(event));
      svg.addEventListener("pointermove", (event) => this.move(event));
      const hold = (event) => event.target.classList.contains("grip") && event.preventDefault(); // the page must not scroll
      svg.addEventListener("touchstart", hold, { passive: false });
      for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, () => (this.drag = null));
      svg.addEventListener("keydown", (event) => this.key(event));
    }

    draw() {
      const { svg } = this;
      const state = this.read();
      const [width, height] = [svg.clientWidth || 300, svg.clientHeight || 150];
      const count = state.values.length;
      this.current = Math.min(this.current, count - 1);
      this.scale = axis({ ...state, top: 20, bottom: height - (state.marks ? 36 : 21) });
      this.pitch = (width - LEFT) / count;
      const x = (i) => LEFT + i * this.pitch;
      const wide = this.pitch > 24;
      if (!this.groups || this.groups.length !== count) {
        this.groups = state.values.map((_, i) => this.makeGroup(i));
        this.back = element("g");
        this.front = element("g", { "aria-hidden": "true", "pointer-events": "none" });
        svg.replaceChildren(this.back, ...this.groups.map(({ group }) => group), this.front);
      }
      const zero = this.scale.y(state.log ? LOWEST : Math.max(state.low, 0));
      const bar = Math.max(1, Math.min(this.pitch * 0.62, 54));
      this.groups.forEach((parts, i) => {
        const y = this.scale.y(state.values[i]);
        const left = x(i) + (this.pitch - bar) / 2;
        set(parts.column, { x: x(i), y: 4, width: this.pitch, height: height - 6, rx: 6 });
        set(parts.bar, { x: left, y: Math.min(y, zero), width: bar, height: Math.abs(zero - y), fill: state.colour });
        set(parts.handle, {
          x: left - 2,
          y: y - 2.5,
          width: bar + 4,
          height: 5,
          rx: 2.5,
          visibility: wide ? "visible" : "hidden",
        });
        set(parts.grip, { x: x(i), y: y - 24, width: this.pitch, height: 48 });
        set(parts.group, {
          tabindex: i === this.current ? 0 : -1,
          "aria-label": state.describe(i),
          "aria-valuemin": state.low,
          "aria-valuemax": state.high,
          "aria-valuenow": state.values[i],
          "aria-valuetext": short(state.values[i]),
        });
      });
      this.back.replaceChildren(...drawAxis(this.scale, width));
      const texts = drawNames(state.names, x, this.pitch, height - (state.marks ? 20 : 5));
      if (wide) {
        state.values.forEach((value, i) => {
          const y = Math.min(this.scale.y(value), zero) - 7;
          texts.push(
            element("text", { class: "value", x: x(i) + this.pitch / 2, y, "text-anchor": "middle" }, [short(value)]),
          );
          const mark = state.marks && state.marks[i];
          if (mark)
            texts.push(element("text", { x: x(i) + this.pitch / 2, y: height - 5, "text-anchor": "middle" }, [mark]));
        });
      }
      if (state.line !== undefined && state.line >= state.low && state.line <= state.high) {
        const y = this.scale.y(state.line);
        texts.push(element("line", { class: "threshold", x1: LEFT, x2: width, y1: y, y2: y }));
      }
      this.front.replaceChildren(...texts);
    }

    makeGroup(index) {
      const parts = {
        column: element("rect", { class: "column" }),
        bar: element("rect"),
        handle: element("rect", { class: "handle" }),
      };
      parts.grip = element("rect", { class: "grip" });
      parts.group = element(
        "g",
        { role: "slider", "aria-orientation": "vertical", "data-index": index },
        Object.values(parts),
      );
      parts.group.addEventListener("focus", () => this.choose(index));
      return parts;
    }

    choose(index) {
      this.groups[this.current].group.setAttribute("tabindex", -1);
      this.current = index;
      this.groups[index].group.setAttribute("tabindex", 0);
    }

    begin(event) {
      const group = event.target.closest("[role=slider]");
      if (!group || (event.pointerType === "touch" && !event.target.classList.contains("grip"))) return;
      event.preventDefault();
      const index = Number(group.dataset.index);
      group.focus({ preventScroll: true });
      this.svg.setPointerCapture(event.pointerId);
      this.drag = { index, values: this.read().values.slice() };
      this.move(event);
    }

    move(event) {
      if (!this.drag) return;
      const y = event.clientY - this.svg.getBoundingClientRect().top;
      this.write(this.drag.index, this.scale.value(y), this.drag.values);
    }

    key(event) {
      const { values, low, high, log } = this.read();
      const index = this.current;
      const neighbour = { ArrowLeft: index - 1, ArrowRight: index + 1 }[event.key];
      if (neighbour !== undefined) {
        event.preventDefault();
        this.groups[clamp(neighbour, 0, values.length - 1)].group.focus();
        return;
      }
      const steps = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
      let value = { Home: low, End: high }[event.key];
      if (steps !== undefined) {
        value = log
          ? Math.max(values[index], LOWEST) * 10 ** (steps / 20)
          : values[index] + steps * this.step * (high - low);
      }
      if (value === undefined) return;
      event.preventDefault();
      this.write(index, log && value < LOWEST ? 0 : clamp(value, low, high), values);
    }
  }

  function set(target, attributes) {
    for (const [key, value] of Object.entries(attributes)) target.setAttribute(key, value);
  }

  /** The top of an axis that shows the value: 1, or a round number below. */
  function niceTop(value) {
    if (value > 0.5) return 1;
    const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-12)));
    return [1, 1.5, 2, 3, 5, 7, 10]
      .map((factor) => Number((factor * power).toPrecision(2)))
      .find((top) => top >= value);
  }

  /** Series of probabilities, as bars beside each other, or as lines where there are many. series: [{colour, values}]. */
  function drawSeries(svg, { names, series, log, labelled }) {
    const [width, height] = [svg.clientWidth || 300, svg.clientHeight || 150];
    const top = log ? 1 : niceTop(Math.max(...series.flatMap(({ values }) => values)));
    const scale = axis({ low: 0, high: top, top: 16, bottom: height - 20, log });
    const pitch = (width - LEFT) / names.length;
    const x = (i) => LEFT + i * pitch;
    const parts = drawAxis(scale, width);
    if (pitch < 14) parts.push(...series.map((one, n) => drawSteps(one, n, x, pitch, scale)));
    else parts.push(...drawBars(series, x, pitch, scale, labelled));
    parts.push(...drawNames(names, x, pitch, height - 4));
    svg.replaceChildren(...parts);
  }

  function drawBars(series, x, pitch, scale, labelled) {
    const bar = Math.min((pitch * 0.8) / series.length, 40);
    return series.flatMap(({ colour, values }, n) =>
      values.flatMap((value, i) => {
        const left = x(i) + (pitch - bar * series.length) / 2 + n * bar;
        const [y, zero] = [scale.y(value), scale.y(0)];
        const made = [
          element("rect", {
            x: left + 0.5,
            y,
            width: Math.max(bar - 1, 1),
            height: Math.max(zero - y, 0),
            fill: colour,
          }),
        ];
        const text = `${percent(value)}%`;
        if (labelled && text.length * 6.8 < bar) {
          made.push(
            element("text", { class: "value", x: left + bar / 2, y: y - 4, "text-anchor": "middle" }, [text]),
          );
        }
        return made;
      }),
    );
  }

  function drawSteps({ colour, values }, number, x, pitch, scale) {
    const points = values.flatMap((value, i) => [`${x(i)} ${scale.y(value)}`, `${x(i) + pitch} ${scale.y(value)}`]);
    const area = number === 0;
    const path = area
      ? `M${x(0)} ${scale.y(0)}L${points.join("L")}L${x(values.length)} ${scale.y(0)}Z`
      : `M${points.join("L")}`;
    return element("path", {
      d: path,
      fill: area ? colour : "none",
      "fill-opacity": 0.45,
      stroke: area ? "none" : colour,
      "stroke-width": 2.2,
    });
  }

  function percent(value) {
    if (value > 0 && value < 5e-4) return "<0.1";
    return (100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0);
  }

  const VIRIDIS = ["#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30"];

  /** Colours of the outcomes, none of which is that of a method; lighter ones where the page is dark. */
  function outcomeColours(count) {
    const usable = matchMedia("(prefers-color-scheme: dark)").matches ? VIRIDIS.slice(2) : VIRIDIS.slice(0, 6);
    return Array.from(
      { length: count },
      (_, i) => usable[Math.round((i * (usable.length - 1)) / Math.max(count - 1, 1))],
    );
  }

  /** Probabilities over beta on a logarithmic axis. lines: [{name, colour, values}], one value for each of `betas`. */
  function drawSweep(svg, { betas, lines, beta, crossovers, title }) {
    const [width, height] = [svg.clientWidth || 300, svg.clientHeight || 180];
    const scale = axis({ low: 0, high: 1, top: 22, bottom: height - 34 });
    const right = 58;
    const [first, last] = [Math.log(betas[0]), Math.log(betas[betas.length - 1])];
    const x = (value) => LEFT + ((Math.log(value) - first) / (last - first)) * (width - LEFT - right);
    const parts = drawAxis(scale, width - right);
    parts.push(element("text", { class: "name", x: LEFT, y: 11 }, [title]));
    for (let power = Math.ceil(first / Math.LN10 - 1e-9); power <= last / Math.LN10 + 1e-9; power++) {
      parts.push(
        element("text", { x: x(10 ** power), y: height - 19, "text-anchor": "middle" }, [short(10 ** power)]),
      );
    }
    parts.push(element("text", { x: (LEFT + width - right) / 2, y: height - 4, "text-anchor": "middle" }, ["beta"]));
    for (const tie of crossovers.filter((value) => value >= betas[0] && value <= betas[betas.length - 1])) {
      parts.push(
        element("line", { class: "threshold", x1: x(tie), x2: x(tie), y1: 20, y2: height - 34 }, [
          element("title", {}, [`tie at ${short(tie)}`]),
        ]),
      );
    }
    for (const { colour, values } of lines) {
      const points = values.map((value, i) => `${x(betas[i]).toFixed(1)} ${scale.y(value).toFixed(1)}`);
      parts.push(element("path", { d: `M${points.join("L")}`, fill: "none", stroke: colour, "stroke-width": 2.2 }));
    }
    parts.push(...endLabels(lines, scale, width - right + 6));
    const now = x(clamp(beta, betas[0], betas[betas.length - 1]));
    parts.push(
      element("line", { x1: now, x2: now, y1: 18, y2: height - 34, stroke: "var(--link)", "stroke-width": 2 }),
    );
    svg.replaceChildren(...parts);
    return (clientX) => {
      const part = (clientX - svg.getBoundingClientRect().left - LEFT) / (width - LEFT - right);
      return Math.exp(first + clamp(part, 0, 1) * (last - first));
    };
  }

  /** Names at the ends of the lines, moved apart where they would overlap. */
  function endLabels(lines, scale, x) {
    const ends = lines.map(({ name, colour, values }) => ({
      name,
      colour,
      y: scale.y(values[values.length - 1]) + 4,
    }));
    ends.sort((a, b) => b.y - a.y);
    ends.forEach((end, i) => {
      if (i) end.y = Math.min(end.y, ends[i - 1].y - 13);
    });
    return ends.map(({ name, colour, y }) =>
      element("text", { x, y, style: `fill: ${colour}; font-weight: 600` }, [
        name.length > 8 ? `${name.slice(0, 7)}…` : name,
      ]),
    );
  }

  return { BarSliders, clamp, drawSeries, drawSweep, element, niceTop, outcomeColours, percent, short };
})();
