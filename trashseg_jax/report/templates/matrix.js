// The confusion matrix: shares of rows or columns or pixels, and the images behind a cell.

const matrix = document.getElementById("matrix");
const grid = Array.from(matrix.tBodies[0].rows, (row) => Array.from(row.cells).slice(1));
const rowSums = data.confusion.map((row) => row.reduce((a, b) => a + b, 0));
const columnSums = data.names.map((_, p) => data.confusion.reduce((sum, row) => sum + row[p], 0));
const numbered = matrix.classList.contains("numbered");
const group = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const short = (count) => (count >= 1e9 ? `${(count / 1e9).toPrecision(3)}G`
  : count >= 1e6 ? `${(count / 1e6).toPrecision(3)}M`
    : count >= 1e4 ? `${(count / 1e3).toPrecision(3)}k` : String(count));

function showCells(mode) {
  const largest = Math.max(1, ...data.confusion.flatMap((row, t) => row.filter((_, p) => p !== t)));
  grid.forEach((cells, t) => cells.forEach((cell, p) => {
    const count = data.confusion[t][p];
    if (!count) return;
    const total = { rows: rowSums[t], columns: columnSums[p], counts: largest }[mode];
    const share = Math.min(100, Math.round(100 * count / total));
    cell.style.setProperty("--s", share);
    cell.classList.toggle("dense", share > 55);
    cell.classList.toggle("little", share < 1);
    if (numbered) cell.textContent = mode === "counts" ? short(count) : share;
  }));
}
matrix.addEventListener("choice", (event) => showCells(event.detail));

// One cell takes the Tab key, the arrow keys move on from it.

let chosen = null;
function focusCell(t, p) {
  const cell = grid[t]?.[p];
  if (!cell) return;
  grid[chosenPlace[0]][chosenPlace[1]].tabIndex = -1;
  chosenPlace = [t, p];
  cell.tabIndex = 0;
  cell.focus();
}
let chosenPlace = [0, 0];
matrix.setAttribute("role", "grid");
grid.forEach((cells, t) => cells.forEach((cell, p) => {
  cell.tabIndex = -1;
  const count = data.confusion[t][p];
  cell.title = `${data.names[t]} → ${data.names[p]}: ${group(count)} pixels`;
}));
grid[0][0].tabIndex = 0;
matrix.addEventListener("keydown", (event) => {
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const [t, p] = chosenPlace;
  if (event.key in moves) {
    event.preventDefault();
    focusCell(t + moves[event.key][0], p + moves[event.key][1]);
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    describeCell(t, p);
  }
});
matrix.addEventListener("click", (event) => {
  const cell = event.target.closest("tbody td");
  if (!cell) return;
  event.preventDefault();
  const t = cell.parentNode.sectionRowIndex;
  const p = cell.cellIndex - 1;
  focusCell(t, p);
  describeCell(t, p);
});

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// The largest error, to begin with.
function largestError() {
  let found = [0, 0];
  let most = -1;
  data.confusion.forEach((row, t) => row.forEach((count, p) => {
    if (t !== p && count > most) [found, most] = [[t, p], count];
  }));
  return found;
}

function describeCell(t, p) {
  chosen?.removeAttribute("aria-selected");
  chosen = grid[t][p];
  chosen.setAttribute("aria-selected", "true");
  const count = data.confusion[t][p];
  const heading = element("h3");
  heading.append(element("bdi", data.names[t]), t === p ? ", found" : " taken for ");
  if (t !== p) heading.append(element("bdi", data.names[p]));
  const percent = (part, whole) => (whole ? `${(100 * part / whole).toFixed(1)} %` : "–");
  const facts = element("p", `${group(count)} pixels: ${percent(count, rowSums[t])} of the truth, ` +
    `${percent(count, columnSums[p])} of the prediction.`, "muted");
  const list = element("ol");
  for (const [place, pixels] of data.cells[`${t}-${p}`] ?? []) list.append(cellImage(place, pixels, count));
  const detail = document.getElementById("cell");
  detail.replaceChildren(heading, facts, list);
  if (t !== p && count && !list.children.length) detail.append(element("p", "Too few pixels to list its images.", "muted"));
}

function cellImage(place, pixels, total) {
  const item = element("li");
  const picture = document.querySelector(`#image-${place} img.photo`);
  const label = element("span");
  label.append(element("bdi", data.files[place]), element("br"),
    element("span", `${group(pixels)} pixels, ${(100 * pixels / total).toFixed(0)} %`, "muted"));
  if (picture) {
    const button = element("button");
    button.type = "button";
    const copy = element("img");
    copy.src = picture.src;
    copy.alt = `Show ${data.files[place]}`;
    button.append(copy);
    button.addEventListener("click", () => openImage(place));
    item.append(button, label);
  } else {
    item.append(element("span", "", "none"), label);
  }
  return item;
}

describeCell(...largestError());
