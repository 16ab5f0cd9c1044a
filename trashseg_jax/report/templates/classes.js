// The published experiment that the classes are set beside.

document.getElementById("published")?.addEventListener("change", (event) => {
  const values = data.published[event.target.value];
  document.querySelectorAll("#class-table tbody tr").forEach((row) => {
    const value = values[Number(row.dataset.class)];
    const iou = row.cells[1].dataset.value;
    const change = iou === "" ? null : Number(iou) - value;
    const published = row.querySelector(".published");
    published.dataset.value = value;
    published.textContent = value.toFixed(4).replace(/^0/, "");
    const difference = row.querySelector(".difference");
    difference.dataset.value = change ?? "";
    difference.textContent = change === null ? "–" :
      (change > 0 ? "+" : change < 0 ? "−" : "±") + Math.abs(change).toFixed(4).replace(/^0/, "");
    row.querySelector(".mark").style.left = `${100 * value}%`;
  });
});
