// The router of chapter 07, played by the reader: buttons instead of a widget, and the library's
// load, max violation and balance loss computed here. tests/browser/test_by_hand.py compares them.
"use strict";

(() => {
  const html = (name, attributes = {}, text = "") => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.textContent = text;
    return node;
  };
  const percent = share => `${Math.round(100 * share)}%`;

  // One choice per token; the logit of the chosen expert is `ahead` above the equal others.
  function measure(text, experts, ahead, numExperts) {
    const counts = Array(numExperts).fill(0);
    experts.forEach(expert => { counts[expert] += 1; });
    const sum = Math.exp(ahead) + numExperts - 1, tokens = experts.length;
    const load = counts.map(n => n / tokens);
    const probs = counts.map(n => (n * Math.exp(ahead) + tokens - n) / sum / tokens);
    const pairs = new Set(experts.map((expert, i) => `${text[i]}${expert}`));
    return {load, probs, idle: counts.filter(n => n === 0).length,
      violation: numExperts * Math.max(...load) - 1,
      loss: numExperts * load.reduce((total, f, e) => total + f * probs[e], 0),
      loyal: pairs.size === new Set(text).size};
  }

  // A row with a name; the value stands behind the control.
  function row(name, control) {
    const label = html("label"), output = html("output");
    control.setAttribute("aria-label", name);
    label.append(html("span", {}, name), control, output);
    return {label, output};
  }

  // What the choices amount to: the meter, one line per expert, and a sentence.
  function results(colors) {
    const box = html("div"), said = html("p", {class: "said", "aria-live": "polite"});
    const meter = html("meter", {min: 0, max: colors.length - 1});
    const even = row("max violation (0: even)", meter);
    const lines = colors.map(([color], e) => {
      const line = html("p", {class: "share"}), bar = html("i", {style: `background:${color}`});
      line.append(html("span", {}, `expert ${e}`), bar, html("span"));
      return {line, bar};
    });
    box.append(even.label, ...lines.map(({line}) => line), said);
    const show = found => {
      meter.value = found.violation;
      even.output.textContent = found.violation.toFixed(2);
      lines.forEach(({line, bar}, e) => {
        bar.style.width = `${100 * found.load[e]}%`;
        line.lastChild.textContent = `f ${found.load[e].toFixed(2)}, P ${found.probs[e].toFixed(2)}`;
      });
      said.textContent = `load ${found.load.map(percent).join(", ")}; idle experts ${found.idle}; ` +
        `max violation (MaxVio) ${found.violation.toFixed(2)}; balance loss ${found.loss.toFixed(3)}; ` +
        `equal characters meet one expert: ${found.loyal ? "yes" : "no"}`;
    };
    return {box, show};
  }

  function build(root) {
    const {text, colors} = JSON.parse(root.querySelector("script").textContent);
    const experts = Array(text.length).fill(0), tokens = html("div", {class: "tokens"});
    const form = html("form"), ahead = html("input", {type: "range", min: 0, max: 8, step: 0.5, value: 2});
    const again = html("button", {type: "button"}, "All to expert 0");
    const logits = row("logits ahead", ahead), {box, show} = results(colors);
    const buttons = text.map((char, i) => {
      const button = html("button", {type: "button"});
      button.addEventListener("click", () => {
        experts[i] = (experts[i] + 1) % colors.length;
        draw();
      });
      return button;
    });
    function draw() {
      buttons.forEach((button, i) => {
        const [color, ink] = colors[experts[i]];
        button.textContent = `${text[i]} ${experts[i]}`;
        button.title = `${text[i]} goes to expert ${experts[i]}`;
        Object.assign(button.style, {background: color, color: ink});
      });
      logits.output.textContent = ahead.value;
      ahead.setAttribute("aria-valuetext", ahead.value);
      show(measure(text, experts, Number(ahead.value), colors.length));
    }
    ahead.addEventListener("input", draw);
    again.addEventListener("click", () => { experts.fill(0); draw(); });
    form.addEventListener("submit", event => event.preventDefault());
    form.append(logits.label, again);
    tokens.append(...buttons);
    root.append(tokens, form, box);
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("#hand_router").forEach(build);
  });
})();
