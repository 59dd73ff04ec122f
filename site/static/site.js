// Printing opens what is folded; afterwards everything is as it was. A search in a folder says what
// it cannot show.
"use strict";

(() => {
  const opened = new Set();
  const open = () => document.querySelectorAll("details:not([open])").forEach(fold => {
    fold.open = true;
    opened.add(fold);
  });
  const close = () => {
    opened.forEach(fold => { fold.open = false; });
    opened.clear();
  };
  window.addEventListener("beforeprint", open);
  window.addEventListener("afterprint", close);
  window.matchMedia("print").addEventListener("change", event => (event.matches ? open : close)());
  document.addEventListener("DOMContentLoaded", () => {
    const results = document.getElementById("search-results");
    if (location.protocol !== "file:" || !results) return;
    results.before(Object.assign(document.createElement("p"), {className: "needs-server",
      textContent: "From a folder a search has no excerpts: start `python -m http.server` in it, and open http://localhost:8000."}));
  });
})();
