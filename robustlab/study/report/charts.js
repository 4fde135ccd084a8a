// Draws the line charts of the report as SVG from the data beside them; no library, no network.
"use strict";
(() => {
  const NS = "http://www.w3.org/2000/svg";
  const shown = { intervals: true, seeds: true, shared: true, log: false };
  const plots = [];
  const tip = document.getElementById("tip");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function element(name, attributes, parent, text) {
    const made = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  function format(value, digits) {
    if (value === null || value === undefined) return "no value";
    return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: Math.min(digits, 1) });
  }

  function ticks(low, high, most) {
    const span = high - low || 1;
    const power = 10 ** Math.floor(Math.log10(span / most));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => span / s <= most) || 10 * power;
    const values = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) values.push(+v.toPrecision(10));
    return { values, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (String(step / power).includes("2.5") ? 1 : 0)) };
  }

  const line = (points) => {
    let path = "", open = false;
    for (const [x, y] of points) {
      if (y === null) { open = false; continue; }
      path += `${open ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      open = true;
    }
    return path;
  };

  function marker(kind, x, y, stroke, fill, parent) {
    const r = 4;
    const paths = {
      circle: `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
      square: `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
      triangle: `M${x} ${y - r - 1}L${x + r + 1} ${y + r}H${x - r - 1}z`,
      diamond: `M${x} ${y - r - 1.5}L${x + r + 1.5} ${y}L${x} ${y + r + 1.5}L${x - r - 1.5} ${y}z`,
      cross: `M${x - 3} ${y - 3}l6 6M${x + 3} ${y - 3}l-6 6`,
      plus: `M${x - 4} ${y}h8M${x} ${y - 4}v8`,
    };
    if (paths[kind]) element("path", { d: paths[kind], stroke, fill: /cross|plus/.test(kind) ? "none" : fill, "stroke-width": 1.6 }, parent);
  }

  function star(x, y, fill, ink, parent) {
    const corners = Array.from({ length: 10 }, (_, i) => {
      const r = i % 2 ? 4.2 : 10, a = (Math.PI * i) / 5 - Math.PI / 2;
      return `${(x + r * Math.cos(a)).toFixed(1)},${(y + r * Math.sin(a)).toFixed(1)}`;
    });
    element("polygon", { class: "peak", points: corners.join(" "), fill, stroke: ink, "stroke-width": 1 }, parent);
  }

  function strokeOf(series) {
    if (series.shade === undefined) return color(`--c${series.color}`);
    const [from, to] = ["--shade0", "--shade1"].map((n) => color(n).split(",").map(Number));
    return `rgb(${from.map((f, i) => Math.round(f + (to[i] - f) * series.shade)).join(",")})`;
  }

  function domain(plot, view) {
    const { chart } = plot, values = [];
    for (const series of chart.series) for (const p of series.points) {
      if (view && (p.x < view[0] || p.x > view[1])) continue;
      values.push(p.y, ...(shown.seeds && p.seeds ? p.seeds : []));
      if (shown.intervals && p.lo !== undefined && !(shown.shared && !view)) values.push(p.lo, p.hi);
    }
    const known = values.filter((v) => v !== null && v !== undefined);
    let low = Math.min(...known), high = Math.max(...known);
    if (!known.length) [low, high] = [0, 1];
    const free = view || chart.scatter || chart.fit || (plot.figure && !shown.shared);
    if (free) {
      const pad = (high - low || Math.abs(high) || 1) * 0.08;
      [low, high] = [low - pad, high + pad];
      if (chart.yMax !== undefined) high = Math.min(high, chart.yMax * 1.01);
    } else {
      low = 0;
      high = chart.yMax !== undefined ? chart.yMax : (chart.sharedTop || high) * 1.12;
    }
    return [low, high];
  }

  function draw(plot) {
    const { chart, host } = plot;
    const width = Math.max(240, host.clientWidth), height = Math.round(Math.min(300, Math.max(210, width * 0.68)));
    const box = { left: 52, right: 12, top: 10, bottom: 46 };
    const ink = color("--soft"), grid = color("--grid"), card = color("--card");
    const xs = [...new Set(chart.series.flatMap((s) => s.points.map((p) => p.x)))].filter((x) => x !== null).sort((a, b) => a - b);
    const useLog = shown.log && plot.figure && xs[0] > 0;
    const tx = (x) => (useLog ? Math.log(x) : x);
    const view = plot.view;
    let [x0, x1] = view || [xs[0], xs[xs.length - 1]];
    if (x0 === x1) [x0, x1] = [x0 - (Math.abs(x0) || 1) * 0.1, x1 + (Math.abs(x1) || 1) * 0.1];
    const pad = (tx(x1) - tx(x0)) * (view ? 0.02 : 0.04);
    const [u0, u1] = [tx(x0) - pad, tx(x1) + pad];
    const [y0, y1] = domain(plot, view);
    const px = (x) => box.left + ((tx(x) - u0) / (u1 - u0)) * (width - box.left - box.right);
    const py = (y) => height - box.bottom - ((y - y0) / (y1 - y0)) * (height - box.top - box.bottom);
    Object.assign(plot, { px, py, xs, width, height, box, unx: (p) => { const u = u0 + ((p - box.left) / (width - box.left - box.right)) * (u1 - u0); return useLog ? Math.exp(u) : u; } });

    const svg = element("svg", { xmlns: NS, viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": chart.alt, "font-family": "system-ui, sans-serif", "font-size": 12 });
    const clip = `clip${plot.number}`;
    element("rect", { x: box.left, y: box.top - 4, width: width - box.left - box.right, height: height - box.top - box.bottom + 8 }, element("clipPath", { id: clip }, element("defs", {}, svg)));
    const yTicks = ticks(y0, y1, 5);
    for (const v of yTicks.values) {
      element("line", { x1: box.left, x2: width - box.right, y1: py(v), y2: py(v), stroke: grid }, svg);
      element("text", { x: box.left - 7, y: py(v) + 4, "text-anchor": "end", fill: ink }, svg, v.toFixed(yTicks.digits));
    }
    const categorical = plot.figure && xs.length <= 14;
    const xTicks = categorical && !view ? { values: xs, digits: 0 } : ticks(view ? x0 : xs[0], view ? x1 : xs[xs.length - 1], width > 330 ? 6 : 4);
    let edge = -Infinity;
    const labels = [];
    for (const v of [...xTicks.values].reverse()) {  // from the largest: where there is no room, small sizes give way
      const text = v.toLocaleString("en", { maximumFractionDigits: Math.max(0, xTicks.digits) });
      const half = text.length * 3.4 + 4;
      element("line", { x1: px(v), x2: px(v), y1: height - box.bottom, y2: height - box.bottom + 4, stroke: ink }, svg);
      if (-px(v) - half >= edge && px(v) > box.left - 20) { edge = -px(v) + half; labels.push([v, text]); }
    }
    for (const [v, text] of labels) element("text", { x: Math.min(px(v), width - text.length * 3.4), y: height - box.bottom + 17, "text-anchor": "middle", fill: ink }, svg, text);
    element("line", { x1: box.left, x2: width - box.right, y1: height - box.bottom, y2: height - box.bottom, stroke: ink }, svg);
    element("text", { x: (box.left + width - box.right) / 2, y: height - 8, "text-anchor": "middle", fill: ink }, svg, chart.xLabel);

    const area = element("g", { "clip-path": `url(#${clip})` }, svg);
    const many = chart.series.some((s) => s.points.some((p) => p.seeds && p.seeds.length > 1));
    for (const series of chart.series) {
      const stroke = strokeOf(series), group = element("g", { class: "series" }, area);
      const banded = series.points.filter((p) => p.lo !== undefined && p.y !== null);
      if (shown.intervals && banded.length) {
        const up = banded.map((p) => `${px(p.x).toFixed(1)},${py(p.hi).toFixed(1)}`);
        const down = banded.map((p) => `${px(p.x).toFixed(1)},${py(p.lo).toFixed(1)}`).reverse();
        if (banded.length > 1) element("polygon", { class: "interval", points: [...up, ...down].join(" "), fill: stroke, opacity: 0.16 }, group);
        for (const p of banded) element("path", { class: "interval", d: `M${px(p.x)} ${py(p.lo)}V${py(p.hi)}M${px(p.x) - 3} ${py(p.lo)}h6M${px(p.x) - 3} ${py(p.hi)}h6`, stroke, "stroke-width": 1, opacity: 0.65 }, group);
      }
      if (shown.seeds && many) {
        const count = Math.max(...series.points.map((p) => (p.seeds || []).length));
        for (let k = 0; k < count; k++) {
          const points = series.points.map((p) => [px(p.x), p.seeds && p.seeds.length === count && p.seeds[k] !== null ? py(p.seeds[k]) : null]);
          element("path", { class: "seed", d: line(points), fill: "none", stroke, "stroke-width": 1, opacity: 0.5, "stroke-dasharray": series.dash }, group);
        }
      }
      const points = series.points.map((p) => [px(p.x), p.y === null ? null : py(p.y)]);
      element("path", { class: "mean", d: line(points), fill: "none", stroke, "stroke-width": series.thin ? 1.5 : 2.2, "stroke-dasharray": series.dash, "stroke-linejoin": "round" }, group);
      points.forEach(([x, y]) => { if (y !== null) marker(series.marker, x, y, stroke, series.marker === "circle" ? stroke : card, group); });
      if (series.peak) {
        const at = series.points.find((p) => p.x === series.peak.x), y = height - box.bottom - 5;
        element("path", { class: "peak-range", d: `M${px(series.peak.from) - 4} ${y}H${px(series.peak.to) + 4}`, stroke, "stroke-width": 5, opacity: 0.75 }, group);
        if (at && at.y !== null) star(px(at.x), py(at.y), stroke, color("--ink"), group);
      }
    }
    plot.cursor = element("line", { y1: box.top, y2: height - box.bottom, stroke: ink, "stroke-dasharray": "3 3", visibility: "hidden" }, svg);
    plot.brush = element("rect", { y: box.top, height: height - box.top - box.bottom, fill: color("--accent"), opacity: 0.18, visibility: "hidden" }, svg);
    if (plot.svg) plot.svg.replaceWith(svg); else host.prepend(svg);
    plot.svg = svg;
    plot.reset.hidden = !view;
  }

  function describe(plot, x) {
    const { chart } = plot, lines = [];
    if (chart.scatter) {
      for (const s of chart.series) for (const p of s.points) if (p.x === x) lines.push(`${s.name}, ${p.label}: ${format(p.x, 2)} %, ${format(p.y, chart.digits)}`);
      return lines.join("\n");
    }
    lines.push(`${format(x, 4).replace(/\.0$/, "")} ${plot.figure ? "training images" : "eps"}`);
    for (const s of chart.series) {
      const p = s.points.find((one) => one.x === x);
      if (!p) continue;
      let text = `${s.name}: ${format(p.y, chart.digits)}`;
      if (shown.intervals && p.lo !== undefined) text += ` (${format(p.lo, chart.digits)} to ${format(p.hi, chart.digits)})`;
      if (shown.seeds && p.seeds && p.seeds.length > 1) text += `\n   seeds: ${p.seeds.map((v) => format(v, chart.digits)).join(", ")}`;
      lines.push(text);
    }
    return lines.join("\n");
  }

  function point(plot, x, clientX, clientY) {
    plot.at = x;
    plot.cursor.setAttribute("x1", plot.px(x));
    plot.cursor.setAttribute("x2", plot.px(x));
    plot.cursor.setAttribute("visibility", "visible");
    tip.textContent = describe(plot, x);
    tip.hidden = false;
    const area = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(6, Math.min(clientX + 14, innerWidth - area.width - 6))}px`;
    tip.style.top = `${Math.max(6, clientY + 16 + area.height > innerHeight ? clientY - area.height - 12 : clientY + 16)}px`;
  }

  function leave(plot) {
    plot.cursor.setAttribute("visibility", "hidden");
    tip.hidden = true;
  }

  function save(plot, kind) {
    const svg = plot.svg.cloneNode(true), name = `${plot.chart.title} ${plot.number}`.replace(/[^a-z0-9]+/gi, "-").toLowerCase();
    const ground = element("rect", { width: "100%", height: "100%", fill: color("--card") });
    svg.prepend(ground);
    element("text", { x: plot.box.left, y: 10, "font-weight": 600, fill: color("--ink") }, svg, `${plot.row}${plot.chart.title}`);
    const source = new XMLSerializer().serializeToString(svg);
    const give = (blob) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = `${name}.${kind}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    };
    if (kind === "svg") return give(new Blob([source], { type: "image/svg+xml" }));
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [3 * plot.width, 3 * plot.height];
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(give, "image/png");
    };
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(source)}`;
  }

  function legend(plot) {
    const list = document.createElement("ul");
    list.className = "legend";
    for (const series of plot.chart.series) {
      const item = document.createElement("li"), key = element("svg", { viewBox: "0 0 30 12", "aria-hidden": "true" }, item), stroke = strokeOf(series);
      element("path", { d: "M0 6H30", stroke, "stroke-width": 2.2, "stroke-dasharray": series.dash }, key);
      marker(series.marker, 15, 6, stroke, series.marker === "circle" ? stroke : color("--card"), key);
      item.append(series.name);
      list.append(item);
    }
    return list;
  }

  function start(host, number) {
    const heading = host.closest(".row").previousElementSibling;
    const plot = { host, number, chart: JSON.parse(host.dataset.chart), figure: host.dataset.figure === "curves", view: null, svg: null };
    plot.row = plot.figure && heading ? `${heading.textContent}: ` : "";
    host.tabIndex = 0;
    host.setAttribute("role", "group");
    host.setAttribute("aria-label", `Chart: ${plot.row}${plot.chart.title}; arrow keys read its values`);
    const bar = document.createElement("div");
    bar.className = "bar";
    for (const [text, action] of [["reset zoom", () => { plot.view = null; draw(plot); }], ["SVG", () => save(plot, "svg")], ["PNG", () => save(plot, "png")]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.setAttribute("aria-label", `${text === "reset zoom" ? "Reset zoom" : `Download as ${text}`}: ${plot.row}${plot.chart.title}`);
      button.addEventListener("click", action);
      bar.append(button);
      if (text === "reset zoom") plot.reset = button;
    }
    host.after(bar);
    draw(plot);
    if (plot.chart.legend || plot.chart.series.length > 1) plot.legend = host.parentNode.insertBefore(legend(plot), bar);

    let from = null;
    const local = (event) => ((event.clientX - host.getBoundingClientRect().left) / host.clientWidth) * plot.width;
    const nearest = (event) => {
      const at = local(event);
      return plot.xs.reduce((best, x) => (Math.abs(plot.px(x) - at) < Math.abs(plot.px(best) - at) ? x : best), plot.xs[0]);
    };
    host.addEventListener("pointerdown", (event) => { if (event.button === 0) { from = local(event); host.setPointerCapture(event.pointerId); } });
    host.addEventListener("pointermove", (event) => {
      if (from !== null && Math.abs(local(event) - from) > 6) {
        plot.brush.setAttribute("x", Math.min(from, local(event)));
        plot.brush.setAttribute("width", Math.abs(local(event) - from));
        plot.brush.setAttribute("visibility", "visible");
      }
      point(plot, nearest(event), event.clientX, event.clientY);
    });
    host.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const [a, b] = [from, local(event)].sort((m, n) => m - n).map(plot.unx);
      const inside = plot.xs.filter((x) => x >= a && x <= b);
      if (Math.abs(local(event) - from) > 12 && inside.length > 1) plot.view = [inside[0], inside[inside.length - 1]];
      from = null;
      draw(plot);
    });
    host.addEventListener("pointercancel", () => { from = null; draw(plot); });
    host.addEventListener("pointerleave", () => { if (from === null) leave(plot); });
    host.addEventListener("dblclick", () => { plot.view = null; draw(plot); });
    host.addEventListener("blur", () => leave(plot));
    host.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") leave(plot);
      if (!step) return;
      event.preventDefault();
      const now = plot.xs.indexOf(plot.at), next = Math.max(0, Math.min(plot.xs.length - 1, now < 0 ? (step > 0 ? 0 : plot.xs.length - 1) : now + step));
      const area = host.getBoundingClientRect();
      point(plot, plot.xs[next], area.left + plot.px(plot.xs[next]), area.top + 20);
    });
    plots.push(plot);
  }

  document.querySelectorAll(".plot").forEach(start);
  const redraw = () => plots.forEach((plot) => {
    draw(plot);
    if (plot.legend) { const made = legend(plot); plot.legend.replaceWith(made); plot.legend = made; }
  });
  document.querySelectorAll("[data-toggle]").forEach((box) => box.addEventListener("change", () => {
    shown[box.dataset.toggle] = box.checked;
    plots.filter((plot) => plot.figure).forEach(draw);
  }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
})();
