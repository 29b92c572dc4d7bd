// The run page: what was asked, how to ask it again, how it went, and the images to look at first.
function drawOverview(root) {
  const tiles = run.tiles.map(([name, value]) => make("div", { class: "tile" }, make("dt", {}, name), make("dd", {}, value)));
  root.append(
    make("div", {}, make("h1", {}, run.title), make("p", { class: "soft" }, run.subtitle)),
    make("dl", { class: "tiles" }, tiles),
    teaser("Worst completeness", "Where the attribution is furthest from the change of the score it should add up to.", "completeness_error", true, (value) => `off by ${figure(value)}`),
    teaser("Methods disagree most", "One minus the mean rank correlation between the maps of one image: 0 where they agree, 1 where they have nothing in common.", "disagreement", true, figure),
    teaser("Least sure", "Lowest probability of the predicted class.", "probability", false, () => null),
    make("div", { class: "pair" }, throughput(), failures()),
    make("div", { class: "card" }, make("h2", {}, "The run"),
      make("dl", { class: "spec" }, run.spec.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
      run.command ? make("h3", {}, "Run it again") : null,
      run.command ? replay(run.command) : null));
}
function replay(command) {
  const button = make("button", { type: "button", onclick: async () => {
    try { await navigator.clipboard.writeText(command); button.textContent = "Copied"; } catch { getSelection().selectAllChildren(code); }
  } }, "Copy");
  const code = make("code", {}, command);
  return make("div", { class: "replay" }, code, button);
}
function teaser(title, why, metric, descending, told) {
  const method = methods.find((each) => column(metric, each.group)?.some((value) => value !== null));
  if (!method) return null;
  const values = column(metric, method.group);
  const first = ordered(everyRow.filter((row) => values[row] !== null), values, descending).slice(0, 4);
  const shown = methods.map((_, m) => m).slice(0, 3);
  const note = metric in run.images ? "" : ` (${method.name})`;
  return make("div", { class: "card" },
    make("div", { class: "head" }, make("h2", {}, title + note),
      make("button", { type: "button", class: "link", onclick: () => go("gallery", { sort: metric, down: descending, method: method.group }) }, "All, in this order")),
    make("p", { class: "soft small" }, why),
    make("div", { class: "teasers" }, first.map((row) => card(row, shown, "image", told(values[row]), (each) => openViewer(first, first.indexOf(each))))));
}
function throughput() {
  const points = run.throughput;
  if (points.length < 2) return make("div", { class: "card" }, make("h2", {}, "Throughput"), make("p", { class: "soft" }, "The run is one unit of work: there is no course over time to draw."));
  const seconds = points[points.length - 1][0] - points[0][0];
  const span = (value) => (value < 120 ? `${figure(Math.round(value))} s` : value < 7200 ? `${(value / 60).toFixed(0)} min` : `${(value / 3600).toFixed(1)} h`);
  return make("div", { class: "card" }, make("h2", {}, "Images done over time"),
    lineChart(points, { x: span, y: whole, label: `${whole(points[points.length - 1][1])} images done in ${span(seconds)}` }));
}
function failures() {
  const reasons = run.failures;
  const body = !reasons.length ? make("p", { class: "soft" }, "None: every image has an answer from every method.") :
    make("div", { class: "scroll" }, make("table", {},
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Reason"), make("th", { scope: "col" }, "Stage"), make("th", { class: "number", scope: "col" }, "Images"))),
      make("tbody", {}, reasons.map((each) => make("tr", {}, make("td", {}, each.error, make("div", { class: "soft small" }, `e.g. ${each.key}`)), make("td", {}, each.stage), make("td", { class: "number" }, whole(each.count)))))));
  return make("div", { class: "card" }, make("h2", {}, "Failures by reason"), body);
}
