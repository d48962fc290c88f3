// Enhancements of the admin UI. Without this script the pages work as links and forms, but without
// live figures and previews.
"use strict";
(function () {
  const root = document.documentElement;
  const language = root.lang || "en";
  const secure = location.protocol === "https:" ? "; secure" : "";
  const token = () => document.querySelector("meta[name=csrf-token]").content;
  const all = (selector, within) => Array.from((within || document).querySelectorAll(selector));
  const number = new Intl.NumberFormat(language);
  const fine = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });

  // --- the session ----------------------------------------------------------------------------
  // Say that it has ended; the link leads back to this page.
  const endSession = () => {
    const notice = document.getElementById("session-ended");
    if (!notice || !notice.hidden) return;
    const link = notice.querySelector("a");
    link.href = link.getAttribute("href") + "?next=" + encodeURIComponent(location.pathname + location.search);
    all("[data-mailing], [data-overview], [data-merged]").forEach((part) => part.classList.add("stale"));
    notice.hidden = false;
  };
  const ask = (address, options) => {
    const headers = Object.assign({ "X-Fragment": "yes" }, (options || {}).headers);
    return fetch(address, Object.assign({}, options, { headers: headers })).then((answer) => {
      if (answer.status === 401) endSession();
      return answer.ok ? answer.text() : Promise.reject(answer);
    });
  };
  const parse = (html) => new DOMParser().parseFromString(html, "text/html");
  // Signing in again in another tab makes this page's token invalid: take a new one.
  const renewToken = () =>
    ask(location.href).then((html) => {
      const fresh = parse(html).querySelector("meta[name=csrf-token]").content;
      document.querySelector("meta[name=csrf-token]").content = fresh;
      all("input[name=csrf_token]").forEach((field) => (field.value = fresh));
    });

  // --- light and dark -------------------------------------------------------------------------
  all("[data-theme-switch]").forEach((button) =>
    button.addEventListener("click", (event) => {
      event.preventDefault();
      const next = root.dataset.bsTheme === "dark" ? "light" : "dark";
      root.dataset.theme = root.dataset.bsTheme = next;
      document.cookie = "admin_theme=" + next + "; path=/admin; max-age=31536000; samesite=lax" + secure;
    })
  );

  // --- the menu of narrow pages ---------------------------------------------------------------
  const menuButton = document.querySelector("[data-menu]");
  const openMenu = (open) => {
    menuButton.setAttribute("aria-expanded", String(open));
    document.getElementById(menuButton.getAttribute("aria-controls")).classList.toggle("open", open);
  };
  if (menuButton) {
    menuButton.addEventListener("click", () => openMenu(menuButton.getAttribute("aria-expanded") !== "true"));
    menuButton.closest("header").addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || menuButton.getAttribute("aria-expanded") !== "true") return;
      openMenu(false);
      menuButton.focus();
    });
  }

  // --- close menus on a click elsewhere and on Escape -----------------------------------------
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
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-dialog]");
    const opened = opener && document.getElementById(opener.dataset.dialog);
    if (opened && opened.showModal) {
      event.preventDefault();
      const menu = opener.closest("details.menu");
      if (menu) menu.open = false;
      opened.showModal();
    }
    const closer = event.target.closest("[data-close]");
    const closed = closer && closer.closest("dialog");
    if (closed) {
      event.preventDefault();
      closed.close();
    }
  });

  // --- submit a form only once ----------------------------------------------------------------
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post" || event.defaultPrevented) return;
    if (event.target.dataset.sent) return event.preventDefault();
    event.target.dataset.sent = "yes";
  });
  window.addEventListener("pageshow", () => all("form[data-sent]").forEach((f) => delete f.dataset.sent));

  // The answer to a form, such as the review, is not sent again by Back and Reload.
  const answer = document.querySelector("[data-replace-address]");
  if (answer) history.replaceState(null, "", answer.dataset.replaceAddress);

  // --- live figures ---------------------------------------------------------------------------
  const percent = (part, whole) => {
    if (!whole || !part) return "0 %";
    if (part === whole) return "100 %";
    const value = Math.min(99.9, Math.max(0.1, (100 * part) / whole));
    return (value < 1 || value > 99 ? fine.format(value) : number.format(Math.round(value))) + " %";
  };
  const setText = (box, name, text) =>
    all("[data-" + name + "]", box).forEach((place) => {
      if (place.textContent !== text) place.textContent = text;
    });
  const formatUnit = (value, unit, style) =>
    new Intl.NumberFormat(language, {
      style: "unit", unit: unit, unitDisplay: style, maximumFractionDigits: value < 10 ? 1 : 0,
    }).format(value);
  const formatDuration = (seconds) => {
    const units = [[86400, "day", 172800], [3600, "hour", 3600], [60, "minute", 60], [1, "second", 0]];
    const [size, unit] = units.find((each) => seconds >= each[2]);
    return formatUnit(Math.max(1, Math.round(seconds / size)), unit, "long");
  };
  const formatLatency = (ms) =>
    ms === null ? "—" : ms < 1000 ? formatUnit(ms, "millisecond", "short") : formatUnit(ms / 1000, "second", "short");
  const boxes = () => all("[data-mailing]");
  const drawMailing = (figures) =>
    boxes().filter((box) => box.dataset.mailing === String(figures.id)).forEach((box) => {
      let placed = 0;
      for (const [part, count] of Object.entries(figures.parts)) {
        const rect = box.querySelector("rect." + part);
        if (rect) {
          rect.setAttribute("x", (1000 * placed) / (figures.audience || 1));
          rect.setAttribute("width", (1000 * count) / (figures.audience || 1));
        }
        placed += count;
        setText(box, "part-" + part, number.format(count));
        all("[data-row-" + part + "]", box).forEach((row) => row.classList.toggle("none", !count));
      }
      setText(box, "audience", number.format(figures.audience));
      setText(box, "percent", percent(figures.parts.sent, figures.audience));
      setText(box, "rate", figures.rate === null ? "—" : fine.format(figures.rate));
      setText(box, "left", figures.seconds_left === null ? "—" : formatDuration(figures.seconds_left));
    });
  const drawHealth = (health) => {
    const panel = document.querySelector("[data-health]");
    if (!panel || health.used === undefined) return;
    setText(panel, "h-used", number.format(Math.round(health.used)));
    setText(panel, "h-typical", formatLatency(health.typical_ms));
    setText(panel, "h-slow", formatLatency(health.slow_ms));
    all("[data-h-slow-line]", panel).forEach((line) => (line.hidden = health.slow_ms === null));
    setText(panel, "h-in-flight", number.format(health.in_flight));
    setText(panel, "h-concurrency", number.format(health.concurrency));
    setText(panel, "h-accepted", number.format(health.accepted));
    all("[data-h-share]", panel).forEach((rect) =>
      rect.setAttribute("width", Math.min(100, (100 * health.used) / (health.limit || 1)))
    );
  };
  // --- charts ---------------------------------------------------------------------------------
  // The column under the pointer, or chosen with the arrow keys, is read out below the chart.
  const readColumn = (plot, columns, index) => {
    columns.forEach((column, at) => column.classList.toggle("read", at === index));
    plot.dataset.read = index;
    const lines = columns[index] ? columns[index].querySelector("title").textContent.trim().split("\n") : [];
    plot.closest("[data-chart]").querySelector(".readout").textContent = lines.join(" · ");
  };
  const plotOf = (event) => event.target.closest && event.target.closest("[data-chart] .plot");
  document.addEventListener("pointerover", (event) => {
    const plot = plotOf(event);
    if (!plot) return;
    const columns = all("g", plot);
    readColumn(plot, columns, columns.indexOf(event.target.closest("g")));
  });
  document.addEventListener("keydown", (event) => {
    const plot = plotOf(event);
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (!plot || !(event.key in moves)) return;
    event.preventDefault();
    const columns = all("g", plot);
    const from = Number(plot.dataset.read || columns.length);
    readColumn(plot, columns, Math.min(columns.length - 1, Math.max(0, from + moves[event.key])));
  });

  // --- new versions of a page's parts -----------------------------------------------------------
  // A part waits while something in it is being typed, opened, chosen, selected, read or pressed.
  const inUse = (part) => {
    const active = document.activeElement;
    const typing = part.contains(active) && active.matches("input, textarea, select");
    const changed = all("input, textarea", part).some(
      (field) => field.type !== "hidden" && (field.value !== field.defaultValue || field.checked !== field.defaultChecked)
    );
    const selection = document.getSelection();
    const selected = !selection.isCollapsed && selection.containsNode(part, true);
    const held = part.querySelector("details[open], dialog[open], .plot:hover, .plot:focus") !== null;
    return typing || changed || selected || held || part.matches(":active");
  };
  const replacePart = (part, fresh) => {
    const focused = part.contains(document.activeElement) && document.activeElement.getAttribute("href");
    part.replaceWith(fresh);
    const again = focused && all("a", fresh).find((link) => link.getAttribute("href") === focused);
    if (again) again.focus({ preventScroll: true });
  };
  const waiting = new Map();
  const placeParts = () =>
    waiting.forEach((fresh, id) => {
      const part = document.getElementById(id);
      if (part && inUse(part)) return;
      waiting.delete(id);
      if (part) replacePart(part, fresh);
    });
  setInterval(() => waiting.size && placeParts(), 500);
  // Parts are elements with `data-part` and an id. One that is new or gone has no place: reload then,
  // unless something on the page is in use.
  const refreshParts = () =>
    ask(location.href).then((html) => {
      const found = new Map(all("[data-part]", parse(html)).map((part) => [part.id, part]));
      const shown = all("[data-part]");
      if (shown.length !== found.size || shown.some((part) => !found.has(part.id))) {
        if (!shown.some(inUse)) location.reload();
        return;
      }
      found.forEach((fresh, id) => waiting.set(id, fresh));
      placeParts();
    });

  const liveBoxes = () => boxes().filter((box) => box.dataset.live);
  const overview = () => document.querySelector("[data-overview]");
  if ((liveBoxes().length || overview()) && window.EventSource) {
    const ids = overview() ? [] : Array.from(new Set(liveBoxes().map((box) => box.dataset.mailing)));
    const address = root.dataset.live + "?" + ids.map((id) => "mailing=" + id).join("&");
    let source = null;
    let drawnAt = Date.now();
    let redrawing = false;
    // Pages are refreshed when a mailing's status or an alert changes; the overview also each minute,
    // and a mailing's page, whose other numbers would contradict the live ones, four times as often.
    const redrawEvery = overview() ? 60000 : 15000;
    const redraw = () => {
      redrawing = true;
      refreshParts()
        .catch(() => {})
        .finally(() => {
          drawnAt = Date.now();
          redrawing = false;
        });
    };
    const receive = (message) => {
      const event = JSON.parse(message.data);
      // The figures may be two seconds older than a page that was just loaded.
      const settled = Date.now() - drawnAt > 3000;
      // A mailing whose status has changed, or that the event does not contain any more.
      const states = new Map(event.mailings.map((each) => [String(each.id), each.status]));
      const changed = settled && liveBoxes().some((box) => states.get(box.dataset.mailing) !== box.dataset.status);
      event.mailings.forEach(drawMailing);
      if (!overview() && !liveBoxes().length) return source.close();
      let different = false;
      if (overview()) {
        drawHealth(event.health);
        const started = event.mailings.length > liveBoxes().length && liveBoxes().length < 12;
        different = settled && (started || event.alerts !== overview().dataset.overview);
      }
      const outdated = Date.now() - drawnAt > redrawEvery && document.querySelector("[data-part]");
      if (!redrawing && (changed || different || outdated)) redraw();
    };
    // The browser repeats a connection that broke, but not one that was answered with an error.
    const connect = () => {
      source = new EventSource(address);
      source.onmessage = receive;
      source.onerror = () => {
        if (source.readyState !== EventSource.CLOSED) return;
        ask(address)
          .then(() => setTimeout(connect, 2000))
          .catch((answer) => answer.status === 401 || setTimeout(connect, 5000));
      };
    };
    connect();
    window.addEventListener("pagehide", () => source.close());
  }

  // --- the form of a mailing: preview, test send, inserted placeholders, picked filters --------
  const form = document.querySelector("form[data-preview]");
  const sendForm = (address) =>
    ask(address, {
      method: "POST",
      body: new URLSearchParams(new FormData(form)),
      headers: { "X-CSRFToken": token() },
    });
  const postForm = (address, receive, fail) =>
    sendForm(address)
      .catch((answer) => (answer.status === 400 ? renewToken().then(() => sendForm(address)) : Promise.reject(answer)))
      .then(receive)
      .catch(fail);
  if (form) {
    const place = document.getElementById("preview");
    let timer = 0;
    let busy = false;
    let outdated = false;
    const splitList = (field) => field.value.split(/[,;]/).map((each) => each.trim()).filter(Boolean);
    const listed = (button) =>
      all("input[type=checkbox]", form).find((box) => box.name === button.dataset.pick && box.value === button.value);
    const markPicked = () =>
      all("[data-pick]", place).forEach((button) => {
        const box = listed(button);
        const typed = splitList(document.getElementById(button.dataset.pick)).includes(button.value);
        button.setAttribute("aria-pressed", String(typed || Boolean(box && box.checked)));
      });
    const outdatedNotice = document.getElementById("preview-outdated");
    const markOutdated = (old) => {
      outdatedNotice.hidden = !old;
      place.classList.toggle("stale", old);
    };
    const showPreview = (html) => {
      markOutdated(false);
      const focused = place.contains(document.activeElement) ? document.activeElement : null;
      place.innerHTML = html;
      markPicked();
      // Keep the keyboard focus on the same button of the new preview.
      const again = focused && all("[data-pick]", place).find(
        (each) => each.dataset.pick === focused.dataset.pick && each.value === focused.value
      );
      if (again) again.focus();
    };
    // One request at a time: a preview of a large directory takes seconds, and the API bounds them.
    const requestPreview = () => {
      if (busy) {
        outdated = true;
        return;
      }
      busy = true;
      outdated = false;
      let pause = 0;
      postForm(form.dataset.preview, (html) => outdated || showPreview(html), (answer) => {
        if (answer.status !== 429) return markOutdated(true);
        outdated = true;
        pause = 1000 * (Number(answer.headers.get("Retry-After")) || 2);
      }).finally(() =>
        setTimeout(() => {
          busy = false;
          if (outdated) requestPreview();
        }, pause)
      );
    };
    const update = () => {
      all("[data-shown-if]", form).forEach((section) => {
        const [name, value] = section.dataset.shownIf.split("=");
        const field = form.elements[name];
        const now = field.type === "checkbox" ? (field.checked ? "yes" : "") : field.value;
        section.hidden = now !== value;
      });
      clearTimeout(timer);
      timer = setTimeout(requestPreview, 350);
    };
    form.addEventListener("input", (event) => event.target.name === "test_phones" || update());
    form.addEventListener("change", (event) => event.target.name === "test_phones" || update());
    update();

    place.addEventListener("click", (event) => {
      const button = event.target.closest("[data-pick]");
      if (!button) return;
      const field = document.getElementById(button.dataset.pick);
      const chosen = splitList(field);
      const at = chosen.indexOf(button.value);
      const box = listed(button);
      if (at >= 0) field.value = chosen.filter((each) => each !== button.value).join(", ");
      else if (box) box.checked = !box.checked;
      else field.value = chosen.concat(button.value).join(", ");
      for (let folded = (box || field).closest("details"); folded; folded = folded.parentElement.closest("details")) {
        folded.open = true;
      }
      markPicked();
      update();
    });

    all("[data-insert-into]", form).forEach((row) => {
      const field = form.elements[row.dataset.insertInto];
      row.hidden = false;
      row.addEventListener("click", (event) => {
        const chip = event.target.closest("[data-insert]");
        if (!chip) return;
        field.setRangeText(chip.dataset.insert, field.selectionStart, field.selectionEnd, "end");
        field.focus();
        update();
      });
    });

    const test = form.querySelector("[data-test]");
    test.addEventListener("click", (event) => {
      event.preventDefault();
      const results = document.getElementById("test");
      const showResults = (html) => {
        results.innerHTML = html;
        test.disabled = false;
        test.removeAttribute("aria-busy");
      };
      test.disabled = true;
      test.setAttribute("aria-busy", "true");
      postForm(test.getAttribute("formaction"), showResults, () => {
        showResults("");
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
      request.setRequestHeader("X-File-Name", encodeURIComponent(file.name));
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
  // While an import is merged, reload its progress.
  const merging = document.querySelector("[data-merging]");
  if (merging) {
    const reload = () =>
      ask(location.href)
        .then((html) => {
          const found = parse(html).querySelector("[data-merged]");
          const place = document.querySelector("[data-merged]");
          const going = found && found.querySelector("[data-merging]");
          if (found && place && (!going || !inUse(place))) replacePart(place, found);
          if (going) setTimeout(reload, 700);
        })
        .catch((answer) => answer.status === 401 || setTimeout(reload, 2000));
    setTimeout(reload, 500);
  }

  // --- count down to a start --------------------------------------------------------------------
  setInterval(() => {
    all("[data-countdown]").forEach((part) => {
      const shown = Number(part.textContent.match(/\d+/));
      if (!part.dataset.endsAt) part.dataset.endsAt = performance.now() + shown * 1000;
      const left = Math.max(0, Math.ceil((part.dataset.endsAt - performance.now()) / 1000));
      if (left !== shown) part.textContent = part.textContent.replace(/\d+/, left);
    });
  }, 250);

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
