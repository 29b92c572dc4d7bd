// Views and what they share. The state is in the address, so that a view can be bookmarked and sent.
const views = { overview: drawOverview, distributions: drawDistributions, classes: drawClasses, gallery: drawGallery };
const fresh = () => ({ text: "", sort: "image", down: false, method: methods[0]?.group ?? "", klass: "", correct: "all", scale: "image", hidden: [], metric: "abs_sum" });
let state = fresh();

function remember() {
  const changed = Object.entries(state).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(fresh()[name]));
  const text = changed.length ? `?${new URLSearchParams(changed.map(([name, value]) => [name, JSON.stringify(value)]))}` : "";
  history.replaceState(null, "", `#${current()}${text}`);
}
function recall() {
  state = fresh();
  for (const [name, value] of new URLSearchParams(location.hash.split("?")[1] ?? "")) {
    try { const read = JSON.parse(value); if (name in state && typeof read === typeof state[name]) state[name] = read; } catch { /* a bookmark of another report */ }
  }
  if (!methods.some((each) => each.group === state.method)) state.method = fresh().method;
  if (!Array.isArray(state.hidden)) state.hidden = [];
}
const current = () => { const name = location.hash.slice(1).split("?")[0]; return name in views ? name : "overview"; };

function go(view, change) {
  const next = { ...fresh(), scale: state.scale, hidden: state.hidden, metric: state.metric, ...change };
  const changed = Object.entries(next).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(fresh()[name]));
  byId("viewer").close();
  location.hash = `#${view}?${new URLSearchParams(changed.map(([name, value]) => [name, JSON.stringify(value)]))}`;
}
function draw() {
  recall();
  for (const [name, drawView] of Object.entries(views)) {
    const root = byId(name);
    root.hidden = name !== current();
    root.replaceChildren();
    if (!root.hidden) drawView(root);
  }
  for (const link of byId("tabs").children) {
    if (link.dataset.view === current()) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
}
function theme(choice) {
  const dark = choice ?? matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}
theme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme());
byId("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme !== "dark"));
byId("brand").append("Ascribe ", make("span", {}, run.title));
byId("tabs").append(...Object.keys(views).map((name) => make("a", { href: `#${name}`, "data-view": name }, name[0].toUpperCase() + name.slice(1))));
addEventListener("hashchange", () => { scrollTo(0, 0); draw(); });
addEventListener("scroll", () => requestAnimationFrame(fill), { passive: true });
let resized = 0;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { if (!byId("gallery").hidden) arrange(); }, 100); });
draw();
document.documentElement.dataset.ready = "true";
