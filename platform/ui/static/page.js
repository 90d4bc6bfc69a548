// The page: which runs are shown, at which generation, and the network that was chosen. It asks the server every two
// seconds; texts of runs are put in as text, never as HTML.
import { at, colour, frontPlot, matrixPlot, measuresOf, onScheme, parallelPlot } from "/static/plots.js";

const EVERY_MS = 2000, STEP_MS = 350, MAX_ROWS = 300;
const $ = (id) => document.getElementById(id);
const state = { runs: [], chosen: [], fronts: new Map(), view: "", x: "", y: "", generation: null, network: null, details: null };
let playing = null;

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (answer.status === 401) throw new Error("This page is locked: open the link that `gennape ui` printed.");
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error ?? content.detail ?? `the server answered ${answer.status}`);
  return content;
}

function tell(problem) {
  $("problem").textContent = problem;
  $("problem").hidden = !problem;
}

// What is shown is kept in the address, so that it survives a reload and can be handed on.
function remember() {
  const parts = new URLSearchParams();
  for (const name of state.chosen) parts.append("run", name);
  for (const name of ["view", "x", "y"]) if (state[name]) parts.set(name, state[name]);
  history.replaceState(null, "", `#${parts}`);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  state.chosen = parts.getAll("run");
  for (const name of ["view", "x", "y"]) state[name] = parts.get(name) ?? "";
}

const shown = () => state.chosen.map((name) => state.fronts.get(name)).filter((front) => front?.networks.length);
const generations = () => Math.max(1, ...shown().map((front) => front.evaluations.length));
const moment = () => Math.min(state.generation ?? Infinity, generations());
const path = (name, rest) => `/api/runs/${encodeURIComponent(name)}/${rest}`;

// Runs ----------------------------------------------------------------------------------------------------------------

function drawRuns() {
  const wanted = $("filter").value.toLowerCase();
  const list = state.runs.filter((run) => `${run.name} ${run.space ?? ""}`.toLowerCase().includes(wanted));
  const focused = document.activeElement?.value;
  $("runs").replaceChildren(...list.map(runItem));
  if (focused && document.activeElement === document.body) {
    [...$("runs").querySelectorAll("input")].find((input) => input.value === focused)?.focus();
  }
  $("no-runs").hidden = state.runs.length > 0;
}

function runItem(run) {
  const item = element("li"), label = element("label"), box = element("input", "", { type: "checkbox" });
  const number = state.chosen.indexOf(run.name);
  box.value = run.name;
  box.checked = number >= 0;
  box.disabled = Boolean(run.problem);
  box.addEventListener("change", () => choose(run.name, box.checked));
  if (number >= 0) {
    label.classList.add("chosen");
    label.style.setProperty("--colour", colour(number));
  }
  label.append(box, element("span", run.name, { class: "name" }));
  if (run.problem) {
    label.append(element("span", run.problem, { class: "about bad" }));
  } else {
    const done = `${run.evaluations.toLocaleString("en")} of ${run.target.toLocaleString("en")} evaluations`;
    const about = element("span", `${run.status}, ${done}`, { class: `about ${run.status}`, title: run.reason });
    label.append(about, element("span", run.objectives, { class: "about" }));
    if (run.status === "running") {
      const bar = element("progress", "", { max: run.target, "aria-label": "Evaluations" });
      bar.value = run.evaluations;
      label.append(element("span"), bar);
    }
  }
  item.append(label);
  return item;
}

function choose(name, on) {
  state.chosen = on ? [...state.chosen, name] : state.chosen.filter((one) => one !== name);
  if (state.details?.run === name && !on) closeDetails();
  remember();
  drawRuns();
  draw();
  refresh();
}

// Plot ----------------------------------------------------------------------------------------------------------------

function settle(fronts) {
  const names = measuresOf(fronts).map((one) => one.name), objectives = fronts[0].objectives.map((one) => one.name);
  if (!names.includes(state.y)) state.y = objectives[0];
  if (!names.includes(state.x)) state.x = objectives[1] ?? names.find((name) => name !== state.y);
  if (!state.view) state.view = objectives.length > 2 ? "parallel" : "front";
  for (const [id, name] of [["x", state.x], ["y", state.y]]) {
    $(id).replaceChildren(...measuresOf(fronts).map((one) => {
      const option = element("option", one.label, { value: one.name });
      option.selected = one.name === name;
      return option;
    }));
  }
  for (const input of document.getElementsByName("view")) input.checked = input.value === state.view;
  for (const part of document.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== state.view;
}

function draw() {
  const fronts = shown();
  for (const id of ["controls", "plot", "time", "networks"]) $(id).hidden = !fronts.length;
  drawTitle(fronts);
  if (!fronts.length) {
    if ($("plot").data) Plotly.purge($("plot"));
    return;
  }
  settle(fronts);
  const found = state.network && state.fronts.get(state.network.run)?.networks.find((one) => one.key === state.network.key);
  const chosen = found && state.chosen.includes(state.network.run) ? found : null;
  const plots = { front: () => frontPlot(fronts, moment(), state.x, state.y, chosen, $("cloud").checked),
                  parallel: () => parallelPlot(fronts, moment(), chosen), matrix: () => matrixPlot(fronts, moment(), chosen) };
  const [traces, layout] = plots[state.view]();
  const known = Boolean($("plot").data);
  $("plot").dataset.view = state.view;
  Plotly.react($("plot"), traces, layout, {
    displaylogo: false, showSendToCloud: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
  if (!known) $("plot").on("plotly_click", ({ points }) => points[0].customdata && open(...points[0].customdata));
  drawTime(fronts);
  drawTable(fronts);
}

function drawTitle(fronts) {
  const named = (front) => state.runs.find((run) => run.name === front.name)?.space;
  const spaces = [...new Set(fronts.map(named))].join(", ");
  $("title").textContent = fronts.length === 1 ? fronts[0].title : fronts.length ? `${fronts.length} fronts of ${spaces}`
    : state.chosen.length ? "No generation is evaluated yet" : "Choose a run";
  const subtitles = [...new Set(fronts.map((front) => front.subtitle))];
  $("subtitle").replaceChildren(...subtitles.flatMap((text) => [element("span", text), element("br")]));
  document.title = fronts.length ? `${fronts.map((front) => front.name).join(", ")} - gennape` : "gennape";
}

function drawTime(fronts) {
  const last = generations(), now = moment(), live = state.generation === null;
  $("generation").max = last;
  $("generation").value = now;
  $("live").setAttribute("aria-pressed", String(live));
  const parts = fronts.map((front) => {
    const done = front.evaluations[Math.min(now, front.evaluations.length) - 1] ?? 0;
    const count = at(front, now).length;
    return `${fronts.length > 1 ? `${front.name}: ` : ""}${count} networks on the front of ${done.toLocaleString("en")} evaluated`;
  });
  const text = `Generation ${now} of ${last} · ${parts.join(" · ")}`;
  if ($("moment").textContent !== text) $("moment").textContent = text;
}

function drawTable(fronts) {
  const measures = measuresOf(fronts), several = fronts.length > 1;
  const rows = fronts.flatMap((front, number) => at(front, moment()).map((one) => ({ front, number, one })));
  const { name, direction } = fronts[0].objectives[0];
  rows.sort((a, b) => (direction === "max" ? -1 : 1) * (a.one.values[name] - b.one.values[name]));
  const head = element("tr");
  head.append(element("th", "network"), ...measures.map((one) => element("th", one.label.replace(" [%]", ""))));
  $("head").replaceChildren(head);
  const focused = document.activeElement?.dataset?.key;
  $("rows").replaceChildren(...rows.slice(0, MAX_ROWS).map(({ front, number, one }) => {
    const row = element("tr"), first = element("td");
    const button = element("button", `${several ? `${front.name} ` : ""}${one.key.slice(0, 8)}`, { type: "button" });
    button.dataset.key = one.key;
    button.addEventListener("click", () => open(front.name, one.key));
    if (several) {
      const swatch = element("span", "", { class: "swatch" });
      swatch.style.background = colour(number);
      first.append(swatch);
    }
    first.append(button);
    row.append(first, ...measures.map((measure) => element("td", one.texts[measure.name].replace(/ (FLOPs|MACs|parameters)$/, ""))));
    if (state.network?.key === one.key && state.network.run === front.name) row.classList.add("chosen");
    return row;
  }));
  if (focused && document.activeElement === document.body) {
    [...$("rows").querySelectorAll("button")].find((button) => button.dataset.key === focused)?.focus();
  }
}

// One network ---------------------------------------------------------------------------------------------------------

async function open(run, key) {
  state.network = { run, key };
  draw();
  let found;
  try {
    found = await ask(path(run, `networks/${encodeURIComponent(key)}`));
  } catch (error) {
    tell(error.message);
    return;
  }
  if (state.network?.key !== key || state.network.run !== run) return;
  state.details = found;
  $("which").textContent = found.index === null ? `Network ${key.slice(0, 8)}` : `Index ${found.index} of the front`;
  const lines = found.measures.map(([name, text]) =>
    [name, name === "accuracy" && found.deviation !== null ? `${text} ± ${found.deviation}` : text]);
  lines.push(["run", run], ["found in generation", String(found.since)]);
  if (found.until !== null) lines.push(["dominated in generation", String(found.until + 1)]);
  $("measures").replaceChildren(...lines.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
  $("export").textContent = found.export;
  $("architecture").textContent = found.architecture;
  const picture = path(run, `networks/${encodeURIComponent(key)}/drawing.svg`);
  $("drawing").src = picture;
  $("drawing-link").href = picture;
  $("details").hidden = false;
  $("columns").classList.add("open");
  Plotly.Plots.resize($("plot"));
  $("which").focus({ preventScroll: window.innerWidth > 1150 });
}

function closeDetails() {
  state.network = state.details = null;
  $("details").hidden = true;
  $("columns").classList.remove("open");
  draw();
  if ($("plot").data) Plotly.Plots.resize($("plot"));
}

// Time ----------------------------------------------------------------------------------------------------------------

function stop() {
  clearInterval(playing);
  playing = null;
  $("play").textContent = "▶";
  $("play").setAttribute("aria-label", "Play the generations");
}

function play() {
  if (playing) return stop();
  if (moment() >= generations()) state.generation = 0;
  $("play").textContent = "⏸";
  $("play").setAttribute("aria-label", "Stop");
  playing = setInterval(() => {
    state.generation = Math.min((state.generation ?? 0) + 1, generations());
    if (state.generation >= generations()) {
      stop();
      state.generation = null;
    }
    draw();
  }, STEP_MS);
}

async function refresh() {
  try {
    const found = await ask("/api/runs");
    $("workspace").textContent = found.workspace;
    $("mlflow").hidden = !found.mlflow;
    const before = JSON.stringify(state.runs);
    state.runs = found.runs;
    const known = new Set(state.runs.filter((run) => !run.problem).map((run) => run.name));
    const left = state.chosen.filter((name) => known.has(name));
    const first = !left.length && !location.hash && found.runs.find((run) => !run.problem && run.evaluations);
    let changed = left.length !== state.chosen.length || Boolean(first);
    state.chosen = first ? [first.name] : left;
    for (const name of state.chosen) {
      const old = state.fronts.get(name);
      const front = await ask(path(name, `front?known=${encodeURIComponent(old?.version ?? "")}`));
      if (!front.unchanged) {
        state.fronts.set(name, front);
        changed = true;
      }
    }
    if (before !== JSON.stringify(state.runs) || changed) drawRuns();
    if (changed) draw();
    tell("");
  } catch (error) {
    tell(error instanceof TypeError ? "gennape ui does not answer; was it stopped?" : error.message);
  }
}

async function poll() {
  if (!document.hidden) await refresh();
  setTimeout(poll, EVERY_MS);
}

$("filter").addEventListener("input", drawRuns);
$("close").addEventListener("click", closeDetails);
$("cloud").addEventListener("change", draw);
for (const id of ["x", "y"]) $(id).addEventListener("change", () => { state[id] = $(id).value; remember(); draw(); });
for (const input of document.getElementsByName("view")) {
  input.addEventListener("change", () => { state.view = input.value; remember(); draw(); });
}
$("generation").addEventListener("input", () => {
  stop();
  const value = Number($("generation").value);
  state.generation = value >= generations() ? null : value;
  draw();
});
$("live").addEventListener("click", () => { stop(); state.generation = null; draw(); });
$("play").addEventListener("click", play);
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText($("export").textContent);
  $("copy").textContent = "Copied";
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && state.network) closeDetails(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
onScheme(() => { drawRuns(); draw(); });
recall();
poll();
