"use strict";
/* Shows the interactive charts (Vega-Lite, vega.min.js), and makes tables sortable and filterable. Without this script
   the page shows static figures and plain tables. */

/** The specification with its placeholders (`plots/plot.py`) replaced. */
function resolved(node, state, width) {
  if (Array.isArray(node)) return node.map((item) => resolved(item, state, width));
  if (node === null || typeof node !== "object") return node;
  if ("$value" in node) return state[node.$value];
  if ("$choice" in node) return resolved(node.options[state[node.$choice]], state, width);
  if ("$columns" in node) return Math.max(1, Math.floor(width / node.$columns));
  return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, resolved(value, state, width)]));
}

function rowsOf(columns) {
  const names = Object.keys(columns);
  const count = names.length ? columns[names[0]].length : 0;
  return Array.from({ length: count }, (_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
}

/** Of Vega-Embed. Level 1 logs errors alone: warnings are about layers that checkboxes have emptied. */
const options = { actions: false, renderer: "svg", mode: "vega-lite", logLevel: 1 };

/** A chart in its figure. Drawn when it comes near the window, and again after each change of a control. */
class Plot {
  constructor(figure) {
    this.figure = figure;
    this.place = figure.querySelector(".view");
    const content = JSON.parse(figure.querySelector("script").textContent);
    this.spec = content.spec;
    this.datasets = Object.fromEntries(Object.entries(content.data).map(([name, table]) => [name, rowsOf(table)]));
    this.drawn = Promise.resolve();
    figure.plot = this;
    figure.addEventListener("change", () => this.draw());
    for (const button of figure.querySelectorAll("button[data-all]")) {
      button.addEventListener("click", () => {
        const boxes = [...button.closest("fieldset").querySelectorAll("input")];
        const check = !boxes.every((box) => box.checked);
        for (const box of boxes) box.checked = check;
        this.draw();
      });
    }
  }

  get state() {
    const values = {};
    for (const menu of this.figure.querySelectorAll("select")) values[menu.name] = menu.value;
    for (const group of this.figure.querySelectorAll("fieldset"))
      values[group.name] = [...group.querySelectorAll("input:checked")].map((box) => box.value);
    return values;
  }

  draw() {
    this.drawn = this.drawn.then(async () => {
      const start = performance.now();
      const spec = resolved(this.spec, this.state, this.place.clientWidth);
      spec.datasets = this.datasets;
      const old = this.result;
      this.result = await vegaEmbed(this.place, spec, options);
      this.view = this.result.view;
      if (old) old.finalize();
      this.figure.dataset.milliseconds = Math.round(performance.now() - start);
    });
    return this.drawn;
  }
}

/** What a cell sorts by: its leading number with its unit's prefix, or its text. */
function sortKey(text) {
  const number = /^([-−]?[\d,]*\.?\d+(?:e[-+]?\d+)?)\s?([kMGTPE]?)(?:B\b)?/.exec(text);
  if (!number) return text === "–" || text === "" ? null : text;
  const unit = { "": 0, k: 3, M: 6, G: 9, T: 12, P: 15, E: 18 }[number[2]];
  return Number(number[1].replaceAll(",", "").replace("−", "-")) * 10 ** unit;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [sortKey(row.cells[column].textContent.trim()), row]);
  rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : compare(a, b) * (descending ? -1 : 1)));
  body.append(...rows.map(([, row]) => row));
  for (const [i, head] of [...table.tHead.rows[0].cells].entries()) {
    if (i === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

function makeSortable(table) {
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sortBy(table, column, head.getAttribute("aria-sort") === "ascending"));
  }
}

function makeFilterable(table) {
  const rows = [...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);
  const line = document.createElement("label");
  line.className = "filter";
  const input = document.createElement("input");
  input.type = "search";
  input.placeholder = "filter rows";
  const shown = document.createElement("span");
  shown.className = "muted";
  line.append(input, shown);
  const apply = () => {
    const words = input.value.toLowerCase().split(/\s+/);
    let count = 0;
    for (const [row, text] of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      count += !row.hidden;
    }
    shown.textContent = count === rows.length ? `${count} rows` : `${count} of ${rows.length} rows`;
  };
  input.addEventListener("input", apply);
  apply();
  table.closest(".scroll").before(line);
}

const plots = [...document.querySelectorAll("figure.plot")].map((figure) => new Plot(figure));
const near = new IntersectionObserver(
  (entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      near.unobserve(entry.target);
      entry.target.plot.draw();
    }
  },
  { rootMargin: "300px" },
);
for (const plot of plots) near.observe(plot.figure);
window.addEventListener("beforeprint", () => plots.filter((plot) => !plot.view).forEach((plot) => plot.draw()));
let [width, timer] = [window.innerWidth, 0];
window.addEventListener("resize", () => {
  clearTimeout(timer);
  timer = setTimeout(() => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    plots.filter((plot) => plot.view).forEach((plot) => plot.draw());
  }, 250);
});
for (const table of document.querySelectorAll(".scroll > table")) {
  if (table.tBodies[0].rows.length > 1) makeSortable(table);
  if (table.tBodies[0].rows.length > 7) makeFilterable(table);
}
