// Draws every <div class="sing-chart"> with vega-embed, in the page's colours and the column's width,
// and draws it again when either changes. No build step, no dependency but vega-bundle.js.
(() => {
  "use strict";

  const NARROW = 560; // px: below this, side by side becomes one below the other
  const GAP = 20; // px between views of one chart, Vega-Lite's own default

  const copy = (value) => JSON.parse(JSON.stringify(value));
  const isDark = () => document.documentElement.dataset.theme === "dark";

  // --- colours --------------------------------------------------------------------------------

  const GREYS = {
    black: 0, dimgray: 105, dimgrey: 105, gray: 128, grey: 128, darkgray: 169, darkgrey: 169,
    silver: 192, lightgray: 211, lightgrey: 211, gainsboro: 220, whitesmoke: 245, white: 255,
  };

  /** Lightness 0..255 of a colour without a hue, else null. */
  function greyLevel(colour) {
    const text = String(colour).trim().toLowerCase();
    if (text in GREYS) return GREYS[text];
    const hex = /^#([0-9a-f]{3}|[0-9a-f]{6})$/.exec(text);
    if (!hex) return null;
    const digits = hex[1].length === 3 ? hex[1].replace(/./g, "$&$&") : hex[1];
    const rgb = [0, 2, 4].map((i) => parseInt(digits.slice(i, i + 2), 16));
    const low = Math.min(...rgb);
    const high = Math.max(...rgb);
    return high - low > 24 ? null : Math.round((low + high) / 2);
  }

  /** Turn ink into chalk: black to nearly white and back, staying off both ends. */
  function flip(colour) {
    const level = greyLevel(colour);
    if (level === null) return colour;
    const flipped = Math.round(22 + ((255 - level) * 210) / 255);
    return `rgb(${flipped},${flipped},${flipped})`;
  }

  /** Flip every grey that is a colour: in config, marks and encodings, never in data. */
  function flipGreys(node, inColour = false) {
    for (const [key, value] of Object.entries(node)) {
      if (["data", "datasets", "params", "domain", "title", "description"].includes(key)) {
        if (!(key === "title" && value && typeof value === "object")) continue;
      }
      const colour = /(color|fill|stroke|background)$/i.test(key);
      if (typeof value === "string") {
        if (colour || (inColour && key === "value")) node[key] = flip(value);
      } else if (Array.isArray(value) && inColour && key === "range") {
        node[key] = value.map((v) => (typeof v === "string" ? flip(v) : v));
      } else if (value && typeof value === "object") {
        flipGreys(value, inColour || colour);
      }
    }
  }

  /** What the chart takes from the page's theme, unless its own config says otherwise. */
  function themeConfig(narrow, legendColumns) {
    const style = getComputedStyle(document.documentElement);
    const get = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
    const text = get("--pst-color-text-base", isDark() ? "#ced6dd" : "#323232");
    const muted = get("--pst-color-text-muted", isDark() ? "#9ca4af" : "#646464");
    const line = isDark() ? "#3d444d" : "#dfe2e6";
    const labels = { labelColor: muted, titleColor: text };
    return {
      font: getComputedStyle(document.body).fontFamily,
      axis: { ...labels, gridColor: line, domainColor: muted, tickColor: muted,
              ...(narrow ? { labelLimit: 110 } : {}) },
      legend: { ...labels,
                ...(narrow ? { orient: "bottom", columns: legendColumns, labelLimit: 260,
                               layout: { bottom: { direction: "vertical", anchor: "start" } } } : {}) },
      header: labels,
      title: { color: text, subtitleColor: muted },
      view: { stroke: line },
      rule: { color: muted },
      text: { color: text },
    };
  }

  /** Merge b into a copy of a; b wins. */
  function merge(a, b) {
    const out = { ...a };
    for (const [key, value] of Object.entries(b || {})) {
      const both = [value, out[key]].every((v) => v && typeof v === "object" && !Array.isArray(v));
      out[key] = both ? merge(out[key], value) : value;
    }
    return out;
  }

  // --- width ----------------------------------------------------------------------------------

  const childKeys = ["hconcat", "vconcat", "concat", "layer"];
  const isComposed = (v) =>
    Boolean(v.hconcat || v.vconcat || v.concat || v.facet || v.repeat ||
            ["facet", "row", "column"].some((c) => v.encoding && v.encoding[c]));

  /** How many different values a field takes, where the rows are at hand. */
  function distinct(spec, view, field) {
    const data = view.data || spec.data || {};
    const rows = data.values || (spec.datasets || {})[data.name];
    return Array.isArray(rows) ? new Set(rows.map((row) => row[field])).size || 1 : 1;
  }

  /** Break a long title into lines that fit. */
  function wrap(text, width, size) {
    const room = Math.max(12, Math.floor(width / (size * 0.56)));
    if (typeof text !== "string" || text.length <= room) return text;
    const lines = [""];
    for (const word of text.split(/\s+/)) {
      const last = lines[lines.length - 1];
      if (last && last.length + word.length + 1 > room) lines.push(word);
      else lines[lines.length - 1] = last ? `${last} ${word}` : word;
    }
    return lines;
  }

  function wrapTitles(view, width) {
    if (typeof view.title === "string") view.title = { text: view.title };
    if (view.title && typeof view.title === "object" && !Array.isArray(view.title)) {
      view.title.text = wrap(view.title.text, width, view.title.fontSize || 13);
      if (view.title.subtitle) view.title.subtitle = wrap(view.title.subtitle, width, 12);
    }
    const x = view.encoding && view.encoding.x;
    if (x && typeof x.title === "string") x.title = wrap(x.title, width, 11);
    if (x && x.axis && typeof x.axis.title === "string") {
      x.axis.title = wrap(x.axis.title, width, 11);
    }
  }

  /** On a phone, move legends below the plot even where the chart asks for the side. */
  function legendsBelow(view, columns) {
    for (const channel of Object.values(view.encoding || {})) {
      const legend = channel && channel.legend;
      if (!legend) continue;
      if (/left|right/.test(legend.orient || "")) legend.orient = "bottom";
      if (/top|bottom/.test(legend.orient || "bottom")) legend.columns = columns;
    }
  }

  /**
   * Give every plot of a chart a width.
   *
   * `share` is what the plots side by side have between them. `force` also sizes plots without a
   * width of their own (Vega-Lite then takes 300 px, or a step for each category).
   */
  function fit(spec, view, share, at) {
    // A title is centred below its plot, and on a phone labels take a third of the column.
    wrapTitles(view, (share + at.room) * (at.narrow ? 0.66 : 1));
    if (at.narrow) {
      legendsBelow(view, at.legendColumns);
      if (view.hconcat) {
        view.vconcat = view.hconcat;
        delete view.hconcat;
      }
      const encoding = view.encoding || {};
      if (encoding.column && !encoding.row) {
        encoding.facet = encoding.column;
        delete encoding.column;
      }
      if (encoding.facet) encoding.facet.columns = 1;
      if (view.facet && view.facet.column && !view.facet.row) view.facet = view.facet.column;
      if (view.concat || (view.repeat && Array.isArray(view.repeat)) ||
          (view.facet && view.facet.field)) {
        view.columns = 1;
      }
    }
    if (view.hconcat) {
      const widths = view.hconcat.map((v) => (typeof v.width === "number" ? v.width : null));
      const total = widths.includes(null) ? null : widths.reduce((a, b) => a + b, 0);
      const room = share - GAP * (widths.length - 1);
      view.hconcat.forEach((v, i) =>
        fit(spec, v, total ? (room * widths[i]) / total : room / widths.length, at));
      return;
    }
    if (view.vconcat) {
      view.vconcat.forEach((v) => fit(spec, v, share, at));
      return;
    }
    let across = 1;
    if (view.concat) across = Math.min(view.columns || view.concat.length, view.concat.length);
    if (Array.isArray(view.repeat)) across = Math.min(view.columns || 99, view.repeat.length);
    else if (view.repeat && view.repeat.column) across = view.repeat.column.length;
    const faceted = view.facet && view.facet.field ? { ...view.facet, columns: view.columns }
      : (view.facet && view.facet.column) ||
        (view.encoding && (view.encoding.facet || view.encoding.column));
    if (faceted && faceted.field) {
      across = Math.min(faceted.columns || 99, distinct(spec, view, faceted.field));
    }
    const own = (share - GAP * (across - 1)) / across;
    if (view.concat) view.concat.forEach((v) => fit(spec, v, own, at));
    else if (view.spec) fit(spec, view.spec, own, at);
    else if (view.width === "container" || (typeof view.width === "number" && view.width > own)) {
      const width = Math.max(40, Math.floor(own));
      if (view.height === view.width) view.height = width; // a square stays one
      view.width = width;
    } else if (view.width === undefined && at.force && own < 300) {
      view.width = Math.max(40, Math.floor(own));
    }
    // A layer is one plot; only its legends and titles are left to see to.
    (view.layer || []).forEach((v) => fit(spec, v, own, { ...at, force: false }));
  }

  /** The spec as it is drawn: `at.room` px of the column go to axes, legends and padding. */
  function arrange(original, at) {
    const spec = copy(original);
    spec.background = "transparent";
    if (isDark()) flipGreys(spec);
    spec.config = merge(themeConfig(at.narrow, at.legendColumns), spec.config);
    delete spec.config.background;
    if (at.narrow && spec.config.legend) {
      Object.assign(spec.config.legend, { orient: "bottom", columns: at.legendColumns });
    }
    if (spec.width === "container" && !isComposed(spec)) {
      // Vega-Lite's own way needs a sized box around it; the number is the same thing, known sooner.
      spec.autosize = { type: "fit-x", contains: "padding" };
      fit(spec, spec, at.column, { ...at, room: 0 });
    } else {
      fit(spec, spec, at.column - at.room, at);
    }
    return spec;
  }

  const usesContainer = (view) =>
    view.width === "container" || (view.spec ? usesContainer(view.spec) : false) ||
    childKeys.some((key) => (view[key] || []).some(usesContainer));

  // --- drawing --------------------------------------------------------------------------------

  /** Values of the inputs (sliders, menus), by signal name. */
  function inputValues(el) {
    const values = {};
    if (!el.view) return values;
    for (const name of el.boundSignals || []) {
      try { values[name] = el.view.signal(name); } catch { /* the new chart may lack it */ }
    }
    return values;
  }

  /** The column's width, also where a folded part of the page has none. */
  function columnWidth(el) {
    for (let node = el; node; node = node.parentElement) {
      if (node.clientWidth > 0) return node.clientWidth;
    }
    return window.innerWidth;
  }

  async function embed(el, spec, values) {
    // A form: radio buttons of one name are one group, and two charts may both have a "show".
    const inputs = document.createElement("form");
    inputs.className = "sing-inputs";
    inputs.addEventListener("submit", (event) => event.preventDefault());
    const plot = document.createElement("div");
    plot.className = "sing-plot";
    const old = [...el.querySelectorAll(":scope > .sing-inputs, :scope > .sing-plot")];
    old.forEach((node) => { node.hidden = true; });
    el.append(inputs, plot);
    try {
      const result = await window.vegaEmbed(plot, spec, {
        actions: false, renderer: "svg", bind: inputs, tooltip: { disableDefaultStyle: true },
      });
      const bound = (result.vgSpec.signals || []).filter((s) => s.bind && s.bind.input);
      for (const { name } of bound) {
        if (name in values) result.view.signal(name, values[name]);
      }
      if (Object.keys(values).length) await result.view.runAsync();
      if (el.result) el.result.finalize();
      old.forEach((node) => node.remove());
      el.result = result;
      el.view = result.view;
      el.boundSignals = bound.map((s) => s.name);
    } catch (error) {
      inputs.remove();
      plot.remove();
      old.forEach((node) => { node.hidden = false; });
      throw error;
    }
    if (!inputs.childElementCount) inputs.remove();
    const svg = plot.querySelector("svg");
    if (!svg) return { width: 0, cut: false };
    const box = svg.getBoundingClientRect();
    // A chart that was told to fit is as wide as the column even where its legend is not.
    const cut = [...svg.querySelectorAll(".role-legend")].some(
      (legend) => legend.getBoundingClientRect().right > box.right + 1);
    return { width: box.width, cut };
  }

  async function draw(el) {
    const column = columnWidth(el);
    const at = { column, narrow: column < NARROW, legendColumns: 2, room: 0, force: false };
    if (isComposed(el.spec) && usesContainer(el.spec)) at.room = 60;
    el.drawnFor = `${isDark()} ${column}`;
    el.drawnColumn = column;
    el.style.minHeight = `${el.clientHeight}px`; // so that the page does not jump
    const values = inputValues(el);
    // Axes and legends are as wide as their texts, so draw, measure what is too much, draw again.
    for (let turn = 0; turn < 5; turn += 1) {
      const { width, cut } = await embed(el, arrange(el.spec, at), values);
      if (cut && at.legendColumns > 1) {
        at.legendColumns = 1;
        continue;
      }
      const over = Math.ceil(width - column);
      const loose = turn === 0 && at.room > 0 && over < -8;
      if (!width || (over <= 0 && !loose)) break;
      at.room += over + (loose ? 2 : 1);
      at.force = true;
      if (turn >= 2) at.legendColumns = 1;
    }
    el.style.minHeight = "";
    el.dataset.drawn = isDark() ? "dark" : "light";
    el.dataset.ready = "1";
  }

  /** Draw, once more if the page changed meanwhile, and never twice at a time. */
  async function update(el) {
    el.stale = true;
    if (el.busy) return;
    el.busy = true;
    while (el.stale) {
      el.stale = false;
      try {
        await draw(el);
        delete el.dataset.error;
        el.querySelectorAll(":scope > .sing-error").forEach((node) => node.remove());
      } catch (error) {
        fail(el, error);
      }
    }
    el.busy = false;
  }

  function fail(el, error) {
    el.style.minHeight = "";
    el.dataset.error = error && error.message ? error.message : String(error);
    delete el.dataset.ready;
    const note = el.querySelector(":scope > .sing-error") || document.createElement("p");
    note.className = "sing-error";
    note.textContent = `This chart could not be drawn (${el.dataset.error}). ` +
      `It shows: ${el.getAttribute("aria-label") || "no description"}`;
    el.append(note);
  }

  document.addEventListener("DOMContentLoaded", () => {
    const charts = [...document.querySelectorAll("div.sing-chart")];
    for (const el of charts) {
      try {
        el.spec = JSON.parse(el.querySelector("script[type='application/json']").textContent);
        if (!window.vegaEmbed) throw new Error("_static/vega-bundle.js is missing");
      } catch (error) {
        fail(el, error);
        continue;
      }
      update(el);
    }
    const drawable = charts.filter((el) => el.spec && window.vegaEmbed);
    const check = (el) => {
      if (el.drawnFor !== `${isDark()} ${columnWidth(el)}`) update(el);
    };
    new MutationObserver(() => drawable.forEach(check)).observe(document.documentElement, {
      attributes: true, attributeFilter: ["data-theme"],
    });
    let timer = 0;
    const resized = new ResizeObserver(() => {
      clearTimeout(timer);
      timer = setTimeout(() => drawable.forEach(check), 150);
    });
    drawable.forEach((el) => resized.observe(el));

    // A wide table scrolls in its own box, which the keyboard can reach.
    for (const table of document.querySelectorAll("article table, .bd-article table")) {
      if (table.closest(".sing-scroll, .highlight")) continue;
      const box = document.createElement("div");
      box.className = "sing-scroll";
      table.replaceWith(box);
      box.append(table);
      if (box.scrollWidth > box.clientWidth + 1) {
        box.tabIndex = 0;
        box.setAttribute("role", "region");
        box.setAttribute("aria-label", "Table, scrolls sideways");
      }
    }
  });
})();
