// One metric at a time: its distribution for each method, the images at both ends, and its spread by class.
function drawDistributions(root) {
  const body = make("div", { style: { display: "grid", gap: "1.5rem" } });
  const available = run.metrics.filter((metric) => methods.some((each) => (column(metric, each.group) ?? []).some((value) => value !== null)));
  const draw = (metric) => { state.metric = metric; body.replaceChildren(histograms(metric), byClass(metric)); };
  root.append(
    make("div", { class: "head" }, make("h1", {}, "Distributions"),
      make("div", { class: "tools" }, picker("Metric", available.map((name) => [name, words(name)]), available.includes(state.metric) ? state.metric : available[0], draw, { id: "metric" }))),
    make("p", { class: "soft" }, "Each bar is a set of images: choose one to see them. The outermost bars also hold what lies beyond the scale."),
    body);
  if (available.length) draw(available.includes(state.metric) ? state.metric : available[0]);
}
function histograms(metric) {
  const whose = imageColumns.includes(metric) ? methods.slice(0, 1) : methods;
  return make("div", { class: "trio" }, whose.map((method) => {
    const values = column(metric, method.group);
    const found = values && bins(values);
    if (!found) return null;
    const last = found.counts.length - 1;
    const pick = (i) => go("gallery", { method: method.group, sort: metric, down: false, text:
      last === 0 ? "" : i === 0 ? `${metric} < ${found.edge(1)}` : i === last ? `${metric} >= ${found.edge(i)}` : `${metric} >= ${found.edge(i)} and ${metric} < ${found.edge(i + 1)}` });
    const sortedRows = ordered(everyRow.filter((row) => values[row] !== null), values, false);
    const ends = sortedRows.length > 6 ? sortedRows.slice(0, 2).concat(sortedRows.slice(-2)) : sortedRows.slice(0, 4);
    const spread = run.overall[method.group]?.[metric];
    return make("div", { class: "card" },
      make("h3", {}, imageColumns.includes(metric) ? words(metric) : method.expression),
      histogram(found, `Distribution of ${words(metric)}, ${method.name}`, pick),
      make("p", { class: "soft small number" }, `Median ${figure(quantile(found.known, 0.5))}, middle half ${range(quantile(found.known, 0.25), quantile(found.known, 0.75))}.`,
        spread ? ` Mean ${figure(spread[0])}${spread[1] === null ? "" : `, 95\u00a0% interval ${range(spread[1], spread[2])}`}.` : ""),
      make("p", { class: "soft small" }, "Lowest and highest"),
      make("div", { class: "teasers" }, ends.map((row) => card(row, [methods.indexOf(method)], "image", figure(values[row]), (each) => openViewer(ends, ends.indexOf(each))))));
  }));
}
const range = (low, high) => `${figure(low)}\u00a0to\u00a0${figure(high)}`;
function byClass(metric) {
  const method = methods.find((each) => column(metric, each.group));
  const values = column(metric, method.group);
  const groups = new Map();
  for (const row of everyRow) {
    if (values[row] === null) continue;
    const id = run.images.label[row] ?? run.images.prediction[row];
    if (!groups.has(id)) groups.set(id, []);
    groups.get(id).push(values[row]);
  }
  const lines = [...groups].filter(([, list]) => list.length > 1)
    .map(([id, list]) => { list.sort((a, b) => a - b); return { id, n: list.length, five: [0.05, 0.25, 0.5, 0.75, 0.95].map((share) => quantile(list, share)) }; })
    .sort((a, b) => b.five[2] - a.five[2]);
  if (!lines.length) return make("p", { class: "soft" }, "No class has two images: there is no spread by class to show.");
  const limits = bins(values);
  return make("div", { class: "card" }, make("h2", {}, `By class${imageColumns.includes(metric) ? "" : ` (${method.name})`}`),
    make("div", { class: "scroll" }, make("table", {},
      make("thead", {}, make("tr", {}, ["Class", "Images", "5 to 95 %, middle half, median", "Median"].map((name, i) => make("th", { scope: "col", class: i === 1 || i === 3 ? "number" : null }, name)))),
      make("tbody", {}, lines.slice(0, 200).map((line) => make("tr", {},
        make("td", {}, make("button", { type: "button", class: "link", onclick: () => go("gallery", { klass: String(line.id), sort: metric, method: method.group }) }, className(line.id))),
        make("td", { class: "number" }, whole(line.n)), make("td", {}, boxPlot(line.five, limits.low, limits.high)), make("td", { class: "number" }, figure(line.five[2]))))))),
    lines.length > 200 ? make("p", { class: "soft small" }, `The 200 classes of the highest median, of ${whole(lines.length)}.`) : null);
}
