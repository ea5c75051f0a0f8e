// Line charts as SVG, one unit a pixel: letters keep their size, and lines their width, however wide the chart is.

import { svg } from "./dom.js";

const PAD = { left: 46, right: 10, top: 10, bottom: 22 };

// Round numbers around a range: at most `most` of them, the first not above and the last not below it.
export function ticks(low, high, most = 4) {
  if (low === high) [low, high] = low === 0 ? [0, 1] : [low - Math.abs(low) / 2, high + Math.abs(high) / 2];
  const raw = (high - low) / Math.max(1, most - 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= raw * 0.999);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

const at = (value) => value.toFixed(1);

// Points as paths; a hole where a value is none.
function trace(points, x, y) {
  let [line, open] = ["", false];
  for (const [across, up] of points) {
    if (Number.isFinite(up)) line += `${open ? "L" : "M"}${at(x(across))} ${at(y(up))}`;
    open = Number.isFinite(up);
  }
  return line;
}

function area(points, x, y, floor) {
  const runs = [[]];
  for (const point of points) {
    if (Number.isFinite(point[1])) runs.at(-1).push(point);
    else if (runs.at(-1).length) runs.push([]);
  }
  const closed = (run) =>
    `M${at(x(run[0][0]))} ${at(floor)}${run.map(([across, up]) => `L${at(x(across))} ${at(y(up))}`).join("")}L${at(x(run.at(-1)[0]))} ${at(floor)}Z`;
  return runs.filter((run) => run.length > 1).map(closed).join("");
}

export class Chart {
  // `label` says what is drawn, to who does not see it. `format` writes values of the upright axis, `across` those of the other one.
  constructor({ label, format, across, height = 140, zero = true, dots = false }) {
    Object.assign(this, { format, across, height, zero, dots });
    this.node = svg("svg", { class: "chart", role: "img", "aria-label": label, height });
    this.drawn = null;
    this.width = 0;
    new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (width && width !== this.width) {
        this.width = width;
        if (this.drawn) this.draw(this.drawn);
      }
    }).observe(this.node);
  }

  // `lines`: [{name, points: [[x, y], ...], fill}], `from` and `to` the ends of the axis, `marks` [{x, name}], `xticks` its numbers.
  draw(drawn) {
    this.drawn = drawn;
    if (!this.width) return;
    const { lines, from, to, marks = [], xticks = [] } = drawn;
    const { width, height } = this;
    const values = lines.flatMap((line) => line.points.map((point) => point[1])).filter(Number.isFinite);
    const low = Math.min(this.zero ? 0 : Infinity, ...values);
    const levels = values.length ? ticks(low, Math.max(...values)) : [0, 1];
    const floor = height - PAD.bottom;
    const x = (this.x = (value) => PAD.left + ((value - from) / (to - from || 1)) * (width - PAD.left - PAD.right));
    const y = (this.y = (value) => floor - ((value - levels[0]) / (levels.at(-1) - levels[0])) * (floor - PAD.top));
    this.node.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const parts = levels.map((level) => [
      svg("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: at(y(level)), y2: at(y(level)) }),
      svg("text", { class: "tick", x: PAD.left - 8, y: at(y(level) + 4), "text-anchor": "end" }, values.length ? this.format(level) : ""),
    ]);
    xticks.forEach((tick, index) => {
      const anchor = x(tick) > width - PAD.right - 20 ? "end" : index === 0 && x(tick) < PAD.left + 20 ? "start" : "middle";
      parts.push(svg("text", { class: "tick", x: at(x(tick)), y: height - 5, "text-anchor": anchor }, this.across(tick)));
    });
    for (const mark of marks) {
      parts.push(svg("line", { class: "mark", x1: at(x(mark.x)), x2: at(x(mark.x)), y1: PAD.top, y2: floor }));
      const late = x(mark.x) > width / 2;
      const beside = x(mark.x) + (late ? -5 : 5);
      parts.push(svg("text", { class: "mark", x: at(beside), y: at(PAD.top + 9), "text-anchor": late ? "end" : "start" }, mark.name));
    }
    lines.forEach((line, index) => {
      if (line.fill) parts.push(svg("path", { class: `area line-${index}`, d: area(line.points, x, y, floor) }));
      parts.push(svg("path", { class: `line line-${index}`, d: trace(line.points, x, y) }));
      const shown = line.points.filter((point) => Number.isFinite(point[1]));
      const wanted = this.dots && shown.length <= 80 ? shown : shown.length === 1 ? shown : [];
      for (const [across, up] of wanted) parts.push(svg("circle", { class: `dot line-${index}`, cx: at(x(across)), cy: at(y(up)), r: 2.5 }));
    });
    if (!values.length) parts.push(svg("text", { class: "nothing", x: at((width + PAD.left) / 2), y: height / 2, "text-anchor": "middle" }, drawn.nothing || "nothing yet"));
    this.cursor = svg("g", { class: "cursor" });
    this.node.replaceChildren(...parts.flat(), this.cursor);
  }

  // Points at one value; null at none.
  point(spot) {
    if (!this.cursor) return;
    if (spot === null || !Number.isFinite(spot[1])) return this.cursor.replaceChildren();
    const [across, up] = [at(this.x(spot[0])), at(this.y(spot[1]))];
    this.cursor.replaceChildren(
      svg("line", { x1: across, x2: across, y1: PAD.top, y2: this.height - PAD.bottom }),
      svg("circle", { cx: across, cy: up, r: 4 }),
    );
  }

  // The value of the axis under a pointer.
  under(event) {
    const box = this.node.getBoundingClientRect();
    const { from, to } = this.drawn;
    return from + ((event.clientX - box.left - PAD.left) / (box.width - PAD.left - PAD.right)) * (to - from);
  }
}

// Points of a kind every so often, for as long as the chart shows. Nothing is drawn over a time in which nobody looked.
const HOLE = 10000; // milliseconds

export class Series {
  constructor(seconds) {
    this.seconds = seconds;
    this.points = [];
  }

  add(now, value) {
    const last = this.points.at(-1);
    if (Number.isFinite(last?.[1]) && now - last[0] > HOLE) this.points.push([last[0] + 1, NaN]);
    this.points.push([now, value]);
    while (this.points.length && this.points[0][0] < now - (this.seconds + 5) * 1000) this.points.shift();
  }

  within(now) {
    return this.points.filter(([when]) => when >= now - this.seconds * 1000);
  }
}

// How much happened in each second.
export class Counts {
  constructor(seconds) {
    this.seconds = seconds;
    this.counts = new Map();
  }

  add(when, now) {
    const second = Math.floor(when / 1000);
    this.counts.set(second, (this.counts.get(second) ?? 0) + 1);
    if (this.counts.size < 2 * this.seconds) return;
    for (const old of this.counts.keys()) if (old < now / 1000 - this.seconds - 10) this.counts.delete(old);
  }

  // From a second on, up to before another one.
  within(first, end) {
    let sum = 0;
    for (let second = first; second < end; second += 1) sum += this.counts.get(second) ?? 0;
    return sum;
  }
}
