// Profiles as lines with bands, matrices as heat maps, by Observable Plot.
"use strict";
const Charts = (() => {
  // Okabe & Ito 2008, as the print figures; black follows the page's ink.
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "currentColor"];
  const ON_STEPS = new Set(["step", "depth"]);

  const digits = (v) => (v === null || v === undefined ? "undefined" : String(Number(v.toPrecision(4))));
  const withUnit = (m) => (m.unit ? `${m.label} [${m.unit}]` : m.label);
  const named = (s) => [s.part, s.scope, s.agg].filter((w) => w !== "-" && w !== "mean").join(", ") || "mean";

  // Steps of one block stand together: [first, last + 1, number of the block].
  function blocks(plan) {
    const found = [];
    for (const step of plan) {
      const last = found[found.length - 1];
      if (last && last.block === step.block && last.iteration === step.iteration && last.end === step.step) last.end += 1;
      else found.push({ start: step.step, end: step.step + 1, block: step.block, iteration: step.iteration });
    }
    return found.filter((b) => b.block !== null && b.block !== undefined);
  }

  const norm = (scale) => ({
    type: scale.norm === "symlog" ? "symlog" : scale.norm, domain: [scale.low, scale.high], clamp: true,
    ...(scale.norm === "symlog" ? { constant: 0.01 } : {}),
  });

  const whole = (low, high) => {
    const every = Math.max(1, Math.ceil((high - low) / 12));
    return Array.from({ length: Math.floor((high - low) / every) + 1 }, (_, i) => low + i * every);
  };

  function profile(metric, series, plan, step, width) {
    const points = series.flatMap((s) => s.x.map((x, i) => ({ x, y: s.y[i], low: s.low[i], high: s.high[i], of: named(s) })));
    const there = points.filter((p) => p.y !== null);
    const scale = series[0].scale;
    const beyond = there.filter((p) => p.y < scale.low || p.y > scale.high);
    const within = (v) => Math.min(scale.high, Math.max(scale.low, v));
    const names = [...new Set(points.map((p) => p.of))];
    const xs = points.map((p) => p.x);
    const shift = metric.axis === "depth" ? 0 : -0.5;
    const said = (p) => `${metric.axis === "depth" ? "depth" : "step"} ${p.x}${names.length > 1 ? `, ${p.of}` : ""}\n${digits(p.y)}` +
      (p.low === null ? "" : ` [${digits(p.low)}, ${digits(p.high)}]`) + (metric.unit ? ` ${metric.unit}` : "");
    const svg = Plot.plot({
      width, height: Math.min(330, Math.max(230, width * 0.45)), marginLeft: 58, marginBottom: 38, style: { fontSize: "12px", background: "transparent" },
      x: { label: metric.axis === "depth" ? "depth d (state entering step d)" : "step", domain: [Math.min(...xs, 0) - 0.5, Math.max(...xs) + 0.5], ticks: whole(0, Math.max(...xs)), tickFormat: "d" },
      y: { ...norm(scale), label: withUnit(metric), grid: true, nice: false, ticks: 5 },
      color: { domain: names, range: names.map((_, i) => COLOURS[i % COLOURS.length]), legend: false },
      marks: [
        ...[0, 1].map((odd) => Plot.rect(blocks(plan).filter((b, i) => i % 2 === odd), { x1: (b) => b.start + shift, x2: (b) => b.end + shift, fill: odd ? "var(--tint-b)" : "var(--tint-a)", fillOpacity: 0.55 })),
        metric.centre === null ? null : Plot.ruleY([metric.centre], { stroke: "var(--soft)", strokeWidth: 1.2 }),
        Plot.areaY(there.filter((p) => p.low !== null && p.high !== null), { x: "x", y1: (p) => within(p.low), y2: (p) => within(p.high), z: "of", fill: "of", fillOpacity: 0.22 }),
        Plot.line(points, { x: "x", y: (p) => (p.y === null ? NaN : within(p.y)), stroke: "of", strokeWidth: 2 }),
        Plot.dot(there, { x: "x", y: (p) => within(p.y), fill: "of", r: 2.5 }),
        Plot.dot(beyond, { x: "x", y: (p) => within(p.y), symbol: "triangle", stroke: "of", fill: "var(--paper)", r: 5 }),
        step === null ? null : Plot.ruleX([step], { stroke: "var(--mark)", strokeWidth: 2, strokeDasharray: "5 3", className: "step-rule" }),
        Plot.tip(there, Plot.pointer({ x: "x", y: (p) => within(p.y), title: said, fill: "var(--panel)" })),
      ],
    });
    const legend = names.length > 1 ? Plot.legend({ color: { domain: names, range: names.map((_, i) => COLOURS[i % COLOURS.length]) } }) : null;
    return { svg, legend, at: (p) => p.x };
  }

  function heatmap(metric, cells, plan, step, width) {
    const flat = cells.rows.flatMap((r, i) => cells.cols.map((c, j) => ({ r, c, v: cells.values[i][j] })));
    const there = flat.filter((p) => p.v !== null);
    const colour = { ...norm(cells.scale), scheme: metric.centre === null ? "viridis" : "rdbu", reverse: metric.centre !== null };
    const [r0, r1, c0, c1] = [cells.rows[0] - 0.5, cells.rows.at(-1) + 0.5, cells.cols[0] - 0.5, cells.cols.at(-1) + 0.5];
    const borders = blocks(plan).flatMap((b) => [b.start - 0.5, b.end - 0.5]);
    const inside = (low, high) => [...new Set(borders)].filter((b) => b > low && b < high);
    const side = Math.min(width, 560);
    const edge = { stroke: "var(--mark)", strokeOpacity: 0.75, strokeWidth: 0.8 };
    const mark = { fill: "none", stroke: "var(--mark)", strokeWidth: 2.5 };
    const rowMarked = step !== null && ON_STEPS.has(metric.rows) && cells.rows.includes(step);
    const colMarked = step !== null && ON_STEPS.has(metric.cols) && cells.cols.includes(step);
    const svg = Plot.plot({
      width: side, height: Math.max(220, side * 0.82), marginLeft: 52, marginBottom: 38, style: { fontSize: "12px", background: "transparent" },
      x: { label: metric.colLabel, domain: [c0, c1], ticks: whole(cells.cols[0], cells.cols.at(-1)), tickFormat: "d" },
      y: { label: metric.rowLabel, domain: [r0, r1], ticks: whole(cells.rows[0], cells.rows.at(-1)), tickFormat: "d" },
      color: colour,
      marks: [
        Plot.frame({ fill: "var(--empty)", stroke: "none" }),
        Plot.rect(there, { x1: (p) => p.c - 0.5, x2: (p) => p.c + 0.5, y1: (p) => p.r - 0.5, y2: (p) => p.r + 0.5, fill: "v", inset: -0.2, shapeRendering: "crispEdges" }),
        ON_STEPS.has(metric.cols) ? Plot.ruleX(inside(c0, c1), edge) : null,
        ON_STEPS.has(metric.rows) ? Plot.ruleY(inside(r0, r1), edge) : null,
        rowMarked ? Plot.rect([step], { x1: c0, x2: c1, y1: step - 0.5, y2: step + 0.5, ...mark, className: "row-mark" }) : null,
        colMarked ? Plot.rect([step], { x1: step - 0.5, x2: step + 0.5, y1: r0, y2: r1, ...mark, className: "col-mark" }) : null,
        Plot.tip(there, Plot.pointer({ x: "c", y: "r", title: (p) => `${metric.rowLabel} ${p.r}\n${metric.colLabel} ${p.c}\n${digits(p.v)}${metric.unit ? ` ${metric.unit}` : ""}`, fill: "var(--panel)" })),
      ],
    });
    const legend = Plot.legend({ color: colour, label: withUnit(metric), width: Math.min(260, width), ticks: 4 });
    const at = (p) => (ON_STEPS.has(metric.rows) ? p.r : ON_STEPS.has(metric.cols) ? p.c : null);
    return { svg, legend, at };
  }

  // What a chart shows, in one sentence, for those who do not see it.
  function described(id, metric, chosen) {
    if (!metric.series) {
      const values = chosen.values.flat().filter((v) => v !== null);
      if (!values.length) return `${id}: no cell is defined`;
      return `${id}: ${chosen.rows.length} by ${chosen.cols.length} cells, ${digits(Math.min(...values))} to ${digits(Math.max(...values))}`;
    }
    return chosen.map((s) => {
      const known = s.x.map((x, i) => [x, s.y[i]]).filter(([, y]) => y !== null);
      if (!known.length) return `${id} is undefined`;
      const [[x0, y0], [x1, y1]] = [known[0], known.at(-1)];
      const verb = y1 > y0 ? "rises" : y1 < y0 ? "falls" : "stays";
      const of = named(s) === "mean" ? "" : ` of ${named(s)}`;
      return `${id}${of} ${verb} from ${digits(y0)} to ${digits(y1)} over ${metric.axis === "depth" ? "depths" : "steps"} ${x0}..${x1}`;
    }).join("; ");
  }

  // The marked step's values, as text.
  function readout(metric, chosen, step) {
    if (step === null) return "Choose a step: click, or use the arrow keys.";
    const where = `Step ${step}: `;
    if (metric.series) {
      return where + chosen.map((s) => {
        const i = s.x.indexOf(step);
        if (i < 0) return `${named(s)} has none`;
        const band = s.low[i] === null || s.low[i] === undefined ? "" : ` [${digits(s.low[i])}, ${digits(s.high[i])}]`;
        return `${chosen.length > 1 ? `${named(s)} ` : ""}${digits(s.y[i])}${band}`;
      }).join("; ");
    }
    const mean = (values) => {
      const there = values.filter((v) => v !== null);
      return there.length ? digits(there.reduce((a, b) => a + b, 0) / there.length) : "undefined";
    };
    const [i, j] = [chosen.rows.indexOf(step), chosen.cols.indexOf(step)];
    const said = [];
    if (ON_STEPS.has(metric.rows) && i >= 0) said.push(`row mean ${mean(chosen.values[i])}`);
    if (ON_STEPS.has(metric.cols) && j >= 0) said.push(`column mean ${mean(chosen.values.map((r) => r[j]))}`);
    return where + (said.join(", ") || "not on these axes");
  }

  return { profile, heatmap, described, readout, digits, blocks, named };
})();
