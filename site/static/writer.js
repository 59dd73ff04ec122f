// The model in the page: onnxruntime-web runs the graph that onnx_model.py exported; this file
// draws characters from its logits, as moe_tutorial/sampling.py does, and shows them.
"use strict";

(() => {
  const NEEDS_SERVER = "From a folder the model does not load: start `python -m http.server` in it, and open http://localhost:8000.";
  const fromFile = location.protocol === "file:";

  // Mulberry32: a small generator, so that a seed means the same text in every browser.
  function uniform(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6D2B79F5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  // Temperature, then top-k, then top-p, each renormalized: `next_token_probs` of the library.
  function nextTokenProbs(logits, temperature, topK, topP) {
    const scores = Array.from(logits), best = Math.max(...scores);
    if (temperature === 0) return scores.map((_, i) => (i === scores.indexOf(best) ? 1 : 0));
    const powers = scores.map(v => Math.exp((v - best) / temperature));
    const whole = powers.reduce((a, b) => a + b);
    const order = powers.map((_, i) => i).sort((a, b) => powers[b] - powers[a] || a - b);
    let sorted = order.map(i => powers[i] / whole);
    const renormalize = () => {
      const sum = sorted.reduce((a, b) => a + b);
      sorted = sorted.map(p => p / sum);
    };
    sorted = sorted.map((p, rank) => (rank < topK ? p : 0));
    renormalize();
    let before = 0;
    sorted = sorted.map(p => {
      const kept = before < topP || topP >= 1 ? p : 0;
      before += p;
      return kept;
    });
    renormalize();
    const probs = new Array(scores.length).fill(0);
    order.forEach((i, rank) => { probs[i] = sorted[rank]; });
    return probs;
  }

  function draw(probs, random) {
    let left = random();
    for (let i = 0; i < probs.length; i++) {
      left -= probs[i];
      if (left < 0) return i;
    }
    return probs.lastIndexOf(Math.max(...probs));
  }

  async function unpacked(url) {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`${url} was not found`);
    const stream = answer.body.pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  // How much of a full context is read again.
  const kept = data => Math.max(1, Math.floor(3 * data.max_seq_len / 4));

  // One text: its window and the keys and values of it, as `Reader` of the library keeps them.
  class Reader {
    constructor(session, data) {
      this.session = session;
      this.data = data;
      this.start();
    }

    start(window = []) {
      const {layers, heads, head_dim: size} = this.data;
      this.window = window;
      this.length = 0;
      this.cache = new ort.Tensor("float32", new Float32Array(0), [layers, 2, 1, heads, 0, size]);
    }

    async one(token) {
      const whole = value => BigInt64Array.from([BigInt(value)]);
      const result = await this.session.run({
        token: new ort.Tensor("int64", whole(token), [1, 1]),
        position: new ort.Tensor("int64", whole(this.length), [1]),
        cache: this.cache,
      });
      this.cache = result.kept;
      this.length += 1;
      return {logits: result.logits.data, experts: Array.from(result.experts.data, Number)};
    }

    // Past the context the oldest quarter is forgotten and the rest read again from position 0.
    async read(token) {
      this.window.push(token);
      if (this.window.length <= this.data.max_seq_len) return this.one(token);
      this.start(this.window.slice(-kept(this.data)));
      let last;
      for (const each of this.window) last = await this.one(each);
      return last;
    }
  }

  let loading = null;
  function load(data) {
    loading ??= (async () => {
      ort.env.wasm.numThreads = 1;
      ort.env.wasm.wasmPaths = {mjs: new URL(data.files.mjs, document.baseURI).href};
      ort.env.wasm.wasmBinary = await unpacked(data.files.wasm);
      const graph = await unpacked(data.files.model);
      return ort.InferenceSession.create(graph, {executionProviders: ["wasm"]});
    })();
    loading.catch(() => { loading = null; });
    return loading;
  }

  async function* generate(data, prompt, count, settings, random) {
    const session = await load(data);
    const reader = new Reader(session, data);
    let last;
    // Of a prompt that is too long the library reads the last three quarters of the context.
    const tokens = prompt.length > data.max_seq_len
      ? prompt.slice(-kept(data)) : prompt;
    for (const token of tokens) last = await reader.read(token);
    for (let i = 0; i < count; i++) {
      const {temperature, topK, topP} = settings();
      const probs = nextTokenProbs(last.logits, temperature, topK, topP);
      const token = draw(probs, random);
      last = await reader.read(token);
      yield {token, prob: probs[token], experts: last.experts};
    }
  }

  function encode(data, text) {
    return Array.from(text, (char, i) => {
      const id = data.symbols.indexOf(char);
      if (id < 0) throw new Error(`the model does not know ${JSON.stringify(char)}, character ${i + 1} of the prompt; it has read only ${data.symbols.length} symbols`);
      return id;
    });
  }

  function start(root) {
    const data = JSON.parse(root.querySelector("script").textContent);
    const get = name => root.querySelector(`[name=${name}]`);
    const text = root.querySelector(".writer-text"), status = root.querySelector(".writer-status");
    const write = get("write"), stop = get("stop");
    const layer = () => Number(get("layer").value);
    let stopped = false, written = [];
    if (fromFile) status.textContent = NEEDS_SERVER;

    root.querySelectorAll("input[type=range]").forEach(input => {
      const show = () => { input.nextElementSibling.textContent = input.value; };
      input.addEventListener("input", show);
      show();
    });
    const color = (span, experts) => {
      const expert = experts[layer() * data.top_k];
      span.style.background = data.colors[expert];
      span.style.color = data.colors[expert] === data.dark ? "#fff" : "#000";
      span.dataset.expert = expert;
    };
    const add = ({token, prob, experts}) => {
      const span = document.createElement("span"), char = data.symbols[token];
      span.textContent = char;
      const named = experts.map((e, i) => (i % data.top_k ? `${e}` : `layer ${i / data.top_k + 1}: ${e}`));
      span.title = `drawn with ${prob.toFixed(3)}; experts ${named.join(", ")}`;
      color(span, experts);
      text.append(span);
      written.push([span, experts]);
    };
    get("layer").addEventListener("change", () => written.forEach(pair => color(...pair)));
    stop.addEventListener("click", () => { stopped = true; });
    const settings = () => ({temperature: Number(get("temperature").value),
      topK: Number(get("top_k").value), topP: Number(get("top_p").value)});

    async function run() {
      stopped = false;
      written = [];
      const prompt = get("prompt").value;
      text.replaceChildren(Object.assign(document.createElement("b"), {textContent: prompt}));
      if (!prompt) throw new Error("the prompt is empty; give the model at least one character to continue");
      const ids = encode(data, prompt);
      status.textContent = "Loading the model ...";
      await load(data);
      status.textContent = "Writing ...";
      const begun = performance.now(), random = uniform(Number(get("seed").value) || 0);
      const count = Number(get("count").value);
      for await (const drawn of generate(data, ids, count, settings, random)) {
        add(drawn);
        if (written.length % 4 === 0) await new Promise(resolve => setTimeout(resolve));
        if (stopped) break;
      }
      const speed = written.length / (performance.now() - begun) * 1000;
      root.dataset.speed = speed.toFixed(1);
      status.textContent = `${written.length} characters, ${speed.toFixed(0)} per second.`;
    }

    root.addEventListener("submit", async event => {
      event.preventDefault();
      write.disabled = true;
      stop.disabled = false;
      try {
        await run();
      } catch (error) {
        status.textContent = fromFile ? NEEDS_SERVER : `That did not work: ${error.message}.`;
      }
      write.disabled = false;
      stop.disabled = true;
    });
    window.course = {nextTokenProbs, uniform, draw};
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("form.writer").forEach(start);
  });
})();
