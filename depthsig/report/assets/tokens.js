// A prompt's tokens by depth or pass, as text.
"use strict";
const Tokens = (() => {
  const { make } = Tables;
  const seen = (word) => (word.trim() === "" ? word.replace(/ /g, "␣") : word).replace(/\n/g, "↵").replace(/\t/g, "⇥") || "∅";

  function share(scale, value) {
    const put = { log: (v) => Math.log(Math.max(v, 1e-300)), symlog: (v) => Math.sign(v) * Math.log1p(Math.abs(v) / 0.01) }[scale.norm] || ((v) => v);
    const [low, high] = [put(scale.low), put(scale.high)];
    return Math.min(1, Math.max(0, (put(value) - low) / (high - low)));
  }

  // Strong values dark, with white text: readable on every colour. Around a middle: blue below it, red above.
  function colour(cell, part, centred) {
    const shade = d3.color(centred ? d3.interpolateRdBu(1 - part) : d3.interpolateViridis(1 - 0.85 * part));
    const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    const light = 0.2126 * linear(shade.r) + 0.7152 * linear(shade.g) + 0.0722 * linear(shade.b);
    cell.style.background = shade.formatHex();
    cell.style.color = light > 0.179 ? "#000" : "#fff";
  }

  function table(metric, prompt, select) {
    const rows = metric.axis === "iteration" ? "pass" : "depth";
    const head = make("tr", {}, Object.assign(make("th", {}, rows === "pass" ? rows : metric.axis || "depth"), { scope: "col" }));
    prompt.positions.forEach((position, i) => {
      const word = make("th", { scope: "col", title: `position ${position}: ${prompt.read[i]}`, dir: "auto" }, seen(prompt.read[i]));
      head.append(word);
    });
    const body = make("tbody");
    [...prompt.depths].reverse().forEach((depth) => {
      const cells = prompt.cells[prompt.depths.indexOf(depth)];
      const label = make("th", { scope: "row" }, String(depth));
      const row = make("tr", {}, label);
      // A pass is no step that other charts could mark.
      if (rows === "depth") {
        label.addEventListener("click", () => select(depth));
        row.dataset.step = depth;
      }
      cells.forEach((found, i) => {
        const cell = make("td", { dir: "auto" });
        if (found.length) {
          const [word, value] = found;
          cell.textContent = word < 0 ? Charts.digits(value) : seen(metric.words[word]);
          const all = [];
          for (let k = 0; k < found.length; k += 2) all.push(found[k] < 0 ? Charts.digits(found[k + 1]) : `${metric.words[found[k]]}: ${Charts.digits(found[k + 1])}`);
          cell.title = `${rows} ${depth}, position ${prompt.positions[i]} (${prompt.read[i]})\n${all.join("\n")}`;
          if (value !== null) colour(cell, share(metric.scale, value), metric.centre !== null);
        }
        row.append(cell);
      });
      body.append(row);
    });
    const foot = make("tfoot");
    // Of every rule, the pass after which it leaves each token.
    Object.entries(prompt.marks ?? {}).forEach(([name, at]) => {
      const row = make("tr", {}, Object.assign(make("th", { title: `the pass after which this exit leaves a token: ${name}` }, `exit: ${name}`), { scope: "row" }));
      prompt.positions.forEach((position) => row.append(make("td", {}, position in at ? String(at[position]) : "")));
      foot.append(row);
    });
    return make("table", { className: "tokens" }, make("thead", {}, head), body, foot);
  }

  return { table };
})();
