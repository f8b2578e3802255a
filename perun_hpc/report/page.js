// Values where the pointer is, a closer look at a stretch of time or at some hosts, and a choice of light or dark.
// The charts are drawn already: this stretches what lies in their panels, and never makes a value of its own.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const by = (id) => document.getElementById(id);
  by("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  addEventListener("beforeprint", () => show(0, whole, 0, rows));
  const holder = by("curves");
  let whole = 1, rows = 1, show = () => {};
  if (!holder) return;

  const data = JSON.parse(holder.textContent);
  const stage = by("stage"), chart = stage.querySelector("svg.chart"), tip = by("tip"), said = by("said");
  const SVG = "http://www.w3.org/2000/svg";
  const [first] = data.panels, last = data.panels[data.panels.length - 1];
  const hosts = data.panels.find((panel) => panel.name === "hosts");
  const edges = data.columns;
  whole = data.seconds;
  rows = data.heat ? data.heat.rows : 1;
  let from = 0, to = whole, top = 0, below = rows, at = null, row = null, drag = null;

  const make = (name, attributes, parent) => {
    const made = document.createElementNS(SVG, name);
    for (const key of Object.keys(attributes)) made.setAttribute(key, attributes[key]);
    return parent.appendChild(made);
  };
  const under = make("g", {}, chart), over = make("g", {}, chart);
  chart.insertBefore(under, chart.firstChild);
  const cursor = make("line", { class: "cursor", y1: first.top, y2: last.top + last.height, visibility: "hidden" }, over);
  const chosen = make("rect", { class: "chosen", visibility: "hidden" }, over);
  const selection = make("rect", { class: "selection", visibility: "hidden" }, over);

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const seconds = (x) => from + (x - first.left) / first.width * (to - from);
  const place = (s) => first.left + (s - from) / (to - from) * first.width;
  const column = (s) => clamp(Math.floor(s / whole * edges), 0, edges - 1);
  const watts = (value) => {
    if (value === null || value === undefined) return "not read";
    const [divisor, unit] = value >= 1e6 ? [1e6, "MW"] : value >= 1e3 ? [1e3, "kW"] : [1, "W"];
    return Number((value / divisor).toPrecision(4)) + " " + unit;
  };
  const bytes = (value) => {
    const [size, unit] = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"]].find(([each]) => value >= each) || [1024, "KiB"];
    return Number((value / size).toPrecision(3)) + " " + unit;
  };
  const clock = (s) => {
    const digits = to - from < 120 ? 1 : 0, all = Number(s.toFixed(digits)), two = (n) => String(n).padStart(2, "0");
    const rest = (all % 60).toFixed(digits).padStart(digits ? 4 : 2, "0");
    return two(Math.floor(all / 3600)) + ":" + two(Math.floor(all / 60) % 60) + ":" + rest;
  };

  // The heat map's picture holds the values: a colour says which. Where a browser gives out other
  // colours than it shows (some do, against tracking), nothing is said of a host.
  let pixels = null;
  if (data.heat) {
    const image = chart.querySelector("#heat"), copy = new Image();
    copy.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = copy.naturalWidth; canvas.height = copy.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(copy, 0, 0);
      pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    };
    copy.src = image.getAttribute("href");
  }
  const hostWatts = (line, second) => {
    if (!pixels) return undefined;
    const x = clamp(Math.floor(second / data.heat.seconds * pixels.width), 0, pixels.width - 1);
    const [r, g, b, a] = pixels.data.slice(4 * (line * pixels.width + x), 4 * (line * pixels.width + x) + 4);
    if (a === 0) return null;
    let best = -1, least = 20;
    data.heat.colours.forEach((colour, number) => {
      const away = Math.abs(colour[0] - r) + Math.abs(colour[1] - g) + Math.abs(colour[2] - b);
      if (away < least) { least = away; best = number; }
    });
    return best < 0 ? undefined : (best + 0.5) / data.heat.colours.length * data.heat.most;
  };

  const line = (label, value) => {
    const outer = document.createElement("span"), name = document.createElement("i");
    name.textContent = label;
    outer.append(name, document.createTextNode(value));
    return outer;
  };
  const percent = (found, n) => found.mean[n] === null ? "not read" :
    Math.round(found.mean[n]) + " %" + (found.low[n] === found.high[n] ? "" :
      "  (" + Math.round(found.low[n]) + " to " + Math.round(found.high[n]) + ")");
  const tell = () => {
    const none = at === null;
    cursor.setAttribute("visibility", none || at < from || at > to ? "hidden" : "visible");
    chosen.setAttribute("visibility", none || row === null || row < top || row >= below ? "hidden" : "visible");
    tip.hidden = none;
    if (none) return;
    const n = column(at), found = [], x = place(at);
    cursor.setAttribute("x1", x); cursor.setAttribute("x2", x);
    data.parts.forEach((part) => found.push([part.name, watts(part.watts[n])]));
    const mean = data.total.mean[n];
    if (data.parts.length > 1) found.push(["together", watts(mean)]);
    if (mean !== null && data.total.low[n] !== data.total.high[n])
      found.push(["least to most", watts(data.total.low[n]) + " to " + watts(data.total.high[n])]);
    if (mean !== null && data.bound !== null)
      found.push(["bounds (k = 2)", "± " + watts(Number((mean * data.bound).toPrecision(2)))]);
    if (data.meter) found.push(["nodes' meters", watts(data.meter[n])]);
    if (data.cpu) found.push(["CPU busy", percent(data.cpu, n)]);
    if (data.gpu) found.push(["GPU busy", percent(data.gpu, n)]);
    if (data.memory) found.push(["memory of nodes", data.memory.mean[n] === null ? "not read" : bytes(data.memory.mean[n]) +
      (data.memory.low[n] === data.memory.high[n] ? "" :
        "  (" + bytes(data.memory.low[n]) + " to " + bytes(data.memory.high[n]) + ")")]);
    const now = data.steps.filter((step) => step.from <= at && at < step.to).map((step) => step.id);
    if (now.length) found.push([now.length > 1 ? "steps" : "step", now.slice(0, 6).join(", ")]);
    data.functions.forEach((one) => {
      const part = one.parts[Math.floor((at - one.from) / one.width)];
      if (part) found.push([one.name.slice(0, 40), Math.max(1, Math.round(100 * part)) + " % of the time"]);
    });
    if (data.reporting[n] < data.nodes) found.push(["hosts read", data.reporting[n] + " of " + data.nodes]);
    if (row !== null && hosts) {
      const value = hostWatts(row, at);
      if (value !== undefined) found.push([data.hosts[row], value === null ? "not read" : "about " + watts(value)]);
      const each = hosts.height / (below - top), high = Math.max(2, each);
      const y = hosts.top + (row - top) * each;
      for (const [key, is] of [["x", hosts.left], ["y", y + each / 2 - high / 2], ["width", hosts.width], ["height", high]])
        chosen.setAttribute(key, is);
    }
    const head = document.createElement("b");
    head.textContent = clock(at) + " after the start";
    tip.replaceChildren(head, ...found.map(([label, value]) => line(label, value)));
    const scale = chart.getBoundingClientRect().width / data.width;
    const left = x * scale + 14, room = chart.getBoundingClientRect().width;
    tip.style.left = (left + tip.offsetWidth > room ? Math.max(0, x * scale - 14 - tip.offsetWidth) : left) + "px";
    tip.style.top = first.top * scale + 8 + "px";
  };
  const say = () => { said.textContent = tip.hidden ? "" : [...tip.children].map((one) =>
    one.children.length ? one.firstChild.textContent + " " + one.lastChild.textContent : one.textContent).join(", "); };

  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const label = chart.querySelector("#time-label text"), written = label.textContent;
  const ticks = () => {
    under.replaceChildren();
    label.textContent = written;
    if (stage.classList.contains("zoomed")) {
      const [size, unit] = units.find(([each]) => to - from >= 3 * each) || [1, "s"];
      const rough = (to - from) / size / 7, ten = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((n) => n * ten).find((n) => n >= rough) * size;
      for (let number = Math.ceil(from / step); number * step <= to; number++) {
        const x = place(number * step);
        for (const panel of data.panels)
          make("line", { class: "made-line", x1: x, x2: x, y1: panel.top, y2: panel.top + panel.height }, under);
        make("text", { class: "made", x, y: last.top + last.height + 14, "text-anchor": "middle" }, under).textContent =
          Number((number * step / size).toPrecision(10));
      }
      label.textContent = written.replace(/ \/ \S+$/, " / " + unit);
    }
    if (stage.classList.contains("tall")) {
      const every = Math.ceil((below - top) / (hosts.height / 14));
      for (let number = Math.ceil(top); number < below; number += every) {
        const y = hosts.top + (number + 0.5 - top) / (below - top) * hosts.height + 3.5, name = data.hosts[number];
        make("text", { class: "made", x: hosts.left - 4, y, "text-anchor": "end" }, under).textContent =
          name.length > 9 ? "…" + name.slice(-8) : name;
      }
    }
  };
  show = (begin, end, high, low) => {
    const least = 4 * whole / edges, span = clamp(end - begin, Math.min(least, whole), whole);
    from = clamp(begin, 0, whole - span); to = from + span;
    const tall = clamp(Math.round(low - high), Math.min(2, rows), rows);
    top = clamp(Math.round(high), 0, rows - tall); below = top + tall;
    const k = whole / (to - from), move = first.left - k * first.left - from / whole * k * first.width;
    chart.querySelectorAll(".x").forEach((group) => {
      const stretched = hosts && group.closest("#panel-hosts") ? rows / (below - top) : 1;
      const up = hosts ? hosts.top - stretched * hosts.top - top / rows * stretched * hosts.height : 0;
      group.setAttribute("transform", `matrix(${k} 0 0 ${stretched} ${move} ${stretched === 1 ? 0 : up})`);
    });
    chart.querySelectorAll(".xt").forEach((group) => {
      const x = Number(group.querySelector("text").getAttribute("x"));
      group.setAttribute("transform", `translate(${k * x + move - x} 0)`);
    });
    stage.classList.toggle("zoomed", to - from < whole);
    stage.classList.toggle("tall", below - top < rows);
    for (const name of ["out", "left", "right", "all"])
      by(name).disabled = to - from >= whole && (below - top >= rows || name !== "all");
    by("in").disabled = to - from <= least;
    ticks();
    tell();
  };
  const zoom = (factor) => {
    const middle = at !== null && at >= from && at <= to ? at : (from + to) / 2, part = (middle - from) / (to - from);
    const span = (to - from) * factor;
    show(middle - part * span, middle + (1 - part) * span, top, below);
  };
  const pan = (part) => { const by_ = part * (to - from); show(from + by_, to + by_, top, below); };
  by("in").addEventListener("click", () => zoom(0.5));
  by("out").addEventListener("click", () => zoom(2));
  by("left").addEventListener("click", () => pan(-0.25));
  by("right").addEventListener("click", () => pan(0.25));
  by("all").addEventListener("click", () => show(0, whole, 0, rows));

  const point = (event) => {
    const box = chart.getBoundingClientRect(), scale = data.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  const rowAt = (y) => hosts && y >= hosts.top && y < hosts.top + hosts.height ?
    clamp(Math.floor(top + (y - hosts.top) / hosts.height * (below - top)), 0, rows - 1) : null;
  const within = (x) => clamp(x, first.left, first.left + first.width);
  chart.addEventListener("pointermove", (event) => {
    const [x, y] = point(event);
    if (drag) {
      const [a, b] = [within(drag.x), within(x)].sort((p, q) => p - q);
      const inHosts = drag.row !== null, c = inHosts ? clamp(y, hosts.top, hosts.top + hosts.height) : 0;
      const [high, low] = inHosts ? [drag.y, c].sort((p, q) => p - q) : [first.top, last.top + last.height];
      for (const [key, is] of [["x", a], ["width", b - a], ["y", high], ["height", low - high], ["visibility", "visible"]])
        selection.setAttribute(key, is);
      return;
    }
    const inside = x >= first.left && x <= first.left + first.width && y >= first.top && y <= last.top + last.height;
    at = inside ? seconds(x) : null;
    row = inside ? rowAt(y) : null;
    tell();
  });
  chart.addEventListener("pointerleave", () => { if (!drag) { at = null; tell(); } });
  chart.addEventListener("pointerdown", (event) => {
    const [x, y] = point(event);
    if (event.button !== 0 || event.pointerType === "touch" || x < first.left || x > first.left + first.width) return;
    drag = { x, y, row: rowAt(y) };
    chart.setPointerCapture(event.pointerId);
    event.preventDefault();
    stage.focus({ preventScroll: true });
  });
  const drop = (event) => {
    if (!drag) return;
    const [x, y] = point(event), begin = drag;
    drag = null;
    selection.setAttribute("visibility", "hidden");
    const wide = Math.abs(x - begin.x) > 6, high = begin.row !== null && Math.abs(y - begin.y) > 12;
    if (event.type === "pointercancel" || !(wide || high)) return;
    const [a, b] = [seconds(within(begin.x)), seconds(within(x))].sort((p, q) => p - q);
    const lines = [begin.row, rowAt(clamp(y, hosts ? hosts.top : 0, hosts ? hosts.top + hosts.height - 0.01 : 0))];
    const [c, d] = high ? lines.sort((p, q) => p - q) : [top, below - 1];
    show(wide ? a : from, wide ? b : to, c, d + 1);
  };
  chart.addEventListener("pointerup", drop);
  chart.addEventListener("pointercancel", drop);
  chart.addEventListener("dblclick", () => show(0, whole, 0, rows));

  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = Math.max(whole / edges, (to - from) / 200), middle = (from + to) / 2;
    const move = (by_) => {
      at = clamp((at === null ? middle : at) + by_, 0, whole - whole / edges / 2);
      if (at < from || at > to) show(at - (to - from) / 2, at + (to - from) / 2, top, below);
    };
    const choose = (by_) => {
      if (!hosts) return;
      if (at === null) at = middle;
      row = row === null ? top : clamp(row + by_, 0, rows - 1);
      if (row < top || row >= below) show(from, to, top + by_, below + by_);
    };
    const acts = {
      ArrowLeft: () => (event.shiftKey ? pan(-0.25) : move(-step)), ArrowRight: () => (event.shiftKey ? pan(0.25) : move(step)),
      PageUp: () => move(-20 * step), PageDown: () => move(20 * step), ArrowUp: () => choose(-1), ArrowDown: () => choose(1),
      Home: () => { at = from; }, End: () => { at = to - step / 2; }, "+": () => zoom(0.5), "=": () => zoom(0.5),
      "-": () => zoom(2), 0: () => show(0, whole, 0, rows), Escape: () => { at = null; row = null; show(0, whole, 0, rows); },
    };
    if (!Object.hasOwn(acts, event.key)) return;
    event.preventDefault();
    acts[event.key]();
    tell();
    say();
  });
  show(0, whole, 0, rows);
})();
