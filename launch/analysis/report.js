"use strict";
const all = selector => [...document.querySelectorAll(selector)];

function sortBy(table, column, up) {
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const compare = (a, b) => {
    const difference = value(a) - value(b);
    return isNaN(difference) ? value(a).localeCompare(value(b), undefined, { numeric: true }) : difference;
  };
  const body = table.querySelector("tbody.rows");
  body.append(...[...body.rows].sort((a, b) => up ? compare(a, b) : compare(b, a)));
  [...table.tHead.rows[0].cells].forEach((head, number) => {
    head.setAttribute("aria-sort", number === column ? (up ? "ascending" : "descending") : "none");
  });
}

function toggleSort(head) {
  const text = head.classList.contains("text");  // text begins with a, numbers with the largest
  const now = head.getAttribute("aria-sort");
  sortBy(head.closest("table"), head.cellIndex, text ? now !== "ascending" : now === "descending");
}

function filterRows(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const element of all("[data-label]")) {
    const label = element.dataset.label.toLowerCase();
    element.hidden = !words.every(word => label.includes(word));
  }
  const rows = all("#results tbody.rows tr");
  const shown = rows.filter(row => !row.hidden).length;
  document.getElementById("count").textContent = `${shown} of ${rows.length} configurations`;
}

for (const button of all("th button")) button.addEventListener("click", () => toggleSort(button.closest("th")));
const choice = document.getElementById("sort");
if (choice) choice.addEventListener("change", () => {
  const [column, direction] = choice.value.split(" ");
  sortBy(document.getElementById("results"), Number(column), direction === "up");
});
const filter = document.getElementById("filter");
if (filter) filter.addEventListener("input", () => filterRows(filter.value));
for (const element of all("[hidden].scripted")) element.hidden = false;
