// Classes: how well each is recognised, its mean map, and how much of the attribution lies where no object should be.
function drawClasses(root) {
  const method = () => methods.find((each) => each.group === state.method) ?? methods[0];
  const holder = make("div", { class: "scroll" });
  const box = make("input", { type: "search", id: "class-filter", placeholder: "part of a name", autocomplete: "off", spellcheck: "false", oninput: () => draw() });
  const looked = run.perClass.some((line) => Object.keys(line.places).length);
  const order = { by: "border", down: true };
  let lines = 100; // at first: a thousand rows take seconds to draw
  const columns = [
    ["name", "Class", (line) => className(line.id)], ["n", "Images", (line) => line.n], ["right", "Correct", (line) => line.right],
    ["border", "Border", (line) => line.places[method().group]?.border_share?.[0] ?? null],
    ["corner", "Corners", (line) => line.places[method().group]?.corner_share?.[0] ?? null],
    ["centre", "Centre", (line) => line.places[method().group]?.centre_share?.[0] ?? null],
  ];
  function draw() {
    const read = columns.find(([key]) => key === order.by)[2];
    const values = run.perClass.map(read);
    const needle = box.value.trim().toLowerCase();
    const named = run.perClass.map((_, i) => i).filter((i) => className(run.perClass[i].id).toLowerCase().includes(needle));
    const sorted = ordered(named, values, order.down).map((i) => run.perClass[i]);
    holder.replaceChildren(make("table", { id: "class-table" },
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Map"), columns.map(([key, title]) => make("th", { scope: "col", class: key === "n" || key === "right" ? "number wide-only" : null, "aria-sort": order.by === key ? (order.down ? "descending" : "ascending") : null },
        make("button", { type: "button", onclick: () => { order.down = order.by === key ? !order.down : key !== "name"; order.by = key; draw(); } }, title, order.by === key ? (order.down ? " ↓" : " ↑") : ""))))),
      make("tbody", {}, sorted.slice(0, lines).map(classLine))),
      sorted.length > lines ? make("p", {}, make("button", { type: "button", id: "all-classes", onclick: () => { lines = sorted.length; draw(); } }, `Show all ${whole(sorted.length)} classes`)) : "",
      sorted.length ? "" : make("p", { class: "soft" }, needle ? "No class has this in its name." : "No image with a class is done yet."));
  }
  function classLine(line) {
    const m = methods.indexOf(method());
    const places = line.places[method().group] ?? {};
    return make("tr", {},
      make("td", {}, line.hasMeans ? make("div", { class: "mean" }, cell(`thumbs/class/${line.id}.jpg`, m, methods.length, `mean map of ${className(line.id)}, ${method().name}`)) : null),
      make("td", {}, make("button", { type: "button", class: "link", onclick: () => go("gallery", { klass: String(line.id) }) }, className(line.id)),
        make("div", { class: "soft small phone-only" }, `${whole(line.n)} ${line.n === 1 ? "image" : "images"}${line.right === null ? "" : `, ${percent(line.right)} correct`}`)),
      make("td", { class: "number wide-only" }, whole(line.n)), make("td", { class: "number wide-only" }, percent(line.right)),
      ["border_share", "corner_share", "centre_share"].map((place) => make("td", { class: "number" }, places[place] ? share(places[place], run.areas[place]) : "–")));
  }
  function share([mean, low, high], area) {
    const interval = low === null ? "" : `, 95 % interval ${percent(low)} to ${percent(high)}`;
    return make("div", { title: `${percent(mean)}${interval}; ${percent(area)} of the area` }, percent(mean),
      make("div", { class: "meter" }, make("i", { style: { width: `${100 * Math.min(1, mean)}%` } }), make("b", { style: { left: `${100 * area}%` } })));
  }
  root.append(...[
    make("div", { class: "head" }, make("h1", {}, "Classes"),
      make("div", { class: "tools" }, make("label", {}, "Class", box), picker("Method", methods.map((each) => [each.group, each.name]), method().group, (value) => { state.method = value; draw(); }))),
    looked ? null : make("p", { class: "card" }, "Shares and mean maps come with the command report, which looks at every map once and keeps what it found with the run. This run has none yet."),
    make("p", { class: "soft" }, "Share of the absolute attribution in the border (outer tenth), the corners (fifth by fifth) and the centre (inner half by half). ",
      "The mark is the share of the area: far above it in border or corners, the model may be reading a frame, a tag or a watermark."),
    make("div", { class: "card" }, holder)].filter(Boolean));
  draw();
}
