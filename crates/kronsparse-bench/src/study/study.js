// The page of a study: filters over all figures and the table, and what rests under the pointer or is reached by the arrow keys.
const { bins, cells, plans } = JSON.parse(document.getElementById("data").textContent);
const marked = [...document.querySelectorAll("[data-i]")];
const selects = [...document.querySelectorAll("[data-by]")];
const hover = document.getElementById("tip");
const significant = (x) => x === null || !Number.isFinite(x) ? "–" : Math.abs(x) >= 1000 ? x.toFixed(0) : String(Number(x.toPrecision(3)));
const unit = (x, steps) => {
  if (x === null) return "–";
  const [factor, name] = steps.find(([factor]) => Math.abs(x) * factor >= 0.9995) ?? steps.at(-1);
  return significant(x * factor) + " " + name;
};
const seconds = (x) => unit(x, [[1, "s"], [1e3, "ms"], [1e6, "µs"], [1e9, "ns"]]);
const joules = (x) => unit(x, [[1, "J"], [1e3, "mJ"], [1e6, "µJ"]]);
const percent = (x) => x === null ? "–" : (100 * x).toFixed(x < 0.0995 ? 1 : 0) + " %";
const times = (x) => x === null ? "–" : significant(x) + "×";
const median = (values) => {
  if (values.length === 0) return null;
  const sorted = values.sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

// What is said of a cell.
const say = (cell) => {
  const head = `${cell.chain} ${cell.dtype} ${cell.layout}, n = ${cell.n}\n${times(cell.speedup)} the speed of the best of all others`;
  const facts = [
    cell.ratio === null ? "" : `(b + c)/(b·c) = ${significant(cell.ratio)}`,
    cell.energy === null ? "" : `energy ${times(cell.energy)}`,
    cell.rewriting === null ? "" : `rewriting memory ${percent(cell.rewriting)}`,
  ].filter(Boolean).join(", ");
  const lines = cell.rows.map(([name, time, spread, energy, speed, error, plan]) => time === null
    ? `${name}: ${plans[plan] || "no time"}`
    : `${name}: ${seconds(time)} ± ${seconds(spread)}${energy === null ? "" : ", " + joules(energy)}, ${significant(speed)} GFLOP/s, ` +
      `error ${error === null ? "–" : error.toExponential(1)}${plans[plan] ? "\n   " + plans[plan] : ""}`);
  return [head, facts, ...lines].filter(Boolean).join("\n");
};
let last = null;
const show = (element, x, y) => {
  last?.classList.remove("at");
  last = element;
  element.classList.add("at");
  hover.textContent = say(cells[element.dataset.i]);
  hover.hidden = false;
  const { width, height } = hover.getBoundingClientRect();
  hover.style.left = Math.max(8, Math.min(x + 14, innerWidth - width - 8)) + "px";
  hover.style.top = Math.max(8, y + 18 + height > innerHeight ? y - height - 12 : y + 18) + "px";
};
const hide = () => {
  last?.classList.remove("at");
  last = null;
  hover.hidden = true;
};
const target = (event) => event.target.closest("circle[data-i], tr[data-i]");
document.addEventListener("pointermove", (event) => {
  const element = target(event);
  if (element) show(element, event.clientX, event.clientY); else if (last && event.target.closest("main")) hide();
});
// The arrow keys walk over the points of a plot from left to right, and from the lowest up where they stand above each other.
for (const plot of document.querySelectorAll("svg[data-plot]")) {
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    const place = (point) => [Number(point.getAttribute("cx")), -Number(point.getAttribute("cy"))];
    const points = [...plot.querySelectorAll("circle[data-i]:not(.off)")].map((point) => [place(point), point]);
    points.sort(([a], [b]) => a[0] - b[0] || a[1] - b[1]);
    if (points.length === 0) return;
    const at = points.findIndex(([, point]) => point === last);
    const next = at < 0 ? (step > 0 ? 0 : points.length - 1) : (at + step + points.length) % points.length;
    const { right, bottom } = points[next][1].getBoundingClientRect();
    show(points[next][1], right, bottom);
  });
  plot.addEventListener("blur", hide);
}

// Filters: what is shown, the bars and medians of that, and the figures at the top, which are of the grid where it is among what is shown.
const stat = (name, text) => { document.querySelector(`[data-stat="${name}"]`).textContent = text; };
const apply = () => {
  const wanted = selects.filter((select) => select.value).map((select) => [select.dataset.by, select.value]);
  const shown = cells.map((cell) => wanted.every(([by, value]) => cell[by] === value));
  for (const element of marked) element.classList.toggle("off", !shown[element.dataset.i]);
  const kept = cells.filter((_, at) => shown[at]);
  redraw(kept);
  const of = (list, name) => list.map((cell) => cell[name]).filter((value) => value !== null);
  const grid = kept.filter((cell) => cell.part === "grid"), counted = grid.length ? grid : kept;
  const speedups = of(counted, "speedup");
  stat("count", String(speedups.length));
  stat("speedup", times(median(speedups)));
  stat("wins", speedups.length ? percent(of(counted, "speedup").filter((speedup) => speedup > 1).length / speedups.length) : "–");
  stat("energy", times(median(of(counted, "energy"))));
  stat("rewriting", percent(median(of(counted, "rewriting"))));
};
const redraw = (kept) => {
  const counts = new Map();
  for (const { speedup } of kept) {
    if (speedup > 0) {
      const bin = Math.floor(Math.log2(speedup) * bins);
      counts.set(bin, (counts.get(bin) ?? 0) + 1);
    }
  }
  for (const bar of document.querySelectorAll(".bar[data-bin]")) {
    const { base, unit } = bar.ownerSVGElement.dataset, count = counts.get(Number(bar.dataset.bin)) ?? 0;
    bar.dataset.count = count;
    bar.setAttribute("y", base - count * unit);
    bar.setAttribute("height", count * unit);
  }
  for (const plot of document.querySelectorAll("svg[data-scale]")) {
    const { plot: name, scale, min, max, top, bottom } = plot.dataset, values = new Map();
    for (const cell of kept) {
      if (cell.ratio !== null && cell[name] !== null) values.set(cell.ratio, [...(values.get(cell.ratio) ?? []), cell[name]]);
    }
    const map = scale === "log" ? Math.log : (x) => x;
    for (const mark of plot.querySelectorAll(".mid")) {
      const middle = median(values.get(Number(mark.dataset.ratio)) ?? []);
      mark.classList.toggle("off", middle === null);
      if (middle === null) continue;
      const y = bottom - (map(middle) - map(min)) / (map(max) - map(min)) * (bottom - top);
      mark.setAttribute("y1", y);
      mark.setAttribute("y2", y);
    }
  }
};
for (const select of selects) select.addEventListener("change", apply);
document.getElementById("reset").addEventListener("click", () => {
  for (const select of selects) select.value = "";
  apply();
});
document.querySelector(".filters").hidden = false;
