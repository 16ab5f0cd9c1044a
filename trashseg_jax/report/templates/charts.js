// Charts: values at the pointer or the arrow keys, curves that are toggled by their names.

function nearestIndex(steps, step) {
  let low = 0;
  let high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1; else high = middle;
  }
  return low > 0 && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
}

function shortNumber(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e6) return value.toExponential(2);
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : value.toFixed(3);
}

function makeChart(figure) {
  const chart = data.charts[figure.dataset.chart];
  chart.lines.forEach((line) => { line.steps = chart.steps[line.steps]; }); // many share theirs
  const plot = figure.querySelector(".plot");
  const cursor = figure.querySelector(".cursor");
  const tip = figure.querySelector(".tip");
  const curves = Array.from(figure.querySelectorAll(".curve:not(.dots)"));
  const steps = Array.from(new Set(chart.lines.flatMap((line) => line.steps))).sort((a, b) => a - b);
  let at = steps.length - 1;

  function row(line, index) {
    const item = document.createElement("div");
    const key = document.createElement("span");
    key.className = `key ${curves[index].classList[1]}`;
    key.style.cssText = curves[index].style.cssText;
    const name = document.createElement("bdi");
    name.textContent = line.name;
    const value = document.createElement("span");
    value.textContent = shortNumber(line.values[nearestIndex(line.steps, steps[at])]);
    item.append(key, name, value);
    return item;
  }

  function show(index) {
    at = Math.max(0, Math.min(steps.length - 1, index));
    const place = (steps[at] - chart.first) / (chart.last - chart.first);
    const heading = document.createElement("b");
    heading.textContent = `step ${steps[at]}`;
    const seen = chart.lines.map((line, i) => ({ line, i }))
      .filter(({ i }) => !curves[i].hasAttribute("hidden"));
    const rows = seen.map(({ line, i }) => row(line, i));
    if (rows.length > 6) {
      rows.sort((a, b) => Number(b.lastChild.textContent) - Number(a.lastChild.textContent));
    }
    tip.replaceChildren(heading, ...rows);
    tip.hidden = cursor.hidden = false;
    cursor.style.left = `${100 * place}%`;
    tip.style.left = place > 0.5 ? "auto" : `calc(${100 * place}% + .5rem)`;
    tip.style.right = place > 0.5 ? `calc(${100 * (1 - place)}% + .5rem)` : "auto";
  }
  function hide() { tip.hidden = cursor.hidden = true; }

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const step = chart.first + (event.clientX - box.left) / box.width * (chart.last - chart.first);
    show(nearestIndex(steps, step));
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("focus", () => { if (plot.matches(":focus-visible")) show(at); });
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: steps.length - 1 };
    if (!(event.key in move)) return;
    event.preventDefault();
    show(move[event.key]);
    plot.setAttribute("aria-label", tip.innerText.replaceAll("\n", ", "));
  });

  const buttons = figure.querySelectorAll(".legend button[data-line]");
  function toggle(button, on) {
    button.setAttribute("aria-pressed", String(on));
    figure.querySelectorAll(`.curve[data-line="${button.dataset.line}"]`)
      .forEach((curve) => curve.toggleAttribute("hidden", !on));
  }
  buttons.forEach((button) => {
    const curve = curves[button.dataset.line];
    button.addEventListener("click", () => toggle(button, button.getAttribute("aria-pressed") !== "true"));
    button.addEventListener("pointerenter", () => curve.classList.add("strong"));
    button.addEventListener("pointerleave", () => curve.classList.remove("strong"));
  });
  figure.querySelectorAll(".legend button[data-all]").forEach((all) => {
    all.addEventListener("click", () => buttons.forEach((one) => toggle(one, all.dataset.all === "true")));
  });
}
document.querySelectorAll("[data-chart]").forEach(makeChart);
