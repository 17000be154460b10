"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const { columns, texts, count } = data.runs;
  const PAGE = 20, PRINTED = 50, LABELS = 2;

  const text = (name, row) => (columns[name][row] < 0 ? "" : texts[name][columns[name][row]]);
  const scaled = (amount, steps, like = amount) => {
    if (amount === null) return "unknown";
    const [factor, unit] = steps.find(([f]) => Math.abs(like) >= 0.9995 * f) || steps[steps.length - 1];
    const value = amount / factor;
    if (value === 0) return `0 ${unit}`;
    if (value > 0 && value < 0.005) return `<0.01 ${unit}`; // 0.00 would say that there is nothing
    const size = Math.abs(value);
    return `${value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2)} ${unit}`;
  };
  const GRAMS = [[1e6, "t"], [1e3, "kg"], [1, "g"], [1e-3, "mg"], [1e-6, "µg"]];
  const LARGE = [[3.6e9, "MWh"], [3.6e6, "kWh"], [3600, "Wh"]];
  const SMALL = [[1e3, "kJ"], [1, "J"], [1e-3, "mJ"], [1e-6, "µJ"]];
  const grams = (g, like) => scaled(g, GRAMS, like);
  const energy = (kwh, like = kwh) =>
    kwh === null ? "unknown" : scaled(kwh * 3.6e6, like * 3.6e6 < 3600 ? SMALL : LARGE, like * 3.6e6);
  // the unit once: "1.20 to 1.80 g"
  const interval = (form, best, low, high) => {
    const like = Math.max(best, high);
    return `${form(low, like).split(" ")[0]} to ${form(high, like)}`;
  };
  // a figure and its interval have one unit, that of the larger
  const withInterval = (form, best, low, high) =>
    best === null || low === null || high === null
      ? form(best)
      : `${form(best, Math.max(best, high))} (${interval(form, best, low, high)})`;
  const seconds = (s) => {
    if (s === null) return "";
    if (s < 1) return `${Number((s * 1e3).toPrecision(3))} ms`;
    if (s < 59.95) return `${s.toFixed(1)} s`;
    const whole = Math.round(s), m = Math.floor(whole / 60);
    const two = (n) => String(n).padStart(2, "0");
    return m < 60 ? `${m} min ${two(whole % 60)} s` : `${Math.floor(m / 60)} h ${two(m % 60)} min`;
  };
  const moment = (ms) => (ms === null ? "" : new Date(ms).toISOString().slice(0, 16).replace("T", " "));
  const element = (tag, content, className) => {
    const made = document.createElement(tag);
    if (content !== undefined) made.textContent = content;
    if (className) made.className = className;
    return made;
  };

  const place = (row) => (columns.region[row] < 0 ? "" : data.runs.places[columns.region[row]]);
  const labelTexts = texts.labels.map((pairs) => pairs.map(([key, value]) => `${key}=${value}`));
  const labels = (row) => (columns.labels[row] < 0 ? [] : labelTexts[columns.labels[row]]);

  // ---- the table of runs
  const table = () => {
    const state = { sort: "emissions_g", down: true, page: 0, rows: [], labels: [], size: PAGE };
    const haystack = [];
    for (let row = 0; row < count; row++) {
      const own = [...["name", "host_id", "region"].map((n) => text(n, row)), place(row), ...labels(row)];
      haystack.push(own.join("\n").toLowerCase());
    }
    const most = columns.emissions_high_g.reduce((a, b) => Math.max(a, b || 0), 0)
      || columns.emissions_g.reduce((a, b) => Math.max(a, b || 0), 0) || 1;
    // a square root lets small runs be seen beside large ones
    const at = (g) => `${(100 * Math.sqrt(Math.max(0, g) / most)).toFixed(2)}%`;

    const intervalBar = (row) => {
      const [g, low, high] = ["", "low_", "high_"].map((end) => columns[`emissions_${end}g`][row]);
      if (g === null) return "";
      const bar = element("span", undefined, "bar");
      if (low !== null && high !== null) {
        const width = element("i");
        width.style.left = at(low);
        width.style.right = `calc(100% - ${at(high)})`;
        bar.append(width);
        bar.title = interval(grams, g, low, high);
      }
      const tick = element("b");
      tick.style.left = `min(calc(100% - 2px), ${at(g)})`;
      bar.append(tick);
      return bar;
    };

    const compare = (a, b) => {
      const column = columns[state.sort];
      const shown = state.sort === "region" ? place : (row) => text(state.sort, row);
      const [x, y] = texts[state.sort] ? [shown(a), shown(b)] : [column[a], column[b]];
      if (x === y) return a - b;
      if (x === null || x === "") return 1;
      if (y === null || y === "") return -1;
      return (x < y ? -1 : 1) * (state.down ? -1 : 1);
    };

    const choose = () => {
      const words = find("q").value.toLowerCase().split(/\s+/).filter(Boolean);
      const wanted = ["region", "basis", "status"].map((n) => [n, find(`f-${n}`).value]).filter(([, v]) => v);
      state.rows = [];
      for (let row = 0; row < count; row++) {
        if (
          wanted.every(([n, v]) => text(n, row) === v)
          && state.labels.every((label) => labels(row).includes(label))
          && words.every((w) => haystack[row].includes(w))
        ) {
          state.rows.push(row);
        }
      }
      find("clear").hidden = !(words.length || wanted.length || state.labels.length);
      find("active").hidden = !state.labels.length;
      find("active").replaceChildren(...state.labels.map(activeLabel));
      state.rows.sort(compare);
      state.page = 0;
      draw();
    };

    const activeLabel = (label) => {
      const item = element("li"), button = element("button", `${label} \u00d7`, "chip label");
      button.type = "button";
      button.setAttribute("aria-label", `Remove the filter ${label}`);
      button.addEventListener("click", () => {
        state.labels = state.labels.filter((other) => other !== label);
        choose();
        find("q").focus();
      });
      item.append(button);
      return item;
    };
    const labelChip = (label) => {
      const button = element("button", label, "chip label");
      button.type = "button";
      button.title = `Show only runs with ${label}`;
      button.addEventListener("click", () => {
        if (!state.labels.includes(label)) state.labels.push(label);
        choose();
      });
      return button;
    };
    const labelChips = (own, most = own.length) => {
      const chips = element("span", undefined, "labels");
      chips.append(...own.slice(0, most).map(labelChip));
      if (own.length > most) chips.append(element("span", `+${own.length - most}`, "soft"));
      return chips;
    };

    const add = (list, term, content) => {
      if (!content) return;
      const dd = element("dd");
      dd.append(content);
      list.append(element("dt", term), dd);
    };
    const where = (row) => {
      const code = text("region", row), name = place(row);
      return name.includes(code) ? name : `${name} (${code})`;
    };
    const details = (row) => {
      const tr = element("tr", undefined, "more"), td = element("td"), list = element("dl");
      td.colSpan = 8;
      const g = columns.emissions_g[row], kwh = columns.energy_kwh[row];
      const [lowG, highG] = [columns.emissions_low_g[row], columns.emissions_high_g[row]];
      const [low, high] = [columns.energy_low_kwh[row], columns.energy_high_kwh[row]];
      add(list, "Name", text("name", row));
      add(list, "Labels", labels(row).length ? labelChips(labels(row)) : "");
      const started = columns.started_ms[row] === null ? "" : `${moment(columns.started_ms[row])} UTC`;
      const course = [started, seconds(columns.duration_s[row]), text("status", row)];
      add(list, "Started", course.filter(Boolean).join(", "));
      add(list, "Energy", withInterval(energy, kwh, low, high));
      add(list, "CO2e", withInterval(grams, g, lowG, highG));
      for (const [name, title] of [["cpu", "CPU"], ["gpu", "GPU"], ["ram", "Memory"], ["other", "Other"]]) {
        const part = columns[`${name}_kwh`][row];
        const basis = name === "other" ? "basis" : `${name}_basis`;
        if (part !== null) add(list, title, `${energy(part)}, ${text(basis, row) || "how is unknown"}`);
      }
      const intensity = columns.intensity_g_per_kwh[row];
      if (intensity !== null) {
        const figure = `${Number(intensity.toPrecision(4))} g CO2e/kWh`;
        add(list, "Grid", [where(row), figure, text("intensity_source", row)].filter(Boolean).join(", "));
      }
      if (columns.pue[row] !== null) add(list, "PUE", String(columns.pue[row]));
      if (columns.coverage[row] !== null) add(list, "Observed", `${(columns.coverage[row] * 100).toFixed(0)} % of the time`);
      add(list, "Meters", text("meters", row).replaceAll(";", ", "));
      add(list, "Hardware", [text("cpu_model", row), text("gpu_models", row)].filter(Boolean).join("; "));
      add(list, "Host", text("host_id", row));
      td.append(list);
      tr.append(td);
      return tr;
    };

    const line = (row) => {
      const tr = element("tr"), name = element("td", undefined, "name");
      const button = element("button", text("name", row));
      button.type = "button";
      button.setAttribute("aria-expanded", "false");
      button.addEventListener("click", () => {
        const open = button.getAttribute("aria-expanded") === "true";
        button.setAttribute("aria-expanded", String(!open));
        if (open) tr.nextSibling.remove();
        else tr.after(details(row));
      });
      name.append(button);
      if (labels(row).length) name.append(labelChips(labels(row), LABELS));
      const basis = text("basis", row), known = element("td");
      known.append(element("span", basis || "unknown", `chip ${["measured", "modelled", "assumed"].includes(basis) ? basis : ""}`));
      const drawn = element("td", undefined, "span wide");
      drawn.append(intervalBar(row));
      tr.append(
        name,
        element("td", moment(columns.started_ms[row]), "date wide"),
        element("td", seconds(columns.duration_s[row]), "num wide"),
        element("td", energy(columns.energy_kwh[row]), "num"),
        element("td", grams(columns.emissions_g[row]), "num"),
        drawn,
        element("td", place(row), "place wide"),
        known,
      );
      return tr;
    };

    const draw = () => {
      const pages = Math.max(1, Math.ceil(state.rows.length / state.size));
      const from = state.page * state.size;
      document.querySelector("#table tbody").replaceChildren(...state.rows.slice(from, from + state.size).map(line));
      for (const th of document.querySelectorAll("#table th[data-key]")) {
        const mine = th.dataset.key === state.sort;
        th.setAttribute("aria-sort", mine ? (state.down ? "descending" : "ascending") : "none");
      }
      find("page").textContent = `Page ${state.page + 1} of ${pages}`;
      find("pager").hidden = pages === 1;
      find("prev").disabled = state.page === 0;
      find("next").disabled = state.page >= pages - 1;
      const sum = (name) => state.rows.reduce((all, row) => all + (columns[name][row] || 0), 0);
      const many = state.rows.length;
      const known = (name) => state.rows.some((row) => columns[name][row] !== null);
      const used = known("energy_kwh") ? energy(sum("energy_kwh")) : "energy unknown";
      const emitted = known("emissions_g") ? `${grams(sum("emissions_g"))} CO2e` : "emissions unknown";
      find("shown").textContent = many
        ? `${many.toLocaleString("en")} run${many === 1 ? "" : "s"}: ${used}, ${emitted}`
        : "No run matches these filters.";
    };

    for (const name of ["region", "basis", "status"]) {
      const named = texts[name].map((value, n) => [name === "region" ? data.runs.places[n] : value, value]);
      for (const [shown, value] of named.sort()) {
        const made = element("option", shown);
        made.value = value;
        find(`f-${name}`).append(made);
      }
      find(`f-${name}`).addEventListener("change", choose);
    }
    find("q").addEventListener("input", choose);
    find("filters").addEventListener("submit", (event) => event.preventDefault());
    for (const th of document.querySelectorAll("#table th[data-key]")) {
      th.firstElementChild.addEventListener("click", () => {
        const key = th.dataset.key;
        state.down = state.sort === key ? !state.down : !texts[key];
        state.sort = key;
        choose();
      });
    }
    const turn = (by) => () => {
      state.page += by;
      draw();
    };
    find("prev").addEventListener("click", turn(-1));
    find("next").addEventListener("click", turn(1));
    find("clear").addEventListener("click", () => {
      for (const id of ["q", "f-region", "f-basis", "f-status"]) find(id).value = "";
      state.labels = [];
      choose();
      find("q").focus();
    });
    const withSize = (size) => () => {
      state.page = Math.floor((state.page * state.size) / size);
      state.size = size;
      draw();
    };
    addEventListener("beforeprint", withSize(PRINTED));
    addEventListener("afterprint", withSize(PAGE));
    for (const id of ["filters", "table"]) find(id).hidden = false;
    choose();
  };
  if (find("table")) table();

  // ---- light and dark
  const root = document.documentElement;
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  find("theme").hidden = false;
  const name = () => (find("theme").textContent = isDark() ? "Light" : "Dark");
  find("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
  });
  name();

  // ---- the charts, after the first paint
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, tooltip: true };
  const phone = matchMedia("(max-width: 640px)");
  const draw = (id) => vegaEmbed(find(id), (phone.matches && data.narrow[id]) || data.charts[id], options);
  const charts = () =>
    Promise.all(Object.keys(data.charts).map(draw))
      .then((made) => {
        root.dataset.charts = String(made.length);
        // print lays the page out anew, so the charts must take its width
        addEventListener("beforeprint", () => dispatchEvent(new Event("resize")));
        phone.addEventListener("change", () => Object.keys(data.narrow).forEach(draw));
      });
  requestAnimationFrame(() => setTimeout(charts, 0));
})();
