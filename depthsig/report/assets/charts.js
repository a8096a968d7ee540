// Profiles as lines with bands, matrices as heat maps, by Observable Plot.
"use strict";
const Charts = (() => {
  // Okabe & Ito 2008, as the print figures; black follows the page's ink.
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "currentColor"];
  const ON_STEPS = new Set(["step", "depth"]);

  const digits = (v) => (v === null || v === undefined ? "undefined" : String(Number(v.toPrecision(4))));
  const withUnit = (m) => (m.unit ? `${m.label} [${m.unit}]` : m.label);
  const named = (s) => s.name ?? ([s.part, s.scope, s.agg].filter((w) => w !== "-" && w !== "mean").join(", ") || "mean");
  // Whether a mark on the plan (or on what a page marks instead) has a place on these axes.
  const onRows = (m) => m.marked ?? ON_STEPS.has(m.rows);
  const onCols = (m) => m.marked ?? ON_STEPS.has(m.cols);
  const where = (m) => m.xName ?? (m.axis === "depth" ? "depth" : "step");

  // Values have five digits here, ends of scales all of theirs: what is beyond by less is not.
  const above = (v, scale) => v > scale.high + 1e-4 * Math.abs(scale.high);
  const below = (v, scale) => v < scale.low - 1e-4 * Math.abs(scale.low);
  // How many values lie beyond a scale, at either end.
  const ends = (values, scale) => ({ above: values.filter((v) => above(v, scale)).length, below: values.filter((v) => below(v, scale)).length });
  const told = (count, up, down) => [count.above ? `${up}${count.above} above the scale` : "", count.below ? `${down}${count.below} below ${count.above ? "it" : "the scale"}` : ""].filter(Boolean).join(", ");

  // Names without the words that all of them begin or end with.
  function withoutShared(names) {
    const words = names.map((name) => name.match(/[^-_./ ]*[-_./ ]|[^-_./ ]+/g) ?? [name]);
    const least = Math.min(...words.map((all) => all.length)) - 1;
    const shared = (word, most) => {
      let count = 0;
      while (count < most && words.every((all) => word(all, count) === word(words[0], count))) count += 1;
      return count;
    };
    const head = shared((all, i) => all[i], least), tail = shared((all, i) => all[all.length - 1 - i], least - head);
    return words.map((all) => `${head ? "…" : ""}${all.slice(head, all.length - tail).join("")}${tail ? "…" : ""}`);
  }

  // Names of at most so many letters; different ones stay different: what all share goes first, then the middle.
  function shortened(names, most) {
    if (names.length < 2 || names.every((name) => name.length <= most)) return names.map((name) => cut(name, most, most / 2));
    const different = new Set(names).size;
    for (const list of [withoutShared(names), names]) {
      for (const head of [most / 2, 2, most - 3]) {
        const found = list.map((name) => cut(name, most, head));
        if (new Set(found).size === different) return found;
      }
    }
    return names.map((name, i) => cut(`${i + 1}: ${name}`, most, most / 2));
  }
  const cut = (name, most, head) => (name.length <= most ? name : `${name.slice(0, Math.floor(head))}…${name.slice(name.length - (most - 1 - Math.floor(head)))}`);

  // Whole names, for those who point at the short ones of an axis.
  function onHover(svg, axis, names) {
    svg.querySelectorAll(`[aria-label="${axis}-axis tick label"] text`).forEach((label, i) => {
      label.append(Object.assign(document.createElementNS("http://www.w3.org/2000/svg", "title"), { textContent: names[i] }));
    });
  }

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

  // Ticks of logarithmic scales, written out: powers of ten, and twos and fives where those are few.
  function powers(scale) {
    if (scale.norm === "symlog") {
      const most = Math.floor(Math.log10(Math.max(-scale.low, scale.high))), tens = [];
      for (let power = most; power > -2; power -= 2) tens.push(10 ** power, -(10 ** power));
      return { ticks: [0, ...tens].filter((v) => v >= scale.low && v <= scale.high), tickFormat: (v) => digits(v) };
    }
    if (scale.norm !== "log") return { ticks: 5 };
    const [low, high] = [scale.low, scale.high].map((v) => Math.floor(Math.log10(v)));
    const tens = Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
    const of = (factors) => tens.flatMap((t) => factors.map((f) => f * t)).filter((v) => v >= scale.low && v <= scale.high);
    const every = Math.max(1, Math.ceil(of([1]).length / 7));
    return { ticks: of([1]).length > 2 ? of([1]).filter((_, i) => i % every === 0) : of([1, 2, 5]), tickFormat: (v) => digits(v) };
  }

  const whole = (low, high) => {
    const every = Math.max(1, Math.ceil((high - low) / 12));
    return Array.from({ length: Math.floor((high - low) / every) + 1 }, (_, i) => low + i * every);
  };

  function profile(metric, series, plan, step, width) {
    const points = series.flatMap((s) => s.x.map((x, i) => ({ x, y: s.y[i], low: s.low[i], high: s.high[i], of: named(s) })));
    const there = points.filter((p) => p.y !== null);
    const scale = series[0].scale;
    const beyond = there.filter((p) => below(p.y, scale) || above(p.y, scale));
    const within = (v) => Math.min(scale.high, Math.max(scale.low, v));
    const names = [...new Set(points.map((p) => p.of))];
    const xs = points.map((p) => p.x);
    const counted = metric.whole !== false;
    const [first, last] = [Math.min(...xs), Math.max(...xs)];
    const shift = metric.axis === "depth" ? 0 : -0.5;
    const said = (p) => `${where(metric)} ${digits(p.x)}${names.length > 1 ? `, ${p.of}` : ""}\n${digits(p.y)}` +
      (p.low === null ? "" : ` [${digits(p.low)}, ${digits(p.high)}]`) + (metric.unit ? ` ${metric.unit}` : "");
    const svg = Plot.plot({
      width, height: Math.min(330, Math.max(230, width * 0.45)), marginLeft: 58, marginBottom: 38, style: { fontSize: "12px", background: "transparent" },
      x: {
        label: metric.xLabel ?? (metric.axis === "depth" ? "depth d (state entering step d)" : "step"),
        ...(counted ? { domain: [Math.min(first, metric.xLabel ? first : 0) - 0.5, last + 0.5], ticks: whole(metric.xLabel ? first : 0, last), tickFormat: "d" } : { domain: [first, last], ticks: 5 }),
      },
      y: { ...norm(scale), label: withUnit(metric), grid: true, nice: false, ...powers(scale) },
      color: { domain: names, range: names.map((_, i) => COLOURS[i % COLOURS.length]), legend: false },
      marks: [
        ...[0, 1].map((odd) => Plot.rect(blocks(plan).filter((b, i) => i % 2 === odd), { x1: (b) => b.start + shift, x2: (b) => b.end + shift, fill: odd ? "var(--tint-b)" : "var(--tint-a)", fillOpacity: 0.55 })),
        metric.centre === null ? null : Plot.ruleY([metric.centre], { stroke: "var(--soft)", strokeWidth: 1.2 }),
        metric.chance > scale.low && metric.chance < scale.high ? Plot.ruleY([metric.chance], { stroke: "var(--soft)", strokeWidth: 1.2, strokeDasharray: "4 3", className: "chance-rule", title: () => `a uniform guess: ${digits(metric.chance)}` }) : null,
        Plot.areaY(there.filter((p) => p.low !== null && p.high !== null), { x: "x", y1: (p) => within(p.low), y2: (p) => within(p.high), z: "of", fill: "of", fillOpacity: 0.22 }),
        Plot.line(points, { x: "x", y: (p) => (p.y === null ? NaN : within(p.y)), stroke: "of", strokeWidth: 2 }),
        counted ? Plot.dot(there, { x: "x", y: (p) => within(p.y), fill: "of", r: 2.5 }) : null,
        Plot.dot(beyond, { x: "x", y: (p) => within(p.y), symbol: "triangle", rotate: (p) => (below(p.y, scale) ? 180 : 0), stroke: "of", fill: "var(--paper)", r: 5, className: "beyond" }),
        step === null ? null : Plot.ruleX([step], { stroke: "var(--mark)", strokeWidth: 2, strokeDasharray: "5 3", className: "step-rule" }),
        Plot.tip(there, Plot.pointer({ x: "x", y: (p) => within(p.y), title: said, fill: "var(--panel)" })),
      ],
    });
    const legend = names.length > 1 ? Plot.legend({ color: { domain: names, range: names.map((_, i) => COLOURS[i % COLOURS.length]) } }) : null;
    const note = beyond.length ? `Hollow triangles: values beyond the scale, drawn at its ends (${told(ends(beyond.map((p) => p.y), scale), "△ ", "▽ ")}).` : "";
    return { svg, legend, note, at: (p) => p.x };
  }

  function heatmap(metric, cells, plan, step, width) {
    const flat = cells.rows.flatMap((r, i) => cells.cols.map((c, j) => ({ r, c, v: cells.values[i][j] })));
    const there = flat.filter((p) => p.v !== null);
    const colour = { ...norm(cells.scale), scheme: metric.centre === null ? "viridis" : "rdbu", reverse: metric.centre !== null };
    const [r0, r1, c0, c1] = [cells.rows[0] - 0.5, cells.rows.at(-1) + 0.5, cells.cols[0] - 0.5, cells.cols.at(-1) + 0.5];
    const borders = blocks(plan).flatMap((b) => [b.start - 0.5, b.end - 0.5]);
    const inside = (low, high) => [...new Set(borders)].filter((b) => b > low && b < high);
    const side = Math.min(width, metric.names ? Math.max(300, 160 + 64 * metric.names.length) : 560, 560);
    // Axes of things that have names instead of numbers.
    const names = metric.names;
    const most = Math.max(8, Math.floor(side / 26));
    const labels = names ? shortened(names, most) : null;
    const ticks = (values) => (names ? { ticks: values, tickFormat: (i) => labels[i] ?? "" } : { ticks: whole(values[0], values.at(-1)), tickFormat: "d" });
    const label = names ? Math.min(side * 0.4, 12 + 7 * Math.max(...labels.map((n) => n.length))) : 52;
    const at = (i) => (names ? names[i] : i);
    const edge = { stroke: "var(--mark)", strokeOpacity: 0.75, strokeWidth: 0.8 };
    const mark = { fill: "none", stroke: "var(--mark)", strokeWidth: 2.5 };
    const rowMarked = step !== null && onRows(metric) && cells.rows.includes(step);
    const colMarked = step !== null && onCols(metric) && cells.cols.includes(step);
    const svg = Plot.plot({
      width: side, height: Math.max(220, side * 0.82), marginLeft: label, marginBottom: names ? Math.min(150, label * 0.8 + 20) : 38, marginRight: 20, style: { fontSize: "12px", background: "transparent" },
      x: { label: metric.colLabel || null, domain: [c0, c1], ...ticks(cells.cols), ...(names ? { tickRotate: -40 } : {}) },
      y: { label: metric.rowLabel || null, domain: names ? [r1, r0] : [r0, r1], ...ticks(cells.rows) },
      color: colour,
      marks: [
        Plot.frame({ fill: "var(--empty)", stroke: "none" }),
        Plot.rect(there, { x1: (p) => p.c - 0.5, x2: (p) => p.c + 0.5, y1: (p) => p.r - 0.5, y2: (p) => p.r + 0.5, fill: "v", inset: -0.2, shapeRendering: "crispEdges" }),
        onCols(metric) ? Plot.ruleX(inside(c0, c1), edge) : null,
        onRows(metric) ? Plot.ruleY(inside(r0, r1), edge) : null,
        rowMarked ? Plot.rect([step], { x1: c0, x2: c1, y1: step - 0.5, y2: step + 0.5, ...mark, className: "row-mark" }) : null,
        colMarked ? Plot.rect([step], { x1: step - 0.5, x2: step + 0.5, y1: r0, y2: r1, ...mark, className: "col-mark" }) : null,
        Plot.tip(there, Plot.pointer({ x: "c", y: "r", title: (p) => `${metric.rowLabel} ${at(p.r)}\n${metric.colLabel} ${at(p.c)}\n${digits(p.v)}${metric.unit ? ` ${metric.unit}` : ""}`, fill: "var(--panel)" })),
      ],
    });
    if (names) for (const axis of ["x", "y"]) onHover(svg, axis, names);
    const beyond = ends(there.map((p) => p.v), cells.scale);
    const tickFormat = (v) => `${v >= cells.scale.high && beyond.above ? "≥ " : v <= cells.scale.low && beyond.below ? "≤ " : ""}${digits(v)}`;
    const legend = Plot.legend({ color: colour, label: withUnit(metric), width: Math.min(260, width), ...(cells.scale.norm === "linear" ? { ticks: 4 } : powers(cells.scale)), tickFormat });
    const note = beyond.above || beyond.below ? `Cells beyond the scale have the colour of its end (${told(beyond, "", "")}).` : "";
    return { svg, legend, note, at: (p) => (onRows(metric) ? p.r : onCols(metric) ? p.c : null) };
  }

  const VERDICTS = { supported: "#009e73", contradicted: "#d55e00" };
  const SYMLOG = (reach) => ({ type: "symlog", constant: 1, ticks: [-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100].filter((t) => Math.abs(t) <= reach), tickFormat: digits });

  // Estimates with their intervals, one below the other; solid where the interval is clear of the reference.
  function forest(metric, of, plan, step, width) {
    const rows = of.rows.map((r, i) => ({ ...r, i })), there = rows.filter((r) => r.value !== null);
    const zero = of.reference;
    const clear = (r) => zero === null || r.low === null || r.low > zero || r.high < zero;
    const most = Math.max(10, Math.floor((width * 0.42) / 7));
    const names = rows.map((r) => r.label), labels = shortened(names, most);
    const label = 14 + 7 * Math.max(...labels.map((n) => n.length));
    const ink = (r) => (r.verdict ? VERDICTS[r.verdict] ?? "var(--soft)" : clear(r) ? "var(--accent)" : "var(--soft)");
    const hollow = (r) => r.verdict === "undecided", crossed = (r) => r.verdict === "contradicted";
    const said = (r) => `${r.label}\n${digits(r.value)}${r.low === null ? "" : ` [${digits(r.low)}, ${digits(r.high)}]`}${r.note ? `\n${r.note}` : ""}`;
    const svg = Plot.plot({
      width, height: 64 + 26 * rows.length, marginLeft: label, marginBottom: 38, marginRight: 16, style: { fontSize: "12px", background: "transparent" },
      x: { label: withUnit(metric), grid: true, ticks: width < 500 ? 3 : 6, domain: [of.scale.low, of.scale.high], ...(of.scale.norm === "symlog" ? SYMLOG(of.scale.high) : {}) },
      y: { type: "point", domain: rows.map((r) => r.i), tickFormat: (i) => labels[i], tickSize: 0, label: null, padding: 0.6 },
      marks: [
        zero === null ? null : Plot.ruleX([zero], { stroke: "var(--soft)", strokeDasharray: "4 3" }),
        Plot.ruleY(there.filter((r) => r.low !== null), { y: "i", x1: "low", x2: "high", stroke: ink, strokeWidth: 3 }),
        Plot.dot(there.filter((r) => !hollow(r) && !crossed(r)), { y: "i", x: "value", fill: ink, r: 4.5 }),
        Plot.dot(there.filter(hollow), { y: "i", x: "value", fill: "var(--paper)", stroke: ink, strokeWidth: 2, r: 4.5 }),
        Plot.dot(there.filter(crossed), { y: "i", x: "value", symbol: "times", stroke: ink, strokeWidth: 3, r: 4.5 }),
        Plot.tip(there, Plot.pointerY({ x: "value", y: "i", title: said, fill: "var(--panel)" })),
      ],
    });
    onHover(svg, "y", names);
    return { svg, legend: null, note: "", at: () => null };
  }

  // What a chart shows, in one sentence, for those who do not see it.
  function described(id, metric, chosen) {
    if (metric.forest) return `${id}: ${extremes(chosen)}`;
    if (!metric.series) {
      const values = chosen.values.flat().filter((v) => v !== null);
      if (!values.length) return `${id}: no cell is defined`;
      if (metric.names) return `${id}: ${apart(metric, chosen)}`;
      return `${id}: ${chosen.rows.length} by ${chosen.cols.length} cells, ${digits(Math.min(...values))} to ${digits(Math.max(...values))}`;
    }
    return chosen.map((s) => {
      const known = s.x.map((x, i) => [x, s.y[i]]).filter(([, y]) => y !== null);
      if (!known.length) return `${id} is undefined`;
      const [[x0, y0], [x1, y1]] = [known[0], known.at(-1)];
      const verb = y1 > y0 ? "rises" : y1 < y0 ? "falls" : "stays";
      const of = named(s) === "mean" ? "" : ` of ${named(s)}`;
      return `${id}${of} ${verb} from ${digits(y0)} to ${digits(y1)} over ${where(metric)}s ${digits(x0)}..${digits(x1)}`;
    }).join("; ");
  }

  // Ends of a list of estimates.
  function extremes(of) {
    const there = of.rows.filter((r) => r.value !== null).sort((a, b) => b.value - a.value);
    if (!there.length) return "nothing is defined";
    const says = (r) => `${r.label} ${digits(r.value)}${r.low === null ? "" : ` [${digits(r.low)}, ${digits(r.high)}]`}`;
    return there.length === 1 ? says(there[0]) : `largest ${says(there[0])}, smallest ${says(there.at(-1))}`;
  }

  // Which two of named things are nearest to and farthest from each other.
  function apart(metric, cells) {
    const pairs = cells.rows.flatMap((r, i) => cells.cols.map((c, j) => ({ r, c, v: cells.values[i][j] }))).filter((p) => p.r < p.c && p.v !== null);
    if (!pairs.length) return "nothing is defined";
    pairs.sort((a, b) => a.v - b.v);
    const says = (p) => `${metric.names[p.r]} and ${metric.names[p.c]} (${digits(p.v)})`;
    return pairs.length === 1 ? `apart by ${digits(pairs[0].v)}: ${says(pairs[0])}` : `closest ${says(pairs[0])}, farthest ${says(pairs.at(-1))}`;
  }

  // The marked step's values, as text.
  function readout(metric, chosen, step, name = "Step") {
    if (metric.forest) return extremes(chosen);
    if (metric.names) return apart(metric, chosen);
    if (metric.cells && !onRows(metric) && !onCols(metric)) return described("all", metric, chosen).slice(5);
    if (step === null) return `Choose a ${name.toLowerCase()}: click, or use the arrow keys.`;
    const where = `${name} ${digits(step)}: `;
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
    if (onRows(metric) && i >= 0) said.push(`row mean ${mean(chosen.values[i])}`);
    if (onCols(metric) && j >= 0) said.push(`column mean ${mean(chosen.values.map((r) => r[j]))}`);
    return where + (said.join(", ") || "not on these axes");
  }

  return { profile, heatmap, forest, onRows, onCols, described, readout, digits, blocks, named, shortened };
})();
