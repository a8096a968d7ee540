// Tables that sort by a click on a header, filter by a text field, and can be had as CSV.
"use strict";
const Tables = (() => {
  const make = (tag, about = {}, ...inside) => {
    const node = Object.assign(document.createElement(tag), about);
    node.append(...inside);
    return node;
  };
  const text = (cell) => (cell ? cell.textContent.trim() : "");
  // What reads as a number sorts as one; a dash or nothing comes last.
  const number = (said) => (/^[-+−]?[\d.]/.test(said) ? parseFloat(said.replace("−", "-")) : NaN);

  function compare(a, b) {
    const [x, y] = [number(a), number(b)];
    const [none, nothing] = [a === "" || a === "–", b === "" || b === "–"];
    if (none || nothing) return none === nothing ? 0 : none ? Infinity : -Infinity;
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  }

  function sort(table, column, header) {
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const order = compare(text(a.cells[column]), text(b.cells[column]));
      return Math.abs(order) === Infinity ? Math.sign(order) : down ? -order : order;
    });
    table.tBodies[0].append(...rows);
  }

  const quoted = (said) => {
    // A spreadsheet takes what begins so for a formula.
    const safe = /^[=+@\t\r]|^-(?![\d.])/.test(said) ? `'${said}` : said;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };

  function csv(table) {
    const rows = [table.tHead.rows[0], ...[...table.tBodies[0].rows].filter((r) => !r.hidden)];
    return rows.map((r) => [...r.cells].map((c) => quoted(c.dataset.said ?? text(c))).join(",")).join("\n") + "\n";
  }

  function download(name, content) {
    const url = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
    const link = make("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  // Give a table with head and body its controls, before it (or before the box that scrolls it).
  function enliven(table, name) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      header.dataset.said = text(header);
      const button = make("button", { type: "button" }, ...header.childNodes);
      button.addEventListener("click", () => sort(table, column, header));
      header.replaceChildren(button);
    });
    const field = make("input", { type: "search" });
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase();
      for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    const save = make("button", { type: "button" }, "Download CSV");
    save.setAttribute("aria-label", `Download CSV: ${name}`);
    save.addEventListener("click", () => download(`${name.replace(/[^\p{L}\p{N}._-]+/gu, "-")}.csv`, csv(table)));
    const controls = make("div", { className: "controls" }, make("label", {}, `Filter ${name}`, field), save);
    (table.closest(".scroll") || table).before(controls);
  }

  function build(head, rows) {
    const body = make("tbody");
    for (const row of rows) body.append(make("tr", {}, ...row.map((cell) => make("td", { className: "number" }, String(cell)))));
    const header = make("tr", {}, ...head.map((name) => Object.assign(make("th", {}, name), { scope: "col" })));
    return make("table", {}, make("thead", {}, header), body);
  }

  return { enliven, build, make };
})();
