// Printing opens what is folded; afterwards everything is as it was.
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
})();
