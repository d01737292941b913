// What tests ask of a page with charts: window.reader. Everything is read from the specs and the
// drawings, so that a new chart needs no new line here.
// Marks are compared without brushes: a brush is drawn where it is dragged, also if nobody reads it.
// Vega keeps a mark's item, with its tooltip, in its element's __data__.
window.reader ??= (() => {
  "use strict";

  const chart = (i) => document.querySelectorAll("div.sing-chart")[i];
  const settle = async (i) => {
    await chart(i).view.runAsync();
    const waits = JSON.stringify(chart(i).spec).matchAll(/"debounce":(\d+)/g);
    const wait = Math.max(0, ...[...waits].map((found) => Number(found[1])));
    if (wait) await new Promise((done) => setTimeout(done, wait + 30));
    await chart(i).view.runAsync();
  };
  const groups = (i) => [...chart(i).querySelectorAll(".sing-plot svg .role-mark")].filter(
    (g) => !/_brush(_bg)?( |$)/.test(g.getAttribute("class")));
  // Which of two marks comes first depends on what was drawn before them, and is no answer.
  const marks = (i) => groups(i).flatMap((g) =>
    [...g.children].map((node) => node.outerHTML)).sort().join("\n");
  const isEmpty = (i) => groups(i).every((g) => !g.childElementCount);

  const params = (node, found = []) => {
    for (const [key, value] of Object.entries(node)) {
      if (key === "data" || key === "datasets" || !value || typeof value !== "object") continue;
      if (key === "params" && Array.isArray(value)) found.push(...value);
      else params(value, found);
    }
    return found;
  };
  const selections = (i) => params(chart(i).spec)
    .filter(({ select, bind }) => select && !(bind && typeof bind === "object" && !bind.legend))
    .map(({ name, select, bind }) => ({
      name, kind: (select.type ?? select) === "interval" ? (bind === "scales" ? "zoom" : "brush")
        : bind ? "legend"
        : /pointerover|mouseover/.test(JSON.stringify(select.on ?? "")) ? "hover" : "click",
      clears: select.clear !== false,
    }));
  const chosen = (i, name) => chart(i).view.data(`${name}_store`).length;

  /** The plot that a brush is drawn in, in px of the window. */
  const plotOf = (i, name) => {
    const brush = chart(i).querySelector(`.sing-plot svg g[class$="${name}_brush"]`);
    const plot = (brush ?? chart(i).querySelector(".sing-plot svg .role-mark"))
      .closest(".mark-group > g").querySelector(":scope > path.background");
    plot.scrollIntoView({ block: "center" });
    const { x, y, width, height } = plot.getBoundingClientRect();
    return { x, y, width, height };
  };

  /** Where a mark can be hit: the middle of its box, or of its line. */
  const middle = (node) => {
    const { x, y } = exactMiddle(node); // a mouse stands on whole px
    return { x: Math.round(x), y: Math.round(y) };
  };
  const exactMiddle = (node) => {
    if (/mark-(line|trail|rule)/.test(node.parentNode.getAttribute("class"))
        && node.getPointAtLength) {
      const at = node.getPointAtLength(node.getTotalLength() / 2).matrixTransform(
        node.getScreenCTM());
      return { x: at.x, y: at.y };
    }
    const box = node.getBoundingClientRect();
    return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  };

  /** Up to `each` places of every group of marks that a pointer really hits. */
  const places = (i, each, tip) => {
    const found = [];
    for (const group of groups(i)) {
      // A line shows the tooltip of a point of its own, and only near one: not in its middle.
      if (tip && /mark-(line|trail)/.test(group.getAttribute("class"))) continue;
      const nodes = [...group.children].filter((node) => !tip || node.__data__?.tooltip);
      const stride = Math.max(1, Math.floor(nodes.length / 25));
      let taken = 0;
      for (let n = 0; n < nodes.length && taken < each; n += stride) {
        nodes[n].scrollIntoView({ block: "center" });
        const at = middle(nodes[n]);
        const hit = document.elementFromPoint(at.x, at.y);
        if (!hit?.closest("svg") || hit.closest("div.sing-chart") !== chart(i)) continue;
        if (tip && (!hit.__data__?.tooltip || /mark-(line|trail)/.test(
          hit.parentNode.getAttribute("class")))) continue;
        found.push({ node: nodes[n], ...at });
        taken += 1;
      }
    }
    return found;
  };
  let kept = [];
  const keepPlaces = (i, each, tip) => (kept = places(i, each, tip)).length;
  const goTo = (n) => {
    kept[n].node.scrollIntoView({ block: "center" });
    return middle(kept[n].node);
  };

  const legendEntries = (i) => [...chart(i).querySelectorAll(
    ".sing-plot svg .role-legend-symbol > *, .sing-plot svg .role-legend-label > *")];
  const goToLegend = (i, n) => {
    const node = legendEntries(i)[n];
    node.scrollIntoView({ block: "center" });
    const box = node.getBoundingClientRect();
    return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  };

  /** The values to try of one input, the present one first, and how to set one. */
  const valuesOf = (bind) => {
    const control = bind.querySelector("input, select");
    const say = (node) => ["input", "change"].forEach((type) =>
      node.dispatchEvent(new Event(type, { bubbles: true })));
    const rotate = (values, now) => {
      const at = Math.max(0, values.indexOf(now));
      return [...values.slice(at), ...values.slice(0, at)];
    };
    const plain = (value) => { control.value = value; say(control); };
    if (control.tagName === "SELECT") {
      return ["menu", rotate([...control.options].map((o) => o.value), control.value), plain];
    }
    if (control.type === "radio") {
      const all = [...bind.querySelectorAll("input")];
      return ["radio", rotate(all.map((o) => o.value), all.find((o) => o.checked)?.value),
        (value) => { const one = all.find((o) => o.value === value); one.checked = true; say(one); }];
    }
    if (control.type === "checkbox") {
      return ["checkbox", [control.checked, !control.checked],
        (value) => { control.checked = value; say(control); }];
    }
    if (control.type === "range" || control.type === "number") {
      const low = Number(control.min || 0), high = Number(control.max || 100);
      const step = Number(control.step) || (high - low) / 100;
      const stops = [0, 1 / 3, 2 / 3, 1].map((share) =>
        String(Number((low + step * Math.round((share * (high - low)) / step)).toFixed(10))));
      return [control.type, [...new Set([control.value, ...stops])], plain];
    }
    return [control.type, [control.value, "a", "no such text"], plain];
  };

  /** Set one input to all its values; which of them draw the same, and does the first return? */
  const turn = async (i, n) => {
    const bind = chart(i).querySelectorAll(".vega-bind")[n];
    const [kind, values, set] = valuesOf(bind);
    const name = bind.querySelector(".vega-bind-name").textContent.trim();
    const first = marks(i), same = [], wide = [], seen = new Map([[first, values[0]]]);
    for (const value of values.slice(1)) {
      set(value);
      await settle(i);
      const drawn = marks(i);
      // Two other choices of a menu may agree, as where two photos have the same neighbours.
      if (drawn === first || (seen.has(drawn) && kind === "range")) {
        same.push(`${value} draws what ${seen.get(drawn)} draws`);
      }
      seen.set(drawn, value);
      if (isEmpty(i) && kind !== "text") same.push(`${value} draws nothing`);
      const box = chart(i);
      if (box.scrollWidth > box.clientWidth + 1) wide.push(value);
    }
    set(values[0]);
    await settle(i);
    return { name: `${kind} "${name}"`, count: values.length, same, wide,
             back: marks(i) === first };
  };

  /** Leave every input of a chart at another value than it came with. */
  const useAll = async (i) => {
    const binds = [...chart(i).querySelectorAll(".vega-bind")];
    for (const bind of binds) {
      const [, values, set] = valuesOf(bind);
      set(values[1]);
    }
    await settle(i);
    return binds.length;
  };

  const tip = () => {
    const node = document.querySelector("#vg-tooltip-element");
    if (!node?.classList.contains("visible")) return null;
    const box = node.getBoundingClientRect(), image = node.querySelector("img");
    return { text: node.innerText, image: Boolean(image && image.naturalWidth),
      cut: box.left < 0 || box.top < 0 || box.right > innerWidth + 1 || box.bottom > innerHeight + 1 };
  };
  /** What the tooltips of the kept place should hold. */
  const promised = (n) => {
    const at = middle(kept[n].node);
    const value = document.elementFromPoint(at.x, at.y).__data__?.tooltip;
    return { image: Boolean(value?.image), numbers: typeof value === "object"
      ? Object.entries(value).some(([key, text]) => key !== "image" && /\d/.test(text)) : false };
  };
  const hasTips = (i) => groups(i).some((g) => [...g.children].some((n) => n.__data__?.tooltip));
  const quantities = (i) => /"tooltip":[^\]}]*[\[{][^\]]*"type":"quantitative"/.test(
    JSON.stringify(chart(i).spec, (key, value) => (key === "datasets" ? undefined : value)));

  // --- what is legible: WCAG 2's contrast of a text, or of a focus ring, with what is behind it ----

  const rgba = (text) => {
    const found = /rgba?\(([^)]+)\)/.exec(text)?.[1].split(/[ ,/]+/).map(Number);
    return found ? [...found.slice(0, 3), found[3] ?? 1] : null;
  };
  const over = (top, below, opacity = 1) => {
    const a = top[3] * opacity;
    return [0, 1, 2].map((k) => a * top[k] + (1 - a) * below[k]).concat(1);
  };
  const backgroundOf = (node) => {
    if (!node || node.nodeType !== 1) return [255, 255, 255, 1];
    const own = rgba(getComputedStyle(node).backgroundColor);
    if (!own || !own[3]) return backgroundOf(node.parentElement);
    return own[3] === 1 ? own : over(own, backgroundOf(node.parentElement));
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((v) =>
      (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const opacityOf = (node) => {
    let all = 1;
    for (let p = node; p && p.nodeType === 1; p = p.parentElement) {
      all *= Number(getComputedStyle(p).opacity);
    }
    return all;
  };

  /** The bars that a text of a chart lies on, seen through where they are see-through. */
  const behind = (text, svg) => {
    const box = text.getBoundingClientRect();
    const x = box.x + box.width / 2, y = box.y + box.height / 2;
    let colour = backgroundOf(svg);
    for (const mark of svg.querySelectorAll(".mark-rect.role-mark > path")) {
      if (!(mark.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING)) break;
      const at = mark.getBoundingClientRect();
      if (at.left > x || at.right < x || at.top > y || at.bottom < y) continue;
      const style = getComputedStyle(mark), fill = rgba(style.fill);
      if (fill) colour = over(fill, colour, Number(style.fillOpacity) * opacityOf(mark));
    }
    return colour;
  };

  const PROSE = ".sing-inputs :is(span, label, select, input), .sing-hint, article figcaption *, "
    + ".sing-live, .sing-verdict, .sing-row :is(dt, dd, p)";

  /** Texts of charts, inputs, hints and captions with less than 4.5:1 (3:1 where large). */
  const faint = () => {
    const found = new Map();
    const check = (node, colour, background, opacity) => {
      if (!colour || opacity < 0.5) return; // set back on purpose, as by a choice
      const style = getComputedStyle(node), size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      const ratio = contrast(over(colour, background, opacity), background);
      if (ratio >= (large ? 3 : 4.5)) return;
      const charts = [...document.querySelectorAll("div.sing-chart")];
      const at = charts.indexOf(node.closest("div.sing-chart"));
      const key = `${at < 0 ? "text" : `chart ${at + 1}`}: ${ratio.toFixed(1)}:1, ` +
        `rgb(${colour.slice(0, 3)}) on rgb(${background.slice(0, 3).map(Math.round)})`;
      if (!found.has(key)) found.set(key, node.textContent.trim().slice(0, 40));
    };
    for (const svg of document.querySelectorAll("div.sing-chart .sing-plot svg")) {
      for (const text of svg.querySelectorAll("text")) {
        if (!text.textContent.trim()) continue;
        const style = getComputedStyle(text);
        const background = text.closest(".role-mark") ? behind(text, svg) : backgroundOf(svg);
        check(text, rgba(style.fill), background, opacityOf(text) * Number(style.fillOpacity));
      }
    }
    for (const node of document.querySelectorAll(PROSE)) {
      const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
      if (!own || !node.getClientRects().length || node.matches(".headerlink")) continue;
      check(node, rgba(getComputedStyle(node).color), backgroundOf(node), opacityOf(node));
    }
    return [...found].map(([key, text]) => `${key}, as in "${text}"`);
  };

  // --- the keyboard -------------------------------------------------------------------------------

  const current = (bind) => bind.querySelector("input:checked") ?? bind.querySelector("input, select");
  const nameOf = (bind) => bind.querySelector(".vega-bind-name").textContent.trim();
  const binds = () => [...document.querySelectorAll(".sing-inputs .vega-bind")]
    .filter((bind) => bind.getClientRects().length);

  const reached = new Map(); // a control -> contrast of its focus ring, 0 for no ring
  const startTabbing = () => {
    addEventListener("focusin", ({ target }) => {
      const style = getComputedStyle(target), ring = rgba(style.outlineColor);
      const below = backgroundOf(target.parentElement);
      const seen = parseFloat(style.outlineWidth) >= 2 && style.outlineStyle !== "none" && ring;
      reached.set(target, seen ? contrast(over(ring, below), below) : 0);
    });
    const first = document.querySelector("article h1");
    first.tabIndex = -1;
    first.focus();
    return binds().length;
  };
  /** Tab stops once in a group of radio buttons. */
  const left = () => binds().filter((bind) => !reached.has(current(bind))).length;
  const rings = () => binds().map((bind) => [nameOf(bind), reached.get(current(bind)) ?? null]);

  const controls = (i) => [...chart(i).querySelectorAll(".sing-inputs .vega-bind")].map((bind) => {
    const control = current(bind);
    const shown = control.type === "range" ? control.nextElementSibling : null;
    const unit = shown && getComputedStyle(shown, "::after").content;
    return { name: nameOf(bind), kind: control.tagName === "SELECT" ? "menu" : control.type,
      value: control.type === "checkbox" ? String(control.checked) : control.value,
      shown: shown && shown.textContent + unit.replace(/^none$|^normal$|"/g, ""),
      spoken: control.getAttribute("aria-valuetext"), low: control.min, high: control.max };
  });
  const focusOn = (i, n) => {
    current(chart(i).querySelectorAll(".sing-inputs .vega-bind")[n]).focus();
  };

  return { chart, settle, marks, selections, chosen, plotOf, keepPlaces, goTo, legendEntries, goToLegend,
    turn, useAll, tip, promised, hasTips, quantities, faint, startTabbing, left, rings, controls, focusOn };
})();
