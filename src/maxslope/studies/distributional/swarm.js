
"use strict";
// Loaded after the stepper of the pages: its panels get all atoms of a measure, beside the one path that they draw.
(() => {
  const swarms = JSON.parse(document.getElementById("swarms").textContent);
  data.steppers.forEach((cases, i) => cases.forEach((entry, j) => entry.panels.forEach((panel, k) => {
    panel.swarm = swarms.frames[swarms.places[i][j][k]];
  })));
  // paths, not rectangles: those of the page are frames without filling
  const circle = {r: 5.5, fill: "#fff", stroke: "#000", "stroke-width": 1.5};
  const square = {d: "M-5.5-5.5h11v11h-11z", fill: "#000", stroke: "#fff"};
  const path = panelOf;
  panelOf = (parent, panel, entry, label) => {
    const draw = path(parent, panel, entry, label);
    const svg = parent.lastElementChild.querySelector("svg");
    const [left, right, , top] = entry.extent, scale = SIZE / (right - left);
    const group = document.createElementNS(NS, "g");
    svg.insertBefore(group, svg.querySelector("polyline"));
    const atoms = swarms.labels.map(of => add(group, of ? "path" : "circle", of ? square : circle));
    return t => {
      panel.swarm[reached(panel.times, t)].forEach(([x, y], i) => {
        const place = [(x - left) * scale, (top - y) * scale].map(z => z.toFixed(1));
        atoms[i].setAttribute("transform", `translate(${place})`);
      });
      return draw(t);
    };
  };
  data.steppers.forEach((cases, i) => {
    const root = document.getElementById(`stepper-${i}`);
    root.replaceChildren();
    build(root, cases);
  });
})();
