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
