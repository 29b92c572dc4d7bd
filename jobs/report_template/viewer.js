// One image large, every method beside it, all its numbers; arrow keys go to its neighbours in the order of the view behind.
// The image is in the address: it can be sent, and the browser's way back closes it.
let viewed = { rows: [], at: 0 };

function openViewer(rows, at) {
  viewed = { ...viewed, rows, at };
  state.image = run.images.image[rows[at]];
  history.pushState({ opened: true }, "", addressOf(current(), state));
  showViewer();
}
function showViewer() {
  drawViewer();
  const dialog = byId("viewer");
  if (!dialog.open) { dialog.showModal(); dialog.querySelector('[data-name="close"]').focus(); }
}
// What the address says: opened by a link, or by going forward or back.
function followAddress() {
  const row = run.images.image.indexOf(state.image);
  const dialog = byId("viewer");
  if (row < 0) { if (dialog.open) dialog.close(); return; }
  if (dialog.open && viewed.rows[viewed.at] === row) return;
  viewed = { ...viewed, rows: [row], at: 0 };
  amongNeighbours();
  showViewer();
}
// The images that the gallery shows are the neighbours of the one opened.
function amongNeighbours() {
  const at = current() === "gallery" ? shownRows.indexOf(viewed.rows[viewed.at]) : -1;
  if (at >= 0) viewed = { ...viewed, rows: shownRows, at };
}
function closed() {
  if (state.image < 0) return;
  state.image = -1;
  if (history.state?.opened) history.back(); else remember();
}
function drawViewer() {
  const row = viewed.rows[viewed.at];
  const dialog = byId("viewer");
  const step = (by) => { viewed.at = Math.max(0, Math.min(viewed.rows.length - 1, viewed.at + by)); state.image = run.images.image[viewed.rows[viewed.at]]; remember(); drawViewer(); };
  dialog.onkeydown = (event) => { if (event.key === "ArrowRight") step(1); else if (event.key === "ArrowLeft") step(-1); };
  const label = run.images.label[row];
  const verdict = `Predicted ${className(run.images.prediction[row])}, ${probability(run.images.probability[row])}` + (label === null ? "" : isWrong(row) ? `; it is ${className(label)}` : "; correct");
  const focused = dialog.contains(document.activeElement) ? document.activeElement.dataset.name : null;
  const button = (name, text, act, off = false) => make("button", { type: "button", "data-name": name, onclick: act, disabled: off }, text);
  dialog.replaceChildren(
    make("div", { class: "head stay" },
      make("div", { class: "grow" }, make("h1", { id: "viewer-title" }, run.images.key[row]), make("p", { class: isWrong(row) ? "wrong" : "soft" }, verdict)),
      make("div", { class: "buttons" }, button("previous", "← Previous", () => step(-1), viewed.at === 0), button("next", "Next →", () => step(1), viewed.at === viewed.rows.length - 1), button("close", "Close", () => dialog.close()))),
    make("div", { class: "tools" }, choice("Colour scale", [["image", "own"], ["shared", "shared over all images"]], state.scale, (value) => { state.scale = value; remember(); if (current() === "gallery") select(); drawViewer(); }),
      served ? choice("Drawn as", [["overlay", "overlay"], ["heat", "heat map"]], viewed.style ?? "overlay", (value) => { viewed.style = value; drawViewer(); }) : null),
    make("div", { class: "figures" }, figures(row)),
    make("div", { class: "scroll" }, numbers(row)));
  (focused && dialog.querySelector(`[data-name="${focused}"]:not(:disabled)`))?.focus();
}
function figures(row) {
  const image = run.images.image[row];
  const name = run.images.key[row];
  const small = cells(row, methods.map((_, m) => m), state.scale);
  const large = (source, alt) => make("div", { class: "cell" }, make("img", { src: source, alt, style: { width: "100%" } }));
  const pictures = !served ? small : [large(`original/${image}.png`, `photograph ${name}`)].concat(
    methods.map((each) => large(`map/${encodeURIComponent(each.group)}/${image}.png?scale=${state.scale}&style=${viewed.style ?? "overlay"}`, `${each.name} of ${name}`)));
  return pictures.map((picture, i) => make("figure", {}, picture, make("figcaption", {}, i === 0 ? `image ${image}` : methods[i - 1].expression)));
}
function numbers(row) {
  const rows = run.metrics.filter((metric) => !imageColumns.includes(metric) && methods.some((each) => (column(metric, each.group) ?? [])[row] !== null));
  return make("table", {},
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Metric"), methods.map((each) => make("th", { class: "number", scope: "col" }, each.name)))),
    make("tbody", {}, rows.map((metric) => make("tr", {}, make("th", { scope: "row" }, words(metric)), methods.map((each) => make("td", { class: "number" }, figure((column(metric, each.group) ?? [])[row])))))));
}
