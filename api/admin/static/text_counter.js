// The counter under a mailing's text: units, SMS segments and their cost, as
// shared/domain/segments.py measures them. Without this script it shows what was submitted.
"use strict";
(function () {
  const field = document.querySelector("[data-counted]");
  const counter = field && document.getElementById(field.dataset.counted);
  if (!counter) return;
  const number = new Intl.NumberFormat(document.documentElement.lang || "en");
  const basic = new Set(counter.dataset.basic);
  const extension = new Set(counter.dataset.extension);
  const costs = JSON.parse(counter.dataset.costs);
  const limit = Number(counter.dataset.limit);

  // Defaults count; the values of placeholders are not known. Double braces are braces.
  const withoutValues = (text) =>
    text.replace(/\{\{|\}\}|\{[^{}|]*(?:\|([^{}]*))?\}/g, (found, other) =>
      found === "{{" || found === "}}" ? found[0] : other || ""
    );
  const measure = (text) => {
    const characters = Array.from(text);
    const gsm = characters.every((each) => basic.has(each) || extension.has(each));
    const widths = characters.map((each) => (gsm ? (extension.has(each) ? 2 : 1) : each.length));
    const [single, several] = gsm ? [160, 153] : [70, 67];
    const units = widths.reduce((sum, each) => sum + each, 0);
    if (units <= single) return { units: units, segments: 1, capacity: single };
    let segments = 1;
    let free = several;
    widths.forEach((each) => {
      if (each > free) {
        segments += 1;
        free = several;
      }
      free -= each;
    });
    return { units: units, segments: segments, capacity: several * segments };
  };
  const count = () => {
    const text = field.value.trim();
    const excess = Array.from(text).length - limit;
    counter.classList.toggle("over", excess > 0);
    const found = measure(withoutValues(text));
    const values = {
      units: number.format(found.units),
      capacity: number.format(found.capacity),
      segments: number.format(found.segments),
      cost: costs[found.segments - 1] || "",
      limit: number.format(limit),
      excess: number.format(excess),
    };
    const pattern = excess > 0 ? counter.dataset.excess : counter.dataset.pattern;
    counter.textContent = pattern.replace(/\[(\w+)\]/g, (_, name) => values[name]);
  };
  field.form.addEventListener("input", count);
  // Browsers restore texts without an event.
  window.addEventListener("pageshow", count);
  count();
})();
