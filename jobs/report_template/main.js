// Views and what they share. The state is in the address, so that a view can be bookmarked and sent.
const views = { overview: drawOverview, distributions: drawDistributions, classes: drawClasses, gallery: drawGallery };
const fresh = () => ({ text: "", sort: "image", down: false, method: methods[0]?.group ?? "", klass: "", correct: "all", scale: "image", hidden: [], metric: "abs_sum", image: -1 });
let state = fresh();
let drawn = ""; // the address without its image, as last drawn

function addressOf(view, values) {
  const changed = Object.entries(values).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(fresh()[name]));
  return `#${view}${changed.length ? "?" : ""}${new URLSearchParams(changed.map(([name, value]) => [name, JSON.stringify(value)]))}`;
}
const behind = () => addressOf(current(), { ...state, image: -1 });
function remember() {
  history.replaceState(history.state, "", addressOf(current(), state));
  drawn = behind();
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
  state.image = -1; // what is left behind keeps its address
  byId("viewer").close();
  location.hash = addressOf(view, next);
}
function draw() {
  recall();
  drawn = behind();
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
function arrive() {
  recall();
  if (behind() !== drawn) { scrollTo(0, 0); draw(); }
  followAddress();
}
function theme(choice) {
  const dark = choice ? choice === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}
const kept = (choice) => { try { return choice ? localStorage.setItem("theme", choice) : localStorage.getItem("theme"); } catch { return null; } }; // a browser may forbid it
theme(kept());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(kept()));
byId("theme").addEventListener("click", () => { const choice = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; kept(choice); theme(choice); });
byId("viewer").addEventListener("close", closed);
byId("viewer").addEventListener("click", (event) => { if (event.target === byId("viewer") && !inside(byId("viewer"), event)) byId("viewer").close(); }); // beside it
byId("brand").append("Ascribe ", make("span", {}, run.title));
byId("tabs").append(...Object.keys(views).map((name) => make("a", { href: `#${name}`, "data-view": name }, name[0].toUpperCase() + name.slice(1))));
addEventListener("hashchange", arrive);
addEventListener("scroll", () => requestAnimationFrame(fill), { passive: true });
let resized = 0;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { if (!byId("gallery").hidden) arrange(); }, 100); });
draw();
followAddress();
document.documentElement.dataset.ready = "true";
