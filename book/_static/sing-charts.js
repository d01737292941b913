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

  const INK = 5.8; // contrast of a text with the page; 4.5 is left where it lies on a pale band

  function luminance(rgb) {
    const [r, g, b] = rgb.map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  /** The numbers of a colour as CSS knows it, or null. */
  function channels(colour) {
    const probe = channels.probe ||= document.createElement("canvas").getContext("2d");
    probe.fillStyle = "#010203";
    probe.fillStyle = colour;
    const hex = /^#([0-9a-f]{6})$/.exec(probe.fillStyle);
    return hex && probe.fillStyle !== "#010203"
      ? [0, 2, 4].map((i) => parseInt(hex[1].slice(i, i + 2), 16)) : null;
  }

  /** A text's colour, darkened (on a dark page lightened) until it can be read on the page. */
  function ink(colour) {
    const rgb = typeof colour === "string" ? channels(colour) : null;
    if (!rgb) return colour;
    const style = getComputedStyle(document.documentElement);
    const page = luminance(channels(style.getPropertyValue("--pst-color-background").trim()) ||
      (isDark() ? [18, 18, 18] : [255, 255, 255]));
    const ratio = (one) => {
      const [low, high] = [page, luminance(one)].sort((a, b) => a - b);
      return (high + 0.05) / (low + 0.05);
    };
    if (ratio(rgb) < 1.8) return colour; // the page's own colour: this text lies on a bar
    const end = isDark() ? 255 : 0;
    for (let share = 0; share < 1; share += 0.04) {
      const mixed = rgb.map((v) => Math.round(v + share * (end - v)));
      if (ratio(mixed) >= INK) return `rgb(${mixed})`;
    }
    return colour;
  }

  /** In a compiled chart: let every text's colour, whatever gives it, pass through `ink`. */
  function inkTexts(node) {
    for (const mark of node.marks || []) {
      inkTexts(mark);
      const fill = mark.type === "text" && mark.encode && mark.encode.update.fill;
      for (const rule of fill ? [fill].flat() : []) {
        if ("value" in rule) rule.value = ink(rule.value);
        else if (rule.scale && typeof rule.field === "string") {
          const datum = `datum[${JSON.stringify(rule.field.replace(/\\(.)/g, "$1"))}]`;
          rule.signal = `singInk(scale(${JSON.stringify(rule.scale)}, ${datum}))`;
          delete rule.scale;
          delete rule.field;
        } else if (rule.signal && !rule.scale) rule.signal = `singInk(${rule.signal})`;
      }
    }
    return node;
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
      // Vega-Lite's own brush is dark grey on whatever is below.
      selection: { interval: { mark: { fill: text, fillOpacity: 0.12, stroke: text } } },
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
  function arrange(original, at, choices) {
    const spec = copy(original);
    for (const selection of selections(spec)) {
      if (!(selection.name in choices)) continue;
      delete selection.value;
      if (choices[selection.name]) selection.value = choices[selection.name];
    }
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

  // --- what a reader does ---------------------------------------------------------------------

  /** Every selection made by pointing, wherever in the spec it stands. */
  function selections(node, found = []) {
    for (const [key, value] of Object.entries(node)) {
      if (key === "data" || key === "datasets" || !value || typeof value !== "object") continue;
      if (key === "params" && Array.isArray(value)) found.push(...value.filter((p) => p.select));
      else selections(value, found);
    }
    return found;
  }

  const isInterval = ({ select }) => (select.type || select) === "interval";
  const isHover = ({ select }) => /pointerover|mouseover/.test(JSON.stringify(select.on || ""));
  const hasInput = ({ bind }) =>
    Boolean(bind && typeof bind === "object" && !("legend" in bind)); // a menu or a slider

  /** Brushes, clicks and legend choices as the spec of the next drawing has them: by name. */
  function choicesOf(el) {
    const choices = {};
    for (const selection of el.view ? selections(el.spec) : []) {
      if (hasInput(selection) || isHover(selection)) continue;
      let rows;
      try { rows = el.view.data(`${selection.name}_store`); } catch { continue; }
      const fields = rows.length ? rows[0].fields : [];
      if (isInterval(selection)) {
        choices[selection.name] = rows.length
          ? Object.fromEntries(fields.map((f, i) => [f.channel, rows[0].values[i]])) : null;
      } else if (fields.every((f) => f.type === "E")) {
        choices[selection.name] = rows.length ? rows.map((row) =>
          Object.fromEntries(row.fields.map((f, i) => [f.field, row.values[i]]))) : null;
      }
    }
    return choices;
  }

  /** What can be done with a chart that cannot be seen on it; `usermeta.hint` says it better. */
  function hintFor(spec) {
    const own = spec.usermeta && spec.usermeta.hint;
    if (typeof own === "string") return own;
    const touch = window.matchMedia("(pointer: coarse)").matches;
    const press = touch ? "Tap" : "Click";
    const said = new Set(selections(spec).filter((p) => !hasInput(p)).map((p) => {
      if (p.bind === "scales") return "Drag to move the view, scroll to zoom, double click to reset.";
      if (isInterval(p)) {
        return touch ? "Drag sideways over the plot to choose a part of it; a double tap lets go."
          : "Drag over the plot to choose a part of it; a double click lets go.";
      }
      if (p.bind) {
        return `${press} a name in the legend to bring it out` +
          (touch ? "." : "; with shift, one more; a double click brings all back.");
      }
      return isHover(p) ? `${touch ? "Tap" : "Point at"} a mark to bring out what belongs to it.`
        : `${press} a mark to choose it.`;
    }));
    return [...said].join(" ");
  }

  /** Name the inputs for readers who hear the page, and give a slider's value its unit. */
  function nameInputs(inputs) {
    for (const bind of inputs.querySelectorAll(".vega-bind")) {
      const name = bind.querySelector(".vega-bind-name").textContent.trim();
      const radios = bind.querySelector(".vega-bind-radio");
      if (radios) {
        radios.setAttribute("role", "radiogroup");
        radios.setAttribute("aria-label", name);
        continue;
      }
      const control = bind.querySelector("input, select");
      control.setAttribute("aria-label", name);
      const value = control.type === "range" && control.nextElementSibling;
      if (!value) continue;
      const unit = (/\(([^()=,\d]+)\)$/.exec(name) || [])[1];
      const short = { degrees: "°", percent: " %" }[unit] || ` ${unit}`;
      value.dataset.unit = unit && short.length < 13 ? short : ""; // a long one stands in the name
      const say = () =>
        control.setAttribute("aria-valuetext", `${value.textContent} ${unit || ""}`.trim());
      new MutationObserver(say).observe(value, { childList: true });
      say();
    }
  }

  /** On a touch screen a scroll starts as a brush; when it turns out to be one, undo it. */
  function undoScrolledBrush(el) {
    let before = null;
    el.addEventListener("pointerdown", (event) => {
      before = event.pointerType === "touch" ? choicesOf(el) : null;
    }, true);
    el.addEventListener("pointercancel", () => {
      if (!before) return;
      window.dispatchEvent(new PointerEvent("pointerup")); // ends the drag that Vega still sees
      el.restored = before;
      before = null;
      update(el);
    });
  }

  /** A tap shows a mark's tooltip, as a mouse does by resting there, until the next tap or scroll. */
  function tipOnTap() {
    let tapped = null;
    const leave = () => {
      if (tapped) tapped.dispatchEvent(new MouseEvent("mouseout", { bubbles: true }));
      tapped = null;
    };
    document.addEventListener("click", (event) => {
      if (event.pointerType !== "touch") return;
      leave();
      if (!event.target.closest(".sing-plot svg")) return;
      tapped = event.target;
      const { clientX, clientY } = event;
      tapped.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX, clientY }));
    });
    document.addEventListener("scroll", leave, { passive: true, capture: true });
  }

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
    inputs.autocomplete = "off"; // a reloaded page starts with the chart's values, and so do these
    inputs.addEventListener("submit", (event) => event.preventDefault());
    const plot = document.createElement("div");
    plot.className = "sing-plot";
    const old = [...el.querySelectorAll(":scope > .sing-inputs, :scope > .sing-plot")];
    const focused = old.some((node) => node.contains(document.activeElement))
      ? document.activeElement.name : "";
    old.forEach((node) => { node.hidden = true; });
    el.append(inputs, plot);
    if (el.hint) el.append(el.hint);
    try {
      const result = await window.vegaEmbed(plot, spec, {
        actions: false, renderer: "svg", bind: inputs, tooltip: { disableDefaultStyle: true },
        patch: inkTexts, expressionFunctions: { singInk: ink },
      });
      const bound = (result.vgSpec.signals || []).filter((s) => s.bind && s.bind.input);
      for (const { name } of bound) {
        if (name in values) result.view.signal(name, values[name]);
      }
      if (Object.keys(values).length) await result.view.runAsync();
      nameInputs(inputs);
      if (el.result) el.result.finalize();
      old.forEach((node) => node.remove());
      el.result = result;
      el.view = result.view;
      el.boundSignals = bound.map((s) => s.name);
      if (focused) {
        const same = [...inputs.elements].filter((input) => input.name === focused);
        (same.find((input) => input.checked) || same[0])?.focus({ preventScroll: true });
      }
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
    const choices = el.restored || choicesOf(el);
    delete el.restored;
    // Axes and legends are as wide as their texts, so draw, measure what is too much, draw again.
    for (let turn = 0; turn < 8; turn += 1) {
      const { width, cut } = await embed(el, arrange(el.spec, at, choices), values);
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
        const hint = hintFor(el.spec);
        if (hint) {
          el.hint = document.createElement("p");
          el.hint.className = "sing-hint";
          el.hint.textContent = hint;
        }
        if (selections(el.spec).some(isInterval)) {
          el.classList.add("sing-brush");
          undoScrolledBrush(el);
        }
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

    tipOnTap();

    // A wide table scrolls in its own box, which the keyboard can reach.
    for (const table of document.querySelectorAll("article table, .bd-article table")) {
      if (table.closest(".sing-scroll, .highlight")) continue;
      const box = document.createElement("div");
      box.className = "sing-scroll";
      table.replaceWith(box);
      box.append(table);
      const note = document.createElement("p");
      note.className = "sing-hint";
      note.textContent = "The table goes on to the right: scroll it sideways.";
      box.after(note);
      new ResizeObserver(() => {
        const wide = box.scrollWidth > box.clientWidth + 1;
        note.hidden = !wide;
        for (const [name, value] of [["tabindex", "0"], ["role", "region"],
                                     ["aria-label", "Table, scrolls sideways"]]) {
          if (wide) box.setAttribute(name, value);
          else box.removeAttribute(name);
        }
      }).observe(box);
    }
  });
})();
