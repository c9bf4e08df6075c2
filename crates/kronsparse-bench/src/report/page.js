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
