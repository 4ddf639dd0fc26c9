"use strict";
const config = { responsive: true, displayModeBar: false };
const plots = [...document.querySelectorAll(".plot")];
for (const plot of plots) {
  const { data, layout } = JSON.parse(document.getElementById(`${plot.id}-data`).textContent);
  if (layout.height) plot.style.height = `${layout.height}px`;
  Plotly.newPlot(plot, data, layout, config);
}
// A plot keeps the size it was drawn with: paper is narrower than most screens.
addEventListener("beforeprint", () => plots.forEach((plot) => Plotly.relayout(plot, { width: 680 })));
addEventListener("afterprint", () => plots.forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true })));

for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.firstElementChild.addEventListener("click", () => {
    const order = heading.ariaSort === "ascending" ? "descending" : "ascending";
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", order);
    const body = table.tBodies[0];
    const sign = order === "ascending" ? 1 : -1;
    body.append(...[...body.rows].sort((one, other) => compare(one.cells[column], other.cells[column], sign)));
  }));
}

// Cells without a value come last either way.
function compare(one, other, sign) {
  const a = one.dataset.value ?? one.textContent, b = other.dataset.value ?? other.textContent;
  if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1);
  const difference = one.classList.contains("number") ? Number(a) - Number(b) : NaN;
  return sign * (Number.isNaN(difference) ? a.localeCompare(b) : difference);
}
