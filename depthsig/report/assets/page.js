// Puts the page together: choices, marked step, theme. Everything is text; nothing is taken as markup.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const { make } = Tables;
  const steps = data.plan.length;
  const views = []; // each shows the marked step again
  let step = null;

  function select(wanted) {
    if (wanted === null || steps === 0) return;
    step = Math.min(steps - 1, Math.max(0, wanted));
    for (const view of views) view();
  }

  function arrows(event) {
    const to = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (to) select(step === null ? 0 : step + to);
    else if (event.key === "Home") select(0);
    else if (event.key === "End") select(steps - 1);
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
      if (event.defaultPrevented) buttons[step].focus();
    });
    views.push(() => buttons.forEach((b, i) => b.setAttribute("aria-pressed", String(i === step))));
    place.append(list);
  }

  function section(one, place) {
    const metric = choice("Metric", one.metrics, one.metrics.map((id) => `${id}: ${data.metrics[id].label}`));
    const part = choice("Part", []), scope = choice("Scope", []), agg = choice("Aggregation", []);
    const formula = make("p", { className: "formula" });
    const chart = make("div", { className: "chart", tabIndex: 0 });
    const legend = make("div", { className: "legend" });
    const said = make("p", { className: "readout" });
    const table = make("details", {}, make("summary", {}, "Numbers"), make("div", { className: "rows" }));
    const now = () => data.metrics[metric.field.value];
    const all = () => now().series || now().cells;

    function offer(field, values, every) {
      const before = field.value;
      const options = every && values.length > 1 ? ["all", ...values] : values;
      field.replaceChildren(...options.map((v) => make("option", { value: v }, v === "-" ? "does not apply" : v)));
      if (options.includes(before)) field.value = before;
      field.closest("label").hidden = options.length < 2;
    }
    const fits = (s) => [[part, s.part], [scope, s.scope]].every(([c, v]) => c.field.value === "all" || c.field.value === v);
    const chosen = () => {
      const found = all().filter((s) => s.agg === agg.field.value && fits(s));
      return found.length ? found : [all().find((s) => s.agg === agg.field.value && (part.field.value === "all" || s.part === part.field.value)) || all()[0]];
    };
    const picked = () => (now().series ? chosen() : chosen()[0]);

    function draw() {
      const of = now(), what = picked();
      const width = Math.max(280, Math.floor(chart.clientWidth || 600));
      const drawn = of.series ? Charts.profile(of, what, data.plan, step, width) : Charts.heatmap(of, what, data.plan, step, width);
      drawn.svg.setAttribute("aria-hidden", "true");
      drawn.svg.addEventListener("click", () => drawn.svg.value && select(drawn.at(drawn.svg.value)));
      chart.replaceChildren(drawn.svg);
      legend.replaceChildren(...(drawn.legend ? [drawn.legend] : []));
      if (drawn.legend) drawn.legend.setAttribute("aria-hidden", "true");
      chart.setAttribute("role", "slider");
      chart.setAttribute("aria-label", Charts.described(metric.field.value, of, what));
      chart.setAttribute("aria-valuemin", "0");
      chart.setAttribute("aria-valuemax", String(Math.max(0, steps - 1)));
      chart.setAttribute("aria-valuenow", String(step ?? 0));
      said.textContent = Charts.readout(of, what, step);
      chart.setAttribute("aria-valuetext", said.textContent);
    }
    function rows() {
      const of = now(), id = metric.field.value, none = (v) => v ?? "–";
      const lines = of.series
        ? chosen().flatMap((s) => s.x.map((x, i) => [s.part, s.scope, s.agg, x, none(s.y[i]), none(s.low[i]), none(s.high[i])]))
        : chosen().slice(0, 1).flatMap((s) => s.rows.flatMap((r, i) => s.cols.map((c, j) => [s.part, s.scope, s.agg, r, c, none(s.values[i][j])])));
      const head = of.series ? ["part", "scope", "agg", of.axis, "value", "low", "high"] : ["part", "scope", "agg", `row: ${of.rows}`, `column: ${of.cols}`, "value"];
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
      const profile = Boolean(now().series);
      offer(part.field, unique(all().map((s) => s.part)), profile);
      offer(scope.field, unique(all().map((s) => s.scope)), profile);
      offer(agg.field, unique(all().map((s) => s.agg)), false);
      show();
    }
    metric.field.addEventListener("change", choose);
    for (const c of [part, scope, agg]) c.field.addEventListener("change", show);
    table.addEventListener("toggle", () => table.open && rows());
    chart.addEventListener("keydown", arrows);
    place.append(make("div", { className: "controls" }, metric.label, part.label, scope.label, agg.label), formula, legend, chart, said, table);
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
      box.setAttribute("aria-label", `${metric.field.value}: tokens of prompt ${one.prompt} by depth`);
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
  if (steps) plan(document.getElementById("plan-strip"));
  for (const one of data.sections) {
    const place = document.getElementById(`${one.id}-live`);
    if (one.metrics.length) section(one, place);
    const ids = Object.keys(data.tokens).filter((id) => data.tokens[id].section === one.id);
    if (ids.length) text(place, ids);
  }
  for (const table of document.querySelectorAll("table[data-name]")) Tables.enliven(table, table.dataset.name);
  for (const view of views) view();
})();
