// Puts the page together: choices, marked step, theme. Everything is text; nothing is taken as markup.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const { make } = Tables;
  const marks = data.marks ?? data.plan.map((one) => one.step); // what can be marked, in order
  const markName = data.markName ?? "Step";
  const views = []; // each shows the marked step again
  let step = null;

  function select(wanted) {
    if (wanted === null || marks.length === 0) return;
    step = marks.reduce((best, mark) => (Math.abs(mark - wanted) < Math.abs(best - wanted) ? mark : best));
    for (const view of views) view();
  }

  function arrows(event) {
    const to = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    const at = marks.indexOf(step) + to;
    if (to) select(step === null ? marks[0] : marks[Math.min(marks.length - 1, Math.max(0, at))]);
    else if (event.key === "Home") select(marks[0]);
    else if (event.key === "End") select(marks.at(-1));
    else return;
    event.preventDefault();
  }

  function choice(label, options, names = options) {
    const field = make("select", {}, ...options.map((value, i) => make("option", { value }, names[i])));
    return { field, label: make("label", {}, label, field) };
  }

  const unique = (values) => [...new Set(values)];

  function plan(place) {
    const list = make("ol", { className: "strip" });
    const starts = new Map(Charts.blocks(data.plan).map((b, i) => [b.start, i]));
    let number = 0;
    const buttons = data.plan.map((one) => {
      if (starts.has(one.step)) number = starts.get(one.step);
      const inBlock = one.block !== null && one.block !== undefined;
      const button = make("button", { type: "button" }, String(one.layer));
      button.setAttribute("aria-label", `step ${one.step}, layer ${one.layer}${inBlock ? `, block ${one.block}` : ""}`);
      button.title = button.getAttribute("aria-label");
      button.addEventListener("click", () => select(one.step));
      const side = inBlock ? (number % 2 ? "odd" : "even") : "";
      list.append(make("li", { className: `${side}${starts.has(one.step) ? " first" : ""}` }, button));
      return button;
    });
    list.addEventListener("keydown", (event) => {
      arrows(event);
      if (event.defaultPrevented) buttons[marks.indexOf(step)].focus();
    });
    views.push(() => buttons.forEach((b, i) => b.setAttribute("aria-pressed", String(marks[i] === step))));
    place.append(list);
  }

  function section(one, place) {
    const metric = choice("Metric", one.metrics, one.metrics.map((id) => `${id}: ${data.metrics[id].label}`));
    const part = choice("Part", []), scope = choice("Scope", []), agg = choice("Aggregation", []);
    const formula = make("p", { className: "formula" });
    const chart = make("div", { className: "chart" });
    const legend = make("div", { className: "legend" });
    const beyond = make("p", { className: "formula beyond-note" });
    const said = make("p", { className: "readout" });
    const table = make("details", {}, make("summary", {}, "Numbers"), make("div", { className: "rows" }));
    const now = () => data.metrics[metric.field.value];
    const all = () => now().series || now().cells || now().forest;

    function offer(field, values, every) {
      const before = field.value;
      const options = every && values.length > 1 ? ["all", ...values] : values;
      field.replaceChildren(...options.map((v) => make("option", { value: v }, v === "-" ? "does not apply" : v)));
      if (options.includes(before)) field.value = before;
      field.closest("label").hidden = options.length < 2;
    }
    const name = (field, words) => { field.label.firstChild.textContent = words; };
    const fits = (s) => [[part, s.part], [scope, s.scope]].every(([c, v]) => c.field.value === "all" || c.field.value === v);
    const chosen = () => {
      const found = all().filter((s) => s.agg === agg.field.value && fits(s));
      return found.length ? found : [all().find((s) => s.agg === agg.field.value && (part.field.value === "all" || s.part === part.field.value)) || all()[0]];
    };
    const picked = () => (now().series ? chosen() : chosen()[0]);

    function draw() {
      const of = now(), what = picked();
      const width = Math.max(280, Math.floor(chart.clientWidth || 600));
      const kind = of.series ? Charts.profile : of.cells ? Charts.heatmap : Charts.forest;
      const drawn = kind(of, what, data.plan, step, width);
      const moves = marks.length > 0 && (Boolean(of.series) || (Boolean(of.cells) && (Charts.onRows(of) || Charts.onCols(of))));
      drawn.svg.setAttribute("aria-hidden", "true");
      drawn.svg.addEventListener("click", () => drawn.svg.value && select(drawn.at(drawn.svg.value)));
      chart.replaceChildren(drawn.svg);
      legend.replaceChildren(...(drawn.legend ? [drawn.legend] : []));
      beyond.textContent = drawn.note;
      beyond.hidden = !drawn.note;
      if (drawn.legend) drawn.legend.setAttribute("aria-hidden", "true");
      chart.setAttribute("aria-label", Charts.described(metric.field.value, of, what));
      said.textContent = Charts.readout(of, what, step, markName);
      const slides = { "aria-valuemin": marks[0], "aria-valuemax": marks.at(-1), "aria-valuenow": step ?? marks[0], "aria-valuetext": said.textContent, tabindex: 0 };
      chart.setAttribute("role", moves ? "slider" : "img");
      for (const [key, value] of Object.entries(slides)) {
        if (moves) chart.setAttribute(key, String(value));
        else chart.removeAttribute(key);
      }
    }
    function rows() {
      const of = now(), id = metric.field.value, none = (v) => v ?? "–";
      const at = (i) => (of.names ? of.names[i] : i), named = Boolean(all()[0].name);
      const keys = ["part", "scope", "agg"].map((k) => (of.choices?.[k] ?? k).toLowerCase());
      if (named) keys.unshift(of.lines ?? "line");
      const key = (s) => [...(named ? [s.name] : []), s.part, s.scope, s.agg];
      const lines = of.forest ? chosen()[0].rows.map((r) => [r.label, none(r.value), none(r.low), none(r.high), r.note ?? ""]) : of.series
        ? chosen().flatMap((s) => s.x.map((x, i) => [...key(s), x, none(s.y[i]), none(s.low[i]), none(s.high[i])]))
        : chosen().slice(0, 1).flatMap((s) => s.rows.flatMap((r, i) => s.cols.map((c, j) => [...key(s), at(r), at(c), none(s.values[i][j])])));
      const head = of.forest ? ["of", "value", "low", "high", "note"]
        : of.series ? [...keys, of.axis, "value", "low", "high"] : [...keys, `row: ${of.rows}`, `column: ${of.cols}`, "value"];
      const made = Tables.build(head, lines);
      const box = make("div", { className: "scroll tall", tabIndex: 0 }, made);
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", `Numbers of ${id}`);
      table.lastElementChild.replaceChildren(box);
      Tables.enliven(made, id);
    }
    function show() {
      formula.textContent = `${now().formula}${now().source ? ` (${now().source})` : ""}`;
      draw();
      if (table.open) rows();
    }
    function choose() {
      const profile = Boolean(now().series) && !all()[0].name;
      for (const [field, k, words] of [[part, "part", "Part"], [scope, "scope", "Scope"], [agg, "agg", "Aggregation"]]) name(field, now().choices?.[k] ?? words);
      offer(part.field, unique(all().map((s) => s.part)), profile);
      offer(scope.field, unique(all().map((s) => s.scope)), profile);
      offer(agg.field, unique(all().map((s) => s.agg)), false);
      show();
    }
    metric.field.addEventListener("change", choose);
    for (const c of [part, scope, agg]) c.field.addEventListener("change", show);
    table.addEventListener("toggle", () => table.open && rows());
    chart.addEventListener("keydown", arrows);
    place.append(make("div", { className: "controls" }, metric.label, part.label, scope.label, agg.label), formula, legend, chart, beyond, said, table);
    choose();
    views.push(draw);
    let wide = chart.clientWidth;
    new ResizeObserver(() => {
      if (chart.clientWidth === wide) return;
      wide = chart.clientWidth;
      draw();
    }).observe(chart);
  }

  function text(place, ids) {
    const metric = choice("Tokens", ids, ids.map((id) => `${id}: ${data.tokens[id].label}`));
    const prompt = choice("Prompt", []);
    const box = make("div", { className: "scroll tall", tabIndex: 0 });
    box.setAttribute("role", "region");
    const now = () => data.tokens[metric.field.value];
    function mark() {
      for (const row of box.querySelectorAll("tbody tr")) row.classList.toggle("marked", Number(row.dataset.step) === step);
    }
    function show() {
      const one = now().prompts[Number(prompt.field.value)];
      box.setAttribute("aria-label", `${metric.field.value}: tokens of prompt ${one.prompt} by ${now().axis === "iteration" ? "pass" : "depth"}`);
      box.replaceChildren(Tokens.table(now(), one, select));
      mark();
    }
    function offer() {
      prompt.field.replaceChildren(...now().prompts.map((p, i) => {
        const start = p.read.join("").slice(0, 40);
        return make("option", { value: String(i) }, `${p.prompt}${p.scope === "-" ? "" : ` (steps ${p.scope})`}: ${start}…`);
      }));
      show();
    }
    metric.field.addEventListener("change", offer);
    prompt.field.addEventListener("change", show);
    place.append(make("div", { className: "controls" }, metric.label, prompt.label), box);
    views.push(mark);
    offer();
  }

  function theme() {
    const button = document.getElementById("theme"), root = document.documentElement;
    const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
    const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
    button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
    name();
  }

  document.documentElement.classList.add("alive");
  theme();
  if (data.plan.length) plan(document.getElementById("plan-strip"));
  for (const one of data.sections) {
    const place = document.getElementById(`${one.id}-live`);
    if (one.metrics.length) section(one, place);
    const ids = Object.keys(data.tokens ?? {}).filter((id) => data.tokens[id].section === one.id);
    if (ids.length) text(place, ids);
  }
  for (const table of document.querySelectorAll("table[data-name]")) Tables.enliven(table, table.dataset.name);
  for (const block of document.querySelectorAll("pre.copy")) {
    const button = make("button", { type: "button" }, "Copy");
    button.setAttribute("aria-label", `Copy: ${block.getAttribute("aria-label")}`);
    button.addEventListener("click", () => {
      getSelection().selectAllChildren(block);
      navigator.clipboard?.writeText(block.textContent).then(() => { button.textContent = "Copied"; }, () => {});
    });
    block.before(button);
  }
  for (const view of views) view();
})();
