// Drafts: what is being written into a form with `data-draft` is kept in this tab of the browser until
// it is saved, survives signing in again, and leaving it warns. Drafts belong to one person.
"use strict";
(function () {
  const person = document.documentElement.dataset.person;
  if (!person) return;
  const PREFIX = "draft:" + person + ":";
  const PLACE = "draft-place:";
  const PENDING = "draft-pending";
  // Storage may be disabled or full: then there are no drafts, but the warning remains.
  const get = (key) => {
    try {
      return sessionStorage.getItem(key);
    } catch (error) {
      return null;
    }
  };
  const set = (key, value) => {
    try {
      if (value === null) sessionStorage.removeItem(key);
      else sessionStorage.setItem(key, value);
    } catch (error) {
      return;
    }
  };
  let leaving = false;
  window.addEventListener("pageshow", () => (leaving = false));

  // A submitted form's draft is dropped by the page that says that it is saved.
  const pending = get(PENDING);
  set(PENDING, null);
  if (pending && document.querySelector(".notice.success")) set(pending, null);

  // The pages between a form and its success: the review, the choice between two versions.
  const step = document.querySelector("form[data-draft-step]");
  if (step) step.addEventListener("submit", () => set(PENDING, get(PLACE + step.dataset.draftStep)));

  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-discard-draft], #session-ended a");
    if (!link) return;
    leaving = true;
    if (link.hasAttribute("data-discard-draft") && step) set(get(PLACE + step.dataset.draftStep) || "", null);
  });
  document.addEventListener("submit", (event) => {
    if (!event.target.action.endsWith("/sign-out")) return;
    try {
      Object.keys(sessionStorage)
        .filter((key) => key.startsWith("draft"))
        .forEach((key) => sessionStorage.removeItem(key));
    } catch (error) {
      return;
    }
  });

  const form = document.querySelector("form[data-draft]");
  if (!form) return;
  const submitted = form.hasAttribute("data-submitted");
  const path = new URL(form.action).pathname;
  // The form of a copy has a draft of its own; one that comes back from the review has its first.
  const repeated = submitted || new URLSearchParams(location.search).has("once");
  const key = repeated ? get(PLACE + path) || PREFIX + path : PREFIX + path + location.search;
  set(PLACE + path, key);
  const read = () =>
    JSON.stringify(
      Array.from(new FormData(form)).filter(([name, value]) => name !== "csrf_token" && typeof value === "string")
    );
  const fill = (draft) => {
    const values = new Map();
    draft.forEach(([name, value]) => values.set(name, (values.get(name) || []).concat(value)));
    const fields = Array.from(form.elements).filter((each) => values.has(each.name) || each.type === "checkbox");
    const boxes = fields.filter((each) => each.type === "checkbox" || each.type === "radio");
    boxes.forEach((each) => {
      const list = values.get(each.name) || [];
      each.checked = list.includes(each.value);
      if (each.checked) list.splice(list.indexOf(each.value), 1);
    });
    fields.filter((each) => !boxes.includes(each) && each.type !== "submit").forEach((each) => {
      if (each.name !== "csrf_token") each.value = (values.get(each.name) || []).join(", ");
    });
    form.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // Fields that an earlier submission failed to save are unsaved from the start.
  const saved = submitted ? "" : read();
  const draft = submitted ? null : get(key);
  if (draft && draft !== saved) {
    fill(JSON.parse(draft));
    const notice = document.getElementById("draft-restored");
    notice.hidden = false;
    notice.querySelector("button").addEventListener("click", () => {
      set(key, null);
      leaving = true;
      location.assign(path + (key.split("?")[1] ? "?" + key.split("?")[1] : ""));
    });
  }
  const keep = () => set(key, read() === saved ? null : read());
  ["input", "change", "click"].forEach((name) => form.addEventListener(name, () => setTimeout(keep)));
  if (submitted) keep();
  form.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    keep();
    leaving = true;
    set(PENDING, key);
  });
  window.addEventListener("beforeunload", (event) => {
    if (leaving || read() === saved) return;
    keep();
    event.preventDefault();
    event.returnValue = ""; // for older browsers
  });
})();
