"use strict";

// The page's data: the json block "data", if it has one.
const data = JSON.parse(document.getElementById("data")?.textContent ?? "null");

// Tables of class "sortable": the first click on a heading sorts numbers downwards, text upwards.

function cellValue(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = text === "" ? NaN : Number(text);
  return { text, number };
}

function sortTable(table, column, descending) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, ...cellValue(row, column) }));
  const numeric = rows.some((one) => !Number.isNaN(one.number));
  const sign = descending ? -1 : 1;
  rows.sort((a, b) => {
    if (!numeric) return sign * a.text.localeCompare(b.text);
    if (Number.isNaN(a.number) || Number.isNaN(b.number)) {
      return Number.isNaN(a.number) - Number.isNaN(b.number); // what has no figure comes last
    }
    return sign * (a.number - b.number);
  });
  body.append(...rows.map((one) => one.row));
  return numeric;
}

function makeSortable(table) {
  const headings = Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells);
  headings.forEach((heading, column) => {
    if (heading.dataset.sort === "no") return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const before = heading.getAttribute("aria-sort");
      const numeric = Array.from(table.tBodies[0].rows).some(
        (row) => !Number.isNaN(cellValue(row, column).number));
      const descending = before ? before === "ascending" : numeric;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortTable(table, column, descending);
    });
  });
}
document.querySelectorAll("table.sortable").forEach(makeSortable);

// Buttons of which one is pressed: <div class="buttons" data-for="ID"> with <button value="X">.
// The element ID gets data-choice="X" and a "choice" event; what in it has data-when="X Y" is
// shown if X or Y is chosen.

function choose(group, value) {
  const target = document.getElementById(group.dataset.for);
  group.querySelectorAll("button").forEach((button) => {
    button.setAttribute("aria-pressed", String(button.value === value));
  });
  target.dataset.choice = value;
  target.querySelectorAll("[data-when]").forEach((part) => {
    part.hidden = !part.dataset.when.split(" ").includes(value);
  });
  target.dispatchEvent(new CustomEvent("choice", { detail: value }));
}
document.querySelectorAll(".buttons[data-for]").forEach((group) => {
  group.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) choose(group, button.value);
  });
});
function chooseFirst() {
  document.querySelectorAll(".buttons[data-for]").forEach((group) => {
    choose(group, group.querySelector('[aria-pressed="true"]').value);
  });
}
document.addEventListener("DOMContentLoaded", chooseFirst); // when the page's own script has run

// The link of the section that is in view.

const links = new Map(Array.from(document.querySelectorAll("nav.sections a"), (link) =>
  [document.querySelector(link.hash), link]));
const seen = new IntersectionObserver((entries) => {
  const entry = entries.find((one) => one.isIntersecting);
  if (!entry) return;
  links.forEach((link) => link.removeAttribute("aria-current"));
  links.get(entry.target).setAttribute("aria-current", "true");
}, { rootMargin: "-20% 0px -75% 0px" });
links.forEach((_, section) => section && seen.observe(section));

// Buttons that copy the text of what data-copy names.

document.querySelectorAll("button[data-copy]").forEach((button) => {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copy).textContent;
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Press Ctrl-C";
      getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
    }
    setTimeout(() => { button.textContent = before; }, 1500);
  });
});
