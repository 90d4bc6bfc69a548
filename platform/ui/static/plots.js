// The plots: from the fronts of runs to what Plotly draws. Nothing here asks the server or changes the page.

// After Okabe and Ito (2008), for both schemes; markers tell runs that share a colour.
const COLOURS = { light: ["#0072b2", "#d55e00", "#008060", "#b0558a", "#b97700", "#2a8fc4", "#3b4754"],
                  dark: ["#4db1e8", "#ff9152", "#2fc79a", "#e59ac4", "#f0b840", "#8fd0f5", "#aebcc9"] };
const SYMBOLS = ["circle", "triangle-up", "square", "diamond", "triangle-down", "cross", "x"];
const MAX_HOVER = 12;

const dark = window.matchMedia("(prefers-color-scheme: dark)");

export const isDark = () => dark.matches;
export const onScheme = (change) => dark.addEventListener("change", change);
export const colour = (number) => COLOURS[isDark() ? "dark" : "light"][number % SYMBOLS.length];

// Plotly reads a little HTML in every text: names and values of runs must not be read as such.
export const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// The networks that were on the front after a generation, counted from 1.
export function at(front, generation) {
  const last = Math.min(generation, front.evaluations.length) - 1;
  return front.networks.filter((one) => one.since <= last && (one.until === null || one.until > last));
}

export function measuresOf(fronts) {
  if (!fronts.length) return [];
  return fronts[0].measures.filter((one) => fronts.every((front) => front.measures.some((other) => other.name === one.name)));
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function hover(run, network) {
  const lines = Object.entries(network.texts).slice(0, MAX_HOVER).map(([name, text]) =>
    escaped(name === "accuracy" && network.deviation !== null ? `${text} ± ${network.deviation.toFixed(2)} %` : text));
  return [`<b>${escaped(run)}</b>`, ...lines].join("<br>");
}

function axis(measure, values, more = {}) {
  const lowest = Math.min(...values), highest = Math.max(...values);
  const wide = measure.name !== "accuracy" && lowest > 0 && highest > 10 * lowest;
  return { title: { text: escaped(measure.label), standoff: 8 }, type: wide ? "log" : "linear", exponentformat: "SI",
           gridcolor: css("--grid"), zeroline: false, linecolor: css("--line"), tickcolor: css("--line"), automargin: true,
           ...(wide ? { dtick: highest > 200 * lowest ? 1 : "D2" } : {}), ...more };
}

function layout(more) {
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), size: 12 },
           margin: { l: 8, r: 16, t: 12, b: 8 }, showlegend: false, hovermode: "closest",
           modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--line"), activecolor: css("--accent") },
           hoverlabel: { align: "left", bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink") } },
           ...more };
}

function points(front, networks, x, y, number, more) {
  return { type: "scatter", x: networks.map((one) => one.values[x]), y: networks.map((one) => one.values[y]),
           customdata: networks.map((one) => [front.name, one.key]), text: networks.map((one) => hover(front.name, one)),
           hovertemplate: "%{text}<extra></extra>", mode: "markers",
           marker: { color: colour(number), symbol: SYMBOLS[number % SYMBOLS.length], size: 8,
                     line: { color: css("--card"), width: 1 } }, ...more };
}

// Deviations are those of accuracies.
function bars(networks, name) {
  if (name !== "accuracy" || networks.every((one) => one.deviation === null)) return {};
  return { type: "data", array: networks.map((one) => one.deviation ?? 0), thickness: 1, width: 0 };
}

function ring(chosen, x, y, more = {}) {
  return { type: "scatter", x: [chosen.values[x]], y: [chosen.values[y]], mode: "markers", hoverinfo: "skip",
           marker: { symbol: "circle-open", size: 17, color: css("--ink"), line: { width: 2.5 } }, ...more };
}

// One measure against another. A line joins the points only where neighbours along x are neighbours on the front.
export function frontPlot(fronts, generation, x, y, chosen, cloud) {
  const measures = measuresOf(fronts), traces = [], all = { x: [], y: [] };
  fronts.forEach((front, number) => {
    if (!cloud) return;
    const done = front.evaluations[Math.min(generation, front.evaluations.length) - 1] ?? 0;
    const drawn = (name) => front.cloud[name].slice(0, Math.ceil(done / front.cloud_step));
    traces.push({ type: "scatter", x: drawn(x), y: drawn(y), mode: "markers", hoverinfo: "skip",
                  marker: { color: fronts.length > 1 ? colour(number) : css("--quiet"), size: 4, opacity: .22 } });
    for (const [to, name] of [["x", x], ["y", y]]) for (const one of front.cloud[name]) if (Number.isFinite(one)) all[to].push(one);
  });
  fronts.forEach((front, number) => {
    const names = front.objectives.map((one) => one.name);
    const line = names.length === 2 && names.includes(x) && names.includes(y) && x !== y;
    const networks = at(front, generation).sort((one, other) => one.values[x] - other.values[x]);
    traces.push(points(front, networks, x, y, number, {
      mode: line ? "lines+markers" : "markers", line: { color: colour(number), width: 1.8 },
      error_x: bars(networks, x), error_y: bars(networks, y) }));
    for (const one of front.networks) all.x.push(one.values[x]), all.y.push(one.values[y]);
  });
  if (chosen) traces.push(ring(chosen, x, y));
  const find = (name) => measures.find((one) => one.name === name);
  return [traces, layout({ xaxis: axis(find(x), all.x), yaxis: axis(find(y), all.y), uirevision: `front ${x} ${y}` })];
}

// The measures that views of many dimensions show: the objectives if there are three or more, else all.
export function dimensions(fronts) {
  const measures = measuresOf(fronts), names = new Set(fronts.flatMap((front) => front.objectives.map((one) => one.name)));
  const chosen = measures.filter((one) => names.has(one.name));
  return chosen.length > 2 ? chosen : measures;
}

// Every network as a line over one vertical axis for each measure, drawn from its lowest to its highest value.
export function parallelPlot(fronts, generation, chosen) {
  const axes = dimensions(fronts), ends = {}, traces = [], annotations = [];
  for (const { name } of axes) {
    const values = fronts.flatMap((front) => front.networks).map((one) => one.values[name]);
    ends[name] = [Math.min(...values), Math.max(...values)];
  }
  const height = (name, value) => ends[name][1] > ends[name][0] ? (value - ends[name][0]) / (ends[name][1] - ends[name][0]) : .5;
  const line = (networks, front) => ({
    x: networks.flatMap(() => [...axes.keys(), null]),
    y: networks.flatMap((one) => [...axes.map(({ name }) => height(name, one.values[name])), null]),
    customdata: networks.flatMap((one) => [...axes.map(() => [front.name, one.key]), null]),
    text: networks.flatMap((one) => [...axes.map(() => hover(front.name, one)), null]) });
  fronts.forEach((front, number) => {
    const networks = at(front, generation), alpha = Math.max(.06, Math.min(.6, 25 / networks.length));
    const faint = colour(number) + Math.round(255 * alpha).toString(16).padStart(2, "0");
    traces.push({ type: "scatter", mode: "lines+markers", hovertemplate: "%{text}<extra></extra>",
                  line: { color: faint, width: 1.2 }, marker: { color: colour(number), size: 5, opacity: .7 },
                  connectgaps: false, ...line(networks, front) });
  });
  if (chosen) traces.push({ type: "scatter", mode: "lines+markers", hoverinfo: "skip",
                            x: [...axes.keys()], y: axes.map(({ name }) => height(name, chosen.values[name])),
                            line: { color: css("--ink"), width: 3 }, marker: { color: css("--ink"), size: 7 } });
  const texts = new Map(fronts.flatMap((front) => front.networks).flatMap((one) =>
    axes.map(({ name }) => [`${name} ${one.values[name]}`, one.texts[name]])));
  axes.forEach(({ name }, i) => {
    for (const [end, y, anchor] of [[0, 0, "top"], [1, 1, "bottom"]]) {
      annotations.push({ x: i, y, yanchor: anchor, yshift: end ? 4 : -4, showarrow: false, font: { size: 11, color: css("--quiet") },
                         text: escaped(texts.get(`${name} ${ends[name][end]}`) ?? "") });
    }
  });
  return [traces, layout({
    xaxis: { tickvals: [...axes.keys()], ticktext: axes.map((one) => escaped(one.label)), range: [-.35, axes.length - .65],
             gridcolor: css("--line"), zeroline: false, fixedrange: true, automargin: true, side: "top" },
    yaxis: { visible: false, range: [-.12, 1.12], fixedrange: true }, annotations, uirevision: "parallel" })];
}

// Each measure against each, below the diagonal.
export function matrixPlot(fronts, generation, chosen) {
  const axes = dimensions(fronts), size = axes.length - 1, traces = [], more = {};
  const gap = .03, part = (1 - gap * (size - 1)) / size;
  for (let row = 0; row < size; row++) {
    for (let column = 0; column <= row; column++) {
      const number = row * size + column + 1, id = number === 1 ? "" : number;
      const x = axes[column], y = axes[row + 1];
      const values = (name) => fronts.flatMap((front) => front.networks).map((one) => one.values[name]);
      const left = column * (part + gap), bottom = 1 - (row + 1) * part - row * gap;
      const quiet = (shown) => (shown ? {} : { title: { text: "" }, showticklabels: false });
      more[`xaxis${id}`] = axis(x, values(x.name), { domain: [left, left + part], anchor: `y${id}`, ...quiet(row === size - 1), nticks: 4 });
      more[`yaxis${id}`] = axis(y, values(y.name), { domain: [Math.max(0, bottom), Math.min(1, bottom + part)], anchor: `x${id}`, ...quiet(column === 0), nticks: 4 });
      const where = { xaxis: `x${id}`, yaxis: `y${id}` };
      fronts.forEach((front, i) => {
        const trace = points(front, at(front, generation), x.name, y.name, i, where);
        trace.marker.size = 6;
        traces.push(trace);
      });
      if (chosen) traces.push(ring(chosen, x.name, y.name, where));
    }
  }
  return [traces, layout({ ...more, uirevision: "matrix" })];
}
