// The gallery: filter, sort, and a window onto as many images as there are; only the cards in sight exist.
let shownRows = everyRow;
let sheet = null;
let layout = { across: 1, width: 0, height: 0 };
let alive = new Map();
let request = 0;

function shownMethods() { return methods.map((_, m) => m).filter((m) => !state.hidden.includes(methods[m].group)); }

function drawGallery(root) {
  const classIds = [...new Set([...run.images.label, ...run.images.prediction])].filter((id) => id !== null).sort((a, b) => className(a).localeCompare(className(b)));
  const metrics = ["image", "key", "probability", ...(run.images.disagreement ? ["disagreement"] : []), ...run.metrics.filter((name) => !imageColumns.includes(name))];
  const update = (change) => { Object.assign(state, change); remember(); select(); };
  let typing = 0;
  const box = make("input", { type: "search", id: "filter", spellcheck: "false", autocomplete: "off", value: state.text,
    placeholder: served ? "SQL: probability < 0.5 and prediction <> label" : "probability < 0.5 and prediction != label, or part of a name",
    oninput: () => { clearTimeout(typing); typing = setTimeout(() => update({ text: box.value }), served ? 300 : 120); } });
  const down = make("button", { type: "button", id: "direction", onclick: () => { update({ down: !state.down }); label(); } });
  const label = () => { down.textContent = state.down ? "↓ high first" : "↑ low first"; };
  label();
  sheet = make("div", { class: "sheet", id: "sheet", role: "list", "aria-label": "Images", onkeydown: walk });
  root.append(
    make("h1", {}, "Gallery"),
    make("div", { class: "tools" },
      make("label", { class: "wide" }, "Filter", box),
      picker("Sort by", metrics.map((name) => [name, words(name)]), metrics.includes(state.sort) ? state.sort : "image", (value) => update({ sort: value }), { id: "sort" }),
      make("fieldset", {}, make("legend", {}, "Order"), down),
      picker("of method", methods.map((each) => [each.group, each.name]), state.method, (value) => update({ method: value }), { id: "method" }),
      picker("Class", [["", "all"], ...classIds.map((id) => [String(id), className(id)])], state.klass, (value) => update({ klass: value }), { id: "class" })),
    make("div", { class: "tools" },
      choice("Prediction", [["all", "all"], ["right", "correct"], ["wrong", "wrong"]], state.correct, (value) => update({ correct: value })),
      choice("Colour scale", [["image", "own"], ["shared", "shared"]], state.scale, (value) => update({ scale: value })),
      make("div", { class: "chips", role: "group", "aria-label": "Columns" }, make("span", { class: "soft small" }, "Original and"),
      methods.map((each) => make("button", { type: "button", title: each.expression, "aria-pressed": String(!state.hidden.includes(each.group)), onclick: (event) => {
        const hidden = state.hidden.includes(each.group) ? state.hidden.filter((group) => group !== each.group) : [...state.hidden, each.group];
        event.currentTarget.setAttribute("aria-pressed", String(!hidden.includes(each.group)));
        update({ hidden });
      } }, each.name)))),
    make("div", { class: "head" },
      make("p", { class: "status soft", id: "status", role: "status" }),
      make("p", { class: "soft small" }, "Red speaks for the target, blue against it; a map without negative parts runs from violet to yellow.")),
    sheet);
  select();
}

async function select() {
  const status = byId("status");
  const mine = (request += 1);
  const asking = served && looksLikeSql(state.text) ? setTimeout(() => { status.textContent = "Asking …"; }, 150) : 0;
  try {
    let rows = served ? await selectOnServer() : filterRows(everyRow, state.text, state.method);
    if (mine !== request) return; // a newer choice is under way
    if (state.klass !== "") rows = rows.filter((row) => String(run.images.label[row] ?? run.images.prediction[row]) === state.klass);
    if (state.correct !== "all") rows = rows.filter(state.correct === "right" ? isRight : isWrong);
    const values = column(state.sort, state.method);
    if (values && !(state.sort === "image" && !state.down)) rows = ordered(rows, values, state.down);
    shownRows = rows;
    status.classList.remove("problem");
    status.textContent = rows.length === count ? `${whole(count)} images` : `${whole(rows.length)} of ${whole(count)} images`;
  } catch (problem) {
    if (mine !== request) return;
    status.classList.add("problem");
    status.textContent = `Filter: ${problem.message}`;
    return;
  } finally { clearTimeout(asking); }
  arrange();
  if (byId("viewer").open) { amongNeighbours(); drawViewer(); }
}
async function selectOnServer() {
  if (!state.text.trim() || !looksLikeSql(state.text)) return filterRows(everyRow, state.text, state.method);
  const answer = await fetch(`select?${new URLSearchParams({ where: state.text, method: state.method })}`);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  const wanted = new Set(found.images);
  return everyRow.filter((row) => wanted.has(run.images.image[row]));
}

function arrange() {
  const gap = 14, room = sheet.clientWidth;
  const columns = 1 + shownMethods().length;
  const perLine = Math.min(columns, 4);
  const wanted = Math.min(room, perLine * 104 + 18);
  const across = Math.max(1, Math.floor((room + gap) / (wanted + gap)));
  const width = Math.floor((room - gap * (across - 1)) / across);
  const side = (width - 18 - 2 * (perLine - 1)) / perLine;
  layout = { across, width, gap, height: Math.round(Math.ceil(columns / perLine) * (side + 2) + 70) };
  sheet.style.height = `${Math.ceil(shownRows.length / across) * (layout.height + gap)}px`;
  for (const node of alive.values()) node.remove();
  alive = new Map();
  sheet.querySelector(".nothing")?.remove();
  if (!shownRows.length && count) sheet.append(make("div", { class: "nothing soft" }, make("p", {}, "No image is like this."),
    make("button", { type: "button", onclick: () => go("gallery", {}) }, "Show all images")));
  if (!count) sheet.append(make("p", { class: "nothing soft" }, "No image is done yet: this page knows the run as it was when the report was written."));
  fill();
}
function fill() {
  if (!sheet || byId("gallery").hidden) return;
  const top = sheet.getBoundingClientRect().top;
  const pitch = layout.height + layout.gap;
  const first = Math.max(0, Math.floor(-top / pitch) - 2) * layout.across;
  const last = Math.min(shownRows.length, (Math.ceil((innerHeight - top) / pitch) + 2) * layout.across);
  for (const [position, node] of alive) {
    if ((position < first || position >= last) && !node.contains(document.activeElement)) { node.remove(); alive.delete(position); }
  }
  const columns = shownMethods();
  const metric = ["image", "key", "probability"].includes(state.sort) ? null : column(state.sort, state.method);
  for (let position = first; position < last; position += 1) {
    if (alive.has(position)) continue;
    const row = shownRows[position];
    const node = card(row, columns, state.scale, metric ? `${words(state.sort)} ${figure(metric[row])}` : null, () => openViewer(shownRows, position));
    Object.assign(node.style, { width: `${layout.width}px`, height: `${layout.height}px`, left: `${(position % layout.across) * (layout.width + layout.gap)}px`, top: `${Math.floor(position / layout.across) * pitch}px` });
    node.dataset.position = position;
    const item = make("div", { role: "listitem", "aria-posinset": position + 1, "aria-setsize": shownRows.length }, node);
    alive.set(position, item);
    const after = [...alive.keys()].filter((each) => each > position).sort((a, b) => a - b)[0];
    sheet.insertBefore(item, after === undefined ? null : alive.get(after)); // tab order is reading order
  }
}
// Arrow keys walk from card to card, and bring the next ones into being.
function walk(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: layout.across, ArrowUp: -layout.across }[event.key];
  const from = Number(event.target.dataset?.position);
  if (!step || Number.isNaN(from)) return;
  const to = Math.max(0, Math.min(shownRows.length - 1, from + step));
  event.preventDefault();
  const offset = sheet.getBoundingClientRect().top + scrollY + Math.floor(to / layout.across) * (layout.height + layout.gap);
  if (offset < scrollY + 70 || offset + layout.height > scrollY + innerHeight) scrollTo(0, offset - innerHeight / 2 + layout.height / 2);
  fill();
  alive.get(to)?.firstChild.focus({ preventScroll: true });
}
