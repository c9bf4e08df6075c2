"use strict";
// Sorting: a click on a heading sorts by the number in data-v, or by the text; a second click turns the order.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[column], text = cell.firstChild ? cell.textContent.trim() : "";
      const number = "v" in cell.dataset ? Number(cell.dataset.v) : Number(text);
      return text === "–" || Number.isNaN(number) && "v" in cell.dataset ? null : Number.isNaN(number) ? text : number;
    };
    const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
    // What has no value stands last in both orders.
    rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : (down ? -1 : 1) * compare(a, b));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}
// Filters and the legend: one pass over everything that belongs to a measurement.
const wanted = {}, hidden = new Set();
const apply = () => {
  for (const element of document.querySelectorAll("[data-dtype], [data-algorithm]")) {
    const data = element.dataset;
    const miss = Object.entries(wanted).some(([name, value]) => value && name in data && data[name] !== value);
    element.classList.toggle("off", miss || hidden.has(data.algorithm));
  }
};
for (const select of document.querySelectorAll("[data-filter]")) {
  select.addEventListener("change", () => { wanted[select.dataset.filter] = select.value; apply(); });
}
for (const key of document.querySelectorAll("[data-toggle]")) {
  key.addEventListener("click", () => {
    const name = key.dataset.toggle, show = hidden.delete(name);
    if (!show) hidden.add(name);
    key.setAttribute("aria-pressed", String(show));
    apply();
  });
}
// Hover texts at once, instead of the browser's own after a second. Without scripts the <title> elements still work.
const tip = document.getElementById("tip");
for (const title of document.querySelectorAll(".plot title")) {
  const owner = title.parentNode, text = title.textContent;
  title.remove();
  if (!text) continue;
  owner.setAttribute("aria-label", text);
  owner.addEventListener("pointermove", (event) => {
    tip.textContent = text;
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(event.clientX + 14, innerWidth - width - 8)) + "px";
    tip.style.top = (event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18) + "px";
  });
  owner.addEventListener("pointerleave", () => { tip.hidden = true; });
}
