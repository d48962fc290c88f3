// Adds an attribute and its value, chosen from lists, to a mailing's filter. Without this script they
// are added when the form is submitted.
"use strict";
(function () {
  const adder = document.querySelector("[data-attribute-adder]");
  if (!adder) return;
  const lines = document.getElementById("attributes");
  const name = document.getElementById("attribute_name");
  const value = document.getElementById("attribute_value");
  const values = document.getElementById("attribute_values");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "btn btn-plain mt-2";
  button.textContent = adder.dataset.add;
  adder.after(button);

  const add = () => {
    const written = value.value.trim();
    if (!name.value || !written) return (name.value ? value : name).focus();
    const before = lines.value.trim();
    lines.value = (before ? before + "\n" : "") + name.value + " = " + written;
    name.value = value.value = "";
    lines.dispatchEvent(new Event("input", { bubbles: true }));
    name.focus();
  };
  button.addEventListener("click", add);
  value.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    add();
  });
  name.addEventListener("change", () => {
    values.replaceChildren();
    if (!name.value) return;
    fetch(adder.dataset.attributeAdder + "?name=" + encodeURIComponent(name.value))
      .then((answer) => (answer.ok ? answer.json() : { values: [] }))
      .then((found) => {
        values.replaceChildren(
          ...found.values.map((each) => {
            const option = document.createElement("option");
            option.value = each;
            return option;
          })
        );
      })
      .catch(() => {});
  });
})();
