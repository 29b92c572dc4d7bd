// The payload, and how elements are made: text only ever becomes text, so a file name cannot become markup.
const run = JSON.parse(document.getElementById("payload").textContent);
const served = run.mode === "serve";
const count = run.images.image.length;
const methods = run.methods;
const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "rect", "line", "text", "g", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false).map(String2Node));
  return node;
}
function String2Node(child) { return child instanceof Node ? child : document.createTextNode(String(child)); }

const plain = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
function figure(value) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(2);
  return plain.format(value);
}
const whole = (value) => new Intl.NumberFormat("en").format(value);
const percentWith = (digits) => (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)}\u00a0%`);
const percent = percentWith(0), probability = percentWith(1);
const className = (id) => (id === null || id === undefined ? "no label" : run.classes[id] ? `${run.classes[id]}` : `class ${id}`);
const inside = (node, event) => { const box = node.getBoundingClientRect(); return event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom; };
const words = (name) => name.replaceAll("_", " ");

// A row is the position of an image in the payload; a column is one value a row, of the image or of one method.
const imageColumns = ["image", "key", "label", "prediction", "probability", "disagreement"];
function column(name, method) {
  if (name === "label_name") return run.images.label.map(className);
  if (name === "prediction_name") return run.images.prediction.map(className);
  if (name in run.images) return run.images[name];
  const values = run.values[method];
  return values && name in values ? values[name] : null;
}
const isWrong = (row) => run.images.label[row] !== null && run.images.prediction[row] !== null && run.images.label[row] !== run.images.prediction[row];
const isRight = (row) => run.images.label[row] !== null && run.images.label[row] === run.images.prediction[row];

// Rows ordered by a column; rows without a value come last in both directions.
function ordered(rows, values, descending) {
  const known = rows.filter((row) => values[row] !== null && values[row] !== undefined);
  const sign = descending ? -1 : 1;
  const text = typeof values[known[0]] === "string";
  known.sort((a, b) => sign * (text ? values[a].localeCompare(values[b]) : values[a] - values[b]) || a - b);
  return known.concat(rows.filter((row) => values[row] === null || values[row] === undefined));
}
const everyRow = Array.from({ length: count }, (_, row) => row);

// One picture file holds an image and all its maps side by side; a cell is a window on it.
function stripSource(row) {
  const image = run.images.image[row];
  return served ? `strip/${image}.jpg` : `thumbs/${Math.floor(image / 1000)}/${image}.jpg`;
}
function cell(source, position, total, alt) {
  return make("div", { class: "cell" }, make("img", {
    src: source, alt, decoding: "async", loading: "lazy", draggable: "false",
    style: { width: `${100 * total}%`, transform: `translateX(${(-100 * position) / total}%)` },
  }));
}
function cells(row, shown, scale) {
  const total = 1 + 2 * methods.length;
  const name = run.images.key[row];
  const offset = 1 + (scale === "shared" ? methods.length : 0);
  return [cell(stripSource(row), 0, total, `photograph ${name}`)].concat(
    shown.map((m) => cell(stripSource(row), offset + m, total, `${methods[m].name} of ${name}`)));
}

// What a card says under its pictures; `told` is the number for which it is shown.
function caption(row, told) {
  const wrong = isWrong(row);
  return [
    make("div", { class: "line1" },
      make("span", { class: "grow" }, className(run.images.prediction[row])),
      make("span", { class: "number" }, probability(run.images.probability[row]))),
    make("div", { class: "line2" },
      make("span", { class: wrong ? "grow wrong" : "grow" }, wrong ? `✕ is ${className(run.images.label[row])}` : run.images.key[row]),
      told === null ? null : make("span", { class: "number" }, told)),
  ];
}
function card(row, shown, scale, told, open) {
  return make("button", { type: "button", class: "photo", title: run.images.key[row], onclick: () => open(row) },
    make("div", { class: "strip", style: { gridTemplateColumns: `repeat(${Math.min(1 + shown.length, 4)}, minmax(0, 1fr))` } }, cells(row, shown, scale)),
    caption(row, told));
}
function choice(label, options, current, choose) {
  const buttons = options.map(([value, text]) => make("button", { type: "button", "aria-pressed": String(value === current),
    onclick: (event) => { for (const each of buttons) each.setAttribute("aria-pressed", String(each === event.currentTarget)); choose(value); } }, text));
  return make("fieldset", {}, make("legend", {}, label), make("div", { class: "choice" }, buttons));
}
function picker(label, options, current, choose, extra = {}) {
  const select = make("select", { ...extra, onchange: (event) => choose(event.target.value) },
    options.map(([value, text]) => make("option", { value }, text)));
  select.value = String(current);
  return make("label", {}, label, select);
}
