// Draws the figures of the chapters' sliders from the numbers that the build wrote into the page.
// Nothing is computed here: the frame that belongs to the sliders' places is looked up and drawn.
"use strict";

(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 640, HEIGHT = 260, LEFT = 56, BOTTOM = 46, TOP = 14, GAP = 24;
  const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"];
  const DASHES = ["", "7 4", "2 3", "8 3 2 3"];

  const make = (name, attributes = {}, text = "") => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return node;
  };
  const html = (name, attributes = {}, text = "") => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.textContent = text;
    return node;
  };
  const named = (pattern, values) => pattern.replace(/\{(\d)\}/g, (_, i) => values[i]);

  // Round steps that divide a range into about four.
  function steps(low, high) {
    const raw = (high - low || 1) / 4, size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map(f => f * size).find(s => s >= raw);
    const marks = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) {
      marks.push(Number(v.toPrecision(6)));
    }
    return marks;
  }

  function axis(svg, box, low, high, xmarks, data, title, first) {
    const y = v => box.bottom - (v - low) / (high - low || 1) * (box.bottom - box.top);
    for (const v of steps(low, high)) {
      svg.append(make("line", {x1: box.left, x2: box.right, y1: y(v), y2: y(v), class: "grid"}));
      if (first) svg.append(make("text", {x: box.left - 6, y: y(v) + 4, "text-anchor": "end"}, `${v}`));
    }
    for (const [x, label] of xmarks) {
      const inside = Math.min(x, WIDTH - 4.5 * label.length);  // the last one is not cut
      svg.append(make("text", {x: inside, y: box.bottom + 16, "text-anchor": "middle"}, label));
    }
    const middle = (box.left + box.right) / 2;
    svg.append(make("text", {x: middle, y: HEIGHT - 8, "text-anchor": "middle"}, data.xlabel));
    if (title) svg.append(make("text", {x: middle, y: TOP - 2, "text-anchor": "middle"}, title));
    if (first) {
      const at = (box.top + box.bottom) / 2;
      svg.append(make("text", {x: 12, y: at, transform: `rotate(-90 12 ${at})`,
                               "text-anchor": "middle"}, data.ylabel));
    }
    return y;
  }

  function lines(svg, data, frame, values) {
    const count = data.panels.length, wide = (WIDTH - LEFT - GAP * (count - 1) - 8) / count;
    const everything = Object.values(data.frames).flat(3)
      .concat(data.fixed.flatMap(panel => Object.values(panel).flat()));
    const low = data.from_zero ? 0 : Math.min(...everything), high = Math.max(...everything);
    const legend = [];
    data.panels.forEach((title, p) => {
      const left = LEFT + p * (wide + GAP);
      const box = {left, right: left + wide, top: TOP + 6, bottom: HEIGHT - BOTTOM};
      const [from, to] = [data.x[0], data.x[data.x.length - 1]];
      const x = v => box.left + (v - from) / (to - from) * wide;
      const marks = data.ticks ? data.ticks.map((label, i) => [x(data.x[i]), label])
        : steps(from, to).map(v => [x(v), `${v}`]);
      const y = axis(svg, box, low, high, marks, data, title, p === 0);
      const curves = Object.entries(data.fixed[p]);
      const moving = [data.moving].flat(), moved = moving.length > 1 ? frame[p] : [frame[p]];
      moving.forEach((pattern, i) => curves.push([named(pattern, values), moved[i]]));
      curves.forEach(([name, curve], i) => {
        const pale = data.panels.length > 1 && i === 0;
        const points = curve.map((v, j) => `${x(data.x[j]).toFixed(1)},${y(v).toFixed(1)}`);
        svg.append(make("polyline", {points: points.join(" "), fill: "none", stroke: COLORS[i % 4],
          "stroke-width": pale ? 7 : 2, "stroke-opacity": pale ? 0.35 : 1,
          "stroke-dasharray": DASHES[i % 4], "data-name": name, "data-values": curve.join(" ")}));
        if (p === 0) legend.push([name, COLORS[i % 4]]);
      });
    });
    return {legend, said: `${legend.map(entry => entry[0]).join(", ")}.`};
  }

  function bars(svg, data, [before, after]) {
    const box = {left: LEFT, right: WIDTH - 8, top: TOP, bottom: HEIGHT - BOTTOM};
    const slot = (box.right - box.left) / data.symbols.length;
    const marks = data.symbols.map((symbol, i) => [box.left + slot * (i + 0.5), symbol]);
    const y = axis(svg, box, 0, 1, marks, data, "", true);
    let kept = 0;
    data.symbols.forEach((symbol, i) => {
      const stays = after[i] > 0, height = stays ? after[i] : before[i];
      kept += stays;
      const bar = make("rect", {x: box.left + slot * (i + 0.1), width: slot * 0.8, y: y(height),
        height: box.bottom - y(height), class: stays ? "kept" : "dropped",
        "data-before": before[i], "data-after": after[i]});
      bar.append(make("title", {}, `${symbol}: ${after[i]} (before: ${before[i]})`));
      svg.append(bar);
      if (stays && after[i] !== before[i]) {
        svg.append(make("line", {x1: box.left + slot * (i + 0.1), x2: box.left + slot * (i + 0.9),
          y1: y(before[i]), y2: y(before[i]), class: "before"}));
      }
    });
    const best = after.indexOf(Math.max(...after));
    return {legend: [["kept", COLORS[0]], ["dropped", "#999999"]],
      said: `${kept} of ${after.length} kept; the most probable, ${data.symbols[best]}, has ${after[best]}.`};
  }

  function strip(box, data, digits) {
    box.replaceChildren();
    const light = new Set(["#0072B2"]);
    [...data.text].forEach((char, i) => {
      const color = data.colors[Number(digits[i])];
      const span = html("span", {title: `${char} to expert ${digits[i]}`, "data-expert": digits[i],
        style: `background:${color};color:${light.has(color) ? "#fff" : "#000"}`}, char);
      box.append(span);
    });
    const used = [...new Set(digits)].sort();
    return {legend: data.colors.map((color, e) => [`expert ${e}`, color]),
            said: `These characters go to the experts ${used.join(", ")}.`};
  }

  const KINDS = {lines, bars, strip};

  function build(root) {
    const data = JSON.parse(root.querySelector("script").textContent);
    if (!(data.kind in KINDS)) return;  // router.js has the other one
    const form = html("form"), said = html("p", {"aria-live": "polite", class: "said"});
    const legend = html("p", {class: "legend", "aria-hidden": "true"});
    form.addEventListener("submit", event => event.preventDefault());
    const inputs = data.sliders.map(({name, values, start}) => {
      const label = html("label"), input = html("input", {type: "range", min: 0,
        max: values.length - 1, step: 1, value: start}), output = html("output");
      input.setAttribute("aria-label", name);
      label.append(html("span", {}, name), input, output);
      form.append(label);
      input.addEventListener("input", draw);
      return {input, output, values};
    });
    const flat = data.kind === "strip";
    const picture = flat ? html("div", {class: "strip"}) : make("svg",
      {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img"});
    root.append(form, picture, legend, said);

    function draw() {
      const places = inputs.map(({input}) => Number(input.value));
      const values = inputs.map(({values}, i) => values[places[i]]);
      inputs.forEach(({input, output}, i) => {
        output.textContent = values[i];
        input.setAttribute("aria-valuetext", values[i]);
      });
      const frame = data.frames[places.join(",")];
      if (!flat) picture.replaceChildren();
      const shown = KINDS[data.kind](picture, data, frame, values);
      said.textContent = shown.said;
      legend.replaceChildren(...shown.legend.map(([name, color]) => {
        const entry = html("span", {}, name);
        entry.prepend(html("i", {style: `background:${color}`}));
        return entry;
      }));
      if (!flat) picture.setAttribute("aria-label",
        `${data.ylabel} against ${data.xlabel}. ${shown.said}`);
    }
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("div.course-slider").forEach(build);
  });
})();
