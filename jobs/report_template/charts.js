// Charts as SVG, in the page's colours, readable as text where a chart alone would not be.
function lineChart(points, { x, y, label }) {
  const [width, height, left, bottom] = [520, 170, 44, 22];
  const [x0, x1] = [points[0][0], points[points.length - 1][0] || 1];
  const top = Math.max(...points.map((point) => point[1])) || 1;
  const px = (value) => left + ((width - left) * (value - x0)) / (x1 - x0 || 1);
  const py = (value) => (height - bottom) * (1 - value / top) + 4;
  const path = points.map((point, i) => `${i ? "L" : "M"}${px(point[0]).toFixed(1)},${py(point[1]).toFixed(1)}`).join("");
  const floor = py(0).toFixed(1);
  return make("svg", { viewBox: `0 0 ${width} ${height + 8}`, role: "img", "aria-label": label },
    make("path", { class: "area", d: `${path}L${px(x1)},${floor}L${px(x0)},${floor}Z` }),
    make("path", { class: "line", d: path }),
    make("line", { class: "axis", x1: left, x2: width, y1: floor, y2: floor }),
    make("text", { x: left - 6, y: py(top) + 4, "text-anchor": "end" }, y(top)),
    make("text", { x: left - 6, y: floor, "text-anchor": "end" }, y(0)),
    make("text", { x: left, y: height + 6 }, x(x0)),
    make("text", { x: width, y: height + 6, "text-anchor": "end" }, x(x1)));
}

// Bins between the outer percentiles; what lies beyond is counted in the outermost bins, so that one outlier does not flatten the rest.
function bins(values, wanted = 36) {
  const known = values.filter((value) => value !== null && Number.isFinite(value)).sort((a, b) => a - b);
  if (!known.length) return null;
  const low = quantile(known, 0.005), high = quantile(known, 0.995);
  const size = low === high ? 1 : Math.min(wanted, Math.max(8, Math.ceil(Math.sqrt(known.length))));
  const counts = new Array(size).fill(0);
  for (const value of known) counts[Math.max(0, Math.min(size - 1, Math.floor(((value - low) / (high - low || 1)) * size)))] += 1;
  return { known, low, high, counts, edge: (i) => low + ((high - low) * i) / size };
}
function quantile(sorted, share) {
  const at = (sorted.length - 1) * share;
  const below = Math.floor(at);
  return sorted[below] + (at - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}
function histogram(found, label, pick) {
  const [width, height] = [340, 110];
  const { counts, edge } = found;
  const top = Math.max(...counts);
  const step = width / counts.length;
  const bars = make("svg", { viewBox: `0 0 ${width} ${height + 2}`, role: "group", "aria-label": label },
    counts.map((number, i) => number === 0 ? null : make("rect", {
      class: "bin", x: (i * step + 0.5).toFixed(2), width: Math.max(1, step - 1).toFixed(2), rx: 1,
      y: (height - Math.max(2, (height * number) / top)).toFixed(2), height: Math.max(2, (height * number) / top).toFixed(2),
      tabindex: 0, role: "button", "aria-label": `${number} images from ${figure(edge(i))} to ${figure(edge(i + 1))}`,
      onclick: () => pick(i), onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(i); } },
    }, make("title", {}, `${whole(number)} images, ${figure(edge(i))} … ${figure(edge(i + 1))}`))),
    make("line", { class: "axis", x1: 0, x2: width, y1: height + 0.5, y2: height + 0.5 }));
  return [bars, make("div", { class: "ends number" }, make("span", {}, figure(found.low)), make("span", {}, figure(found.high)))];
}
function boxPlot(five, low, high) {
  const at = (value) => (4 + (232 * (Math.max(low, Math.min(high, value)) - low)) / (high - low || 1)).toFixed(1);
  return make("svg", { viewBox: "0 0 240 16", "aria-hidden": "true", style: { minWidth: "8rem" } },
    make("line", { class: "whisker", x1: at(five[0]), x2: at(five[4]), y1: 8, y2: 8 }),
    make("rect", { class: "box", x: at(five[1]), y: 2, width: Math.max(1, at(five[3]) - at(five[1])), height: 12, rx: 2 }),
    make("line", { class: "whisker", x1: at(five[2]), x2: at(five[2]), y1: 2, y2: 14, "stroke-width": 2 }));
}
