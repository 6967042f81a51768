
"use strict";
const NS = "http://www.w3.org/2000/svg", SIZE = 600;
const data = JSON.parse(document.getElementById("paths").textContent);

function add(parent, tag, attributes) {
  const made = document.createElementNS(parent.namespaceURI === NS || tag === "svg" ? NS : "http://www.w3.org/1999/xhtml", tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  parent.appendChild(made);
  return made;
}

function short(value) {
  if (value === null) return "not known";
  return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(3) : value.toPrecision(4);
}

// the last saved point that is not later than t
function reached(times, t) {
  let low = 0, high = times.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (times[middle] <= t + 1e-9) low = middle; else high = middle - 1;
  }
  return low;
}

function panelOf(parent, panel, entry, label) {
  const [left, right, bottom, top] = entry.extent;
  const scale = SIZE / (right - left), height = (top - bottom) * scale;
  const X = x => (x - left) * scale, Y = y => (top - y) * scale;
  const figure = add(parent, "figure", {"class": "panel"});
  add(figure, "h4").textContent = panel.name;
  const svg = add(figure, "svg", {viewBox: `0 0 ${SIZE} ${height}`, role: "img", "aria-label": `${label}: ${panel.name}`});
  add(svg, "image", {href: data.pictures[entry.picture], width: SIZE, height: height, preserveAspectRatio: "none"});
  const box = (b, name) => add(svg, "rect", {x: X(b[0]), y: Y(b[3]), width: (b[1] - b[0]) * scale, height: (b[3] - b[2]) * scale, "class": name});
  if (panel.budget) { box(panel.budget, "budget-edge"); box(panel.budget, "budget"); }
  const reach = panel.tau ? [add(svg, "rect", {"class": "tau-edge"}), add(svg, "rect", {"class": "tau"})] : [];
  const lines = [add(svg, "polyline", {"class": "path-edge"}), add(svg, "polyline", {"class": "path"})];
  const dots = panel.path.length <= 120 ? add(svg, "g", {}) : null;
  add(svg, "circle", {cx: X(panel.path[0][0]), cy: Y(panel.path[0][1]), r: 7, "class": "start"});
  const now = add(svg, "circle", {r: 8, "class": "now"});
  const said = add(figure, "figcaption", {"class": "said"});
  return t => {
    const k = reached(panel.times, t), [x, y] = panel.path[k];
    const points = panel.path.slice(0, k + 1).map(p => `${X(p[0]).toFixed(1)},${Y(p[1]).toFixed(1)}`);
    lines.forEach(line => line.setAttribute("points", points.join(" ")));
    if (dots) {
      dots.replaceChildren();
      for (const p of panel.path.slice(0, k + 1)) add(dots, "circle", {cx: X(p[0]), cy: Y(p[1]), r: 3.5, "class": "dot"});
    }
    now.setAttribute("cx", X(x)); now.setAttribute("cy", Y(y));
    for (const r of reach) {
      r.setAttribute("x", X(x - panel.tau)); r.setAttribute("y", Y(y + panel.tau));
      r.setAttribute("width", 2 * panel.tau * scale); r.setAttribute("height", 2 * panel.tau * scale);
    }
    said.textContent = `step ${k} of ${panel.times.length - 1}, E = ${short(panel.energies[k])}`;
    return said.textContent;
  };
}

function build(root, cases) {
  const label = root.getAttribute("aria-label");
  const bar = add(root, "div", {"class": "controls"});
  let chooser = null;
  if (cases.length > 1) {
    const wrap = add(bar, "label", {});
    wrap.append("show ");
    chooser = add(wrap, "select", {});
    cases.forEach((entry, i) => { add(chooser, "option", {value: i}).textContent = entry.name; });
  }
  const play = add(bar, "button", {type: "button"});
  play.textContent = "play";
  const clock = add(bar, "output", {"class": "clock"});
  const slider = add(root, "input", {type: "range", min: 0, step: 1, "aria-label": "time"});
  const panels = add(root, "div", {"class": "panels"});
  const note = add(root, "p", {"class": "caption"});
  let ticks = [0], draws = [], timer = null;
  const show = () => {
    const t = ticks[slider.value], said = draws.map(draw => draw(t));
    clock.textContent = `t = ${short(t)} of ${short(ticks[ticks.length - 1])}`;
    slider.setAttribute("aria-valuetext", `${clock.textContent}; ${said.join("; ")}`);
  };
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "play"; };
  const open = i => {
    stop();
    const entry = cases[i];
    ticks = [...new Set(entry.panels.flatMap(panel => panel.times))].sort((a, b) => a - b)
      .filter((t, k, all) => k === 0 || t - all[k - 1] > 1e-9);
    panels.replaceChildren();
    draws = entry.panels.map(panel => panelOf(panels, panel, entry, label));
    note.textContent = entry.note;
    slider.max = ticks.length - 1;
    slider.value = slider.max;
    show();
  };
  slider.addEventListener("input", () => { stop(); show(); });
  if (chooser) chooser.addEventListener("change", () => open(Number(chooser.value)));
  play.addEventListener("click", () => {
    if (timer !== null) { stop(); return; }
    if (slider.value === slider.max) slider.value = 0;
    play.textContent = "pause";
    show();
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      show();
      if (slider.value === slider.max) stop();
    }, Math.max(40, Math.min(700, 5000 / ticks.length)));
  });
  open(0);
}

data.steppers.forEach((cases, i) => build(document.getElementById(`stepper-${i}`), cases));
