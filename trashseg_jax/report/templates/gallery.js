// The pictures: which are shown, how opaque what is laid over them is, one of them enlarged.

const gallery = document.getElementById("gallery");
const shots = gallery ? Array.from(gallery.children) : [];
const shotOf = new Map(shots.map((shot) => [Number(shot.dataset.place), shot]));

function classScore(place, label) {
  return data.images[place].classes.find((one) => one[0] === label);
}

function placesFor(filter) {
  const [kind, value] = [filter.split(":", 1)[0], filter.slice(filter.indexOf(":") + 1)];
  if (kind === "group") return data.groups[value];
  const all = shots.map((shot) => Number(shot.dataset.place)).sort((a, b) => data.shown[a] - data.shown[b]);
  if (kind !== "class") return all;
  const label = Number(value);
  return all.filter((place) => classScore(place, label))
    .sort((a, b) => classScore(a, label)[1] - classScore(b, label)[1]);
}

function showPlaces(filter) {
  const places = placesFor(filter);
  const label = filter.startsWith("class:") ? Number(filter.slice(6)) : null;
  shots.forEach((shot) => { shot.hidden = true; });
  places.forEach((place) => {
    const shot = shotOf.get(place);
    shot.hidden = false;
    gallery.append(shot);
    const score = label === null ? data.images[place].iou : classScore(place, label)[1];
    shot.querySelector(".iou").textContent = score === null ? "–" : score.toFixed(3).replace(/^0/, "");
  });
  document.getElementById("none-shown").hidden = places.length > 0;
}

let opened = null;
const viewer = document.getElementById("viewer");
const order = () => Array.from(gallery.children).filter((shot) => !shot.hidden);

function openImage(place) {
  const shot = shotOf.get(Number(place));
  opened = shot;
  const about = data.images[place];
  document.getElementById("viewer-name").textContent = data.files[place];
  const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);
  document.getElementById("viewer-facts").textContent =
    `mean IoU ${about.iou ?? "–"}, ${percent(about.accuracy)} of the pixels right`;
  const panels = Array.from(shot.querySelectorAll("img"), (image) => {
    const panel = document.createElement("figure");
    const copy = image.cloneNode();
    const size = shot.querySelector(".stack").style;
    copy.style.aspectRatio = `${size.getPropertyValue("--width")} / ${size.getPropertyValue("--height")}`;
    const caption = document.createElement("figcaption");
    caption.textContent = image.classList.contains("photo") ? "photograph" : image.alt;
    panel.append(copy, caption);
    return panel;
  });
  document.getElementById("viewer-panels").replaceChildren(...panels);
  const rows = about.classes.map(([label, iou, truth, predicted]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.setProperty("--color", data.colors[label]);
    const name = document.createElement("bdi");
    name.textContent = data.names[label];
    head.append(swatch, name);
    row.append(head);
    for (const value of [iou.toFixed(3), truth.toLocaleString("en"), predicted.toLocaleString("en")]) {
      row.insertCell().textContent = value;
    }
    return row;
  });
  document.querySelector("#viewer-classes tbody").replaceChildren(...rows);
  if (!viewer.open) viewer.showModal();
  viewer.scrollTop = 0;
}

function step(by) {
  const shown = order();
  const next = shown[shown.indexOf(opened) + by];
  if (next) openImage(next.dataset.place);
}

if (gallery) {
  document.getElementById("filter").addEventListener("change", (event) => showPlaces(event.target.value));
  document.getElementById("blend").addEventListener("input", (event) => {
    gallery.style.setProperty("--blend", event.target.value / 100);
  });
  gallery.addEventListener("click", (event) => {
    const frame = event.target.closest(".frame");
    if (frame) openImage(frame.closest(".shot").dataset.place);
  });
  document.getElementById("viewer-back").addEventListener("click", () => step(-1));
  document.getElementById("viewer-next").addEventListener("click", () => step(1));
  document.getElementById("viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  document.querySelectorAll('#image-table a[href^="#image-"]').forEach((link) => {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      openImage(link.hash.slice("#image-".length));
    });
  });
}
