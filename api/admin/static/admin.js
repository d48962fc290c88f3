// What the pages can do beyond links and forms. Without it they still work, but for imports.
"use strict";
(function () {
  const root = document.documentElement;
  const language = root.lang || "en";
  const secure = location.protocol === "https:" ? "; secure" : "";
  const token = () => document.querySelector("meta[name=csrf-token]").content;
  const all = (selector, within) => Array.from((within || document).querySelectorAll(selector));
  const number = new Intl.NumberFormat(language);
  const fine = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });

  // --- light and dark -------------------------------------------------------------------------
  all("[data-theme-switch]").forEach((button) =>
    button.addEventListener("click", () => {
      const next = root.dataset.bsTheme === "dark" ? "light" : "dark";
      root.dataset.theme = root.dataset.bsTheme = next;
      document.cookie = "admin_theme=" + next + "; path=/admin; max-age=31536000; samesite=lax" + secure;
    })
  );

  // --- menus close when one clicks elsewhere, or by Escape ------------------------------------
  document.addEventListener("click", (event) =>
    all("details.menu[open]").forEach((menu) => menu.contains(event.target) || (menu.open = false))
  );
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    all("details.menu[open]").forEach((menu) => {
      menu.open = false;
      menu.querySelector("summary").focus();
    });
  });

  // --- confirmations --------------------------------------------------------------------------
  all("[data-dialog]").forEach((opener) =>
    opener.addEventListener("click", (event) => {
      const dialog = document.getElementById(opener.dataset.dialog);
      if (!dialog || !dialog.showModal) return;
      event.preventDefault();
      const menu = opener.closest("details.menu");
      if (menu) menu.open = false;
      dialog.showModal();
    })
  );
  all("[data-close]").forEach((closer) =>
    closer.addEventListener("click", (event) => {
      const dialog = closer.closest("dialog");
      if (!dialog) return;
      event.preventDefault();
      dialog.close();
    })
  );

  // --- a form is sent once --------------------------------------------------------------------
  all("form[method=post]").forEach((form) =>
    form.addEventListener("submit", (event) => {
      if (event.defaultPrevented) return;
      if (form.dataset.sent) return event.preventDefault();
      form.dataset.sent = "yes";
    })
  );
  window.addEventListener("pageshow", () => all("form[data-sent]").forEach((f) => delete f.dataset.sent));

  // --- live figures ---------------------------------------------------------------------------
  const percent = (part, whole) => {
    if (!whole || !part) return "0 %";
    if (part === whole) return "100 %";
    const value = Math.min(99.9, Math.max(0.1, (100 * part) / whole));
    return (value < 1 || value > 99 ? fine.format(value) : number.format(Math.round(value))) + " %";
  };
  const put = (box, name, text) =>
    all("[data-" + name + "]", box).forEach((place) => {
      if (place.textContent !== text) place.textContent = text;
    });
  const measured = (value, unit, style) =>
    new Intl.NumberFormat(language, {
      style: "unit", unit: unit, unitDisplay: style, maximumFractionDigits: value < 10 ? 1 : 0,
    }).format(value);
  const lasting = (seconds) => {
    const units = [[86400, "day", 172800], [3600, "hour", 3600], [60, "minute", 60], [1, "second", 0]];
    const [size, unit] = units.find((each) => seconds >= each[2]);
    return measured(Math.max(1, Math.round(seconds / size)), unit, "long");
  };
  const answered = (ms) =>
    ms === null ? "—" : ms < 1000 ? measured(ms, "millisecond", "short") : measured(ms / 1000, "second", "short");
  const boxes = () => all("[data-mailing]");
  const draw = (figures) =>
    boxes().filter((box) => box.dataset.mailing === String(figures.id)).forEach((box) => {
      let placed = 0;
      for (const [part, count] of Object.entries(figures.parts)) {
        const rect = box.querySelector("rect." + part);
        if (rect) {
          rect.setAttribute("x", (1000 * placed) / (figures.audience || 1));
          rect.setAttribute("width", (1000 * count) / (figures.audience || 1));
        }
        placed += count;
        put(box, "part-" + part, number.format(count));
        all("[data-row-" + part + "]", box).forEach((row) => row.classList.toggle("none", !count));
      }
      put(box, "audience", number.format(figures.audience));
      put(box, "percent", percent(figures.parts.sent, figures.audience));
      put(box, "rate", figures.rate === null ? "—" : fine.format(figures.rate));
      put(box, "left", figures.seconds_left === null ? "—" : lasting(figures.seconds_left));
    });
  const drawHealth = (health) => {
    const panel = document.querySelector("[data-health]");
    if (!panel || health.used === undefined) return;
    put(panel, "h-used", number.format(Math.round(health.used)));
    put(panel, "h-typical", answered(health.typical_ms));
    put(panel, "h-slow", answered(health.slow_ms));
    put(panel, "h-in-flight", number.format(health.in_flight));
    put(panel, "h-accepted", number.format(health.accepted));
    all("[data-h-share]", panel).forEach((rect) =>
      rect.setAttribute("width", Math.min(100, (100 * health.used) / (health.limit || 1)))
    );
  };
  const followed = () => boxes().filter((box) => box.dataset.live);
  const overview = () => document.querySelector("[data-overview]");
  const busy = () => document.querySelector("dialog[open]") !== null;
  if ((followed().length || overview()) && window.EventSource) {
    const only = overview() ? [] : Array.from(new Set(followed().map((box) => box.dataset.mailing)));
    const source = new EventSource(root.dataset.live + "?" + only.map((id) => "mailing=" + id).join("&"));
    let drawnAt = Date.now();
    let drawing = false;
    // The overview is drawn anew when something else runs or needs attention, or when it is old.
    const redraw = () => {
      drawing = true;
      fetch(location.href)
        .then((answer) => answer.text())
        .then((html) => {
          const found = new DOMParser().parseFromString(html, "text/html").querySelector("[data-overview]");
          if (!found) return location.reload();
          const within = overview().contains(document.activeElement) && document.activeElement.getAttribute("href");
          overview().replaceWith(found);
          const again = within && all("a", found).find((link) => link.getAttribute("href") === within);
          if (again) again.focus();
        })
        .catch(() => {})
        .finally(() => {
          drawnAt = Date.now();
          drawing = false;
        });
    };
    source.onmessage = (event) => {
      const told = JSON.parse(event.data);
      // What a page shows is as new as itself; the figures may be two seconds older.
      const rested = Date.now() - drawnAt > 3000;
      // One whose state has changed, or that is not told of any more, is shown as it is now.
      const states = new Map(told.mailings.map((each) => [String(each.id), each.status]));
      const passed = rested && followed().some((box) => states.get(box.dataset.mailing) !== box.dataset.status);
      told.mailings.forEach(draw);
      if (!overview()) {
        if (passed && !busy()) {
          source.close();
          location.reload();
        }
        return;
      }
      drawHealth(told.health);
      const begun = told.mailings.length > followed().length && followed().length < 12;
      const other = begun || told.alerts !== overview().dataset.overview;
      const old = Date.now() - drawnAt > 60000;
      if (!drawing && (passed || (rested && other) || old)) redraw();
    };
    window.addEventListener("pagehide", () => source.close());
  }

  // --- the form of a mailing: its preview, its test, what is inserted and picked ---------------
  const form = document.querySelector("form[data-preview]");
  const part = (address, receive, fail) =>
    fetch(address, {
      method: "POST",
      body: new URLSearchParams(new FormData(form)),
      headers: { "X-CSRFToken": token(), "X-Fragment": "yes" },
    })
      .then((answer) => (answer.ok ? answer.text() : Promise.reject()))
      .then(receive)
      .catch(fail || (() => {}));
  if (form) {
    const place = document.getElementById("preview");
    let timer = 0;
    let asked = 0;
    const parted = (field) => field.value.split(/[,;]/).map((each) => each.trim()).filter(Boolean);
    const mark = () =>
      all("[data-pick]", place).forEach((button) => {
        const field = form.elements[button.dataset.pick];
        button.setAttribute("aria-pressed", String(parted(field).includes(button.value)));
      });
    const ask = () => {
      const mine = ++asked;
      part(form.dataset.preview, (html) => {
        if (mine !== asked) return;
        const held = place.contains(document.activeElement) ? document.activeElement : null;
        place.innerHTML = html;
        mark();
        // Whoever picks by the keyboard goes on where they were.
        const again = held && all("[data-pick]", place).find(
          (each) => each.dataset.pick === held.dataset.pick && each.value === held.value
        );
        if (again) again.focus();
      });
    };
    const settle = () => {
      all("[data-shown-if]", form).forEach((section) => {
        const [name, value] = section.dataset.shownIf.split("=");
        const field = form.elements[name];
        const now = field.type === "checkbox" ? (field.checked ? "yes" : "") : field.value;
        section.hidden = now !== value;
      });
      clearTimeout(timer);
      timer = setTimeout(ask, 350);
    };
    form.addEventListener("input", (event) => event.target.name === "test_phones" || settle());
    form.addEventListener("change", (event) => event.target.name === "test_phones" || settle());
    settle();

    place.addEventListener("click", (event) => {
      const button = event.target.closest("[data-pick]");
      if (!button) return;
      const field = form.elements[button.dataset.pick];
      const chosen = parted(field);
      const at = chosen.indexOf(button.value);
      if (at < 0) chosen.push(button.value);
      else chosen.splice(at, 1);
      field.value = chosen.join(", ");
      const folded = field.closest("details");
      if (folded) folded.open = true;
      mark();
      settle();
    });

    all("[data-insert-into]", form).forEach((row) => {
      const field = form.elements[row.dataset.insertInto];
      row.hidden = false;
      row.addEventListener("click", (event) => {
        const chip = event.target.closest("[data-insert]");
        if (!chip) return;
        field.setRangeText(chip.dataset.insert, field.selectionStart, field.selectionEnd, "end");
        field.focus();
        settle();
      });
    });

    const test = form.querySelector("[data-test]");
    test.addEventListener("click", (event) => {
      event.preventDefault();
      const results = document.getElementById("test");
      const say = (html) => {
        results.innerHTML = html;
        test.disabled = false;
        test.removeAttribute("aria-busy");
      };
      test.disabled = true;
      test.setAttribute("aria-busy", "true");
      part(test.getAttribute("formaction"), say, () => {
        say("");
        results.textContent = test.dataset.test;
      });
    });
    form.elements.test_phones.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      test.click();
    });
  }

  // --- import ---------------------------------------------------------------------------------
  const importer = document.querySelector("form[data-import]");
  if (importer) {
    const bar = document.getElementById("upload-bar");
    const problem = document.getElementById("upload-problem");
    const button = importer.querySelector("button[type=submit]");
    const refuse = (text) => {
      problem.querySelector("p").textContent = text;
      problem.hidden = false;
      bar.hidden = true;
      button.disabled = false;
      delete importer.dataset.sent;
      problem.focus();
    };
    importer.addEventListener("submit", (event) => {
      event.preventDefault();
      const file = importer.elements.file.files[0];
      if (!file) return;
      if (file.size > Number(importer.dataset.limit)) return refuse(importer.dataset.tooLarge);
      const query = new URLSearchParams();
      ["tag", "timezone"].forEach((name) => {
        if (importer.elements[name].value.trim()) query.set(name, importer.elements[name].value.trim());
      });
      const request = new XMLHttpRequest();
      request.open("POST", importer.dataset.import + "?" + query);
      request.setRequestHeader("Content-Type", "text/csv");
      request.setRequestHeader("X-CSRFToken", token());
      request.upload.onprogress = (step) => {
        bar.hidden = false;
        bar.querySelector("progress").value = step.lengthComputable ? step.loaded / step.total : 0;
      };
      request.onload = () => {
        let answer = {};
        try {
          answer = JSON.parse(request.responseText);
        } catch (error) {
          answer = {};
        }
        if (answer.page) location.assign(answer.page);
        else refuse(answer.problem || importer.dataset.failed);
      };
      request.onerror = () => refuse(importer.dataset.failed);
      problem.hidden = true;
      button.disabled = true;
      bar.hidden = false;
      request.send(file);
    });
  }
  // While an import is merged, its page is asked for again.
  const merging = document.querySelector("[data-merging]");
  if (merging) {
    const again = () =>
      fetch(location.href)
        .then((answer) => answer.text())
        .then((html) => {
          const found = new DOMParser().parseFromString(html, "text/html").querySelector("[data-merged]");
          const place = document.querySelector("[data-merged]");
          if (found && place) place.replaceWith(found);
          if (found && found.querySelector("[data-merging]")) setTimeout(again, 700);
        })
        .catch(() => setTimeout(again, 2000));
    setTimeout(again, 500);
  }

  // --- copy a secret --------------------------------------------------------------------------
  all("[data-copy]").forEach((button) =>
    button.addEventListener("click", () => {
      const field = document.getElementById(button.dataset.copy);
      field.select();
      if (navigator.clipboard) navigator.clipboard.writeText(field.value);
      button.textContent = button.dataset.copied;
    })
  );
})();
