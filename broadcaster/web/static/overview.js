// All models at a glance.

import { Chart } from "./chart.js";
import { el, row, Rows, say, svg, table } from "./dom.js";
import { absolute, ago, bytes, count, figure, lasting, moment, NONE, plural } from "./format.js";
import { howToPublish } from "./hints.js";
import { actorColumns, actorRow, condition, nameOf } from "./actors.js";
import { WINDOW } from "./live.js";

const SHOWN = 200; // models
const ACTORS = 20;

const sinceNow = (now) => (when) => (Math.abs(when - now) < 500 ? "now" : `${Math.round((when - now) / 1000)} s`.replace("-", "\u2212"));

class Tile {
  constructor(title, chart, ...more) {
    this.value = el("p", { class: "value" });
    this.note = el("p", { class: "note" });
    this.chart = chart;
    this.node = el("section", { class: "tile" }, el("h2", {}, title), this.value, this.note, chart?.node, more);
  }

  // `parts`: numbers and their units in turn.
  set(parts, note, aside = null) {
    const text = parts.join("\u00a0");
    if (this.value.textContent !== text) {
      this.value.replaceChildren(...parts.flatMap((part, index) => [index ? "\u00a0" : "", el(index ? "small" : "span", { class: index === 2 && aside }, part)]));
    }
    say(this.note, note);
  }
}

class Meter {
  constructor(label) {
    this.bar = svg("rect", { class: "used", width: 0, height: 8, rx: 2 });
    this.node = svg("svg", { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img", "aria-label": label }, svg("rect", { class: "all", width: 100, height: 8, rx: 2 }), this.bar);
    this.label = label;
  }

  set(part) {
    const width = Number.isFinite(part) ? Math.min(100, Math.max(0, part * 100)) : 0;
    this.bar.setAttribute("width", width.toFixed(1));
    this.bar.setAttribute("class", part > 0.9 ? "used full" : "used");
    this.node.setAttribute("aria-label", `${this.label}: ${Math.round(width)} %`);
  }
}

const MODELS = [
  { name: "Model" },
  { name: "Newest", number: true },
  { name: "Published" },
  { name: "Rate", number: true },
  { name: "Size", number: true },
  { name: "Kept", number: true },
  { name: "Aliases", wide: true },
  { name: "Actors", number: true },
  { name: "Worst lag", number: true },
];

export class Overview {
  constructor(live, linkTo) {
    Object.assign(this, { live, linkTo });
    const chart = (label, format, height = 116) => new Chart({ label, format, height, across: (when) => sinceNow(Date.now())(when) });
    this.publishing = new Tile("Publishing", chart("Versions published per second over the last two minutes", (value) => figure(value)));
    this.visible = new Tile("Publish to visible", chart("Time from announced to visible over the last two minutes: median and 99th percentile", lasting));
    this.lag = new Tile("Worst lag", chart("Versions that the last actor is behind, over the last two minutes", (value) => figure(value)));
    this.memoryMeter = new Meter("Memory used");
    this.memory = new Tile("Memory", this.memoryMeter);
    this.archiveMeter = new Meter("Disk of the archive used");
    this.archive = new Tile("Archive", this.archiveMeter);
    this.filter = el("input", { type: "search", id: "filter", placeholder: "name", autocomplete: "off", spellcheck: "false", oninput: () => this.draw() });
    this.search = el("p", { class: "filter", hidden: true }, el("label", { for: "filter" }, "Show models with "), this.filter);
    const models = table("Models", MODELS);
    this.models = new Rows(models.body, (model) => this.modelRow(model));
    this.modelsMore = el("p", { class: "note" });
    this.empty = el("section", { class: "empty", hidden: true });
    this.listed = el("section", { "aria-label": "Models" }, this.search, models.node, this.modelsMore);
    const actors = table("Actors", actorColumns(true));
    this.actors = new Rows(actors.body, () => actorRow(linkTo));
    this.actorsNote = el("p", { class: "note" });
    this.actorsTable = actors.node;
    const where = live.namespace === "default" ? "Models" : `Models of namespace ${live.namespace}`;
    this.nodes = [
      el("h1", { class: "unseen" }, where),
      el("div", { class: "tiles" }, this.publishing.node, this.visible.node, this.lag.node, el("div", { class: "pair" }, this.memory.node, this.archive.node)),
      this.empty,
      this.listed,
      el("section", { "aria-label": "Actors" }, actors.node, this.actorsNote),
    ];
  }

  close() {}

  draw() {
    const now = Date.now();
    this.drawTiles(now);
    this.drawModels(now);
    this.drawActors();
  }

  // --- figures ----------------------------------------------------------------------------------------------------------

  drawTiles(now) {
    const { live } = this;
    const { values, per_second: rates } = live.stats ?? {};
    const axis = { from: now - WINDOW * 1000, to: now, xticks: [now - 120000, now - 60000, now] };
    const line = (points, fill = true) => ({ points, fill });
    const through = rates?.bytes_in === undefined || rates.bytes_in === null ? "" : ` \u00b7 ${bytes(rates.bytes_in).replace(" ", "\u00a0")}/s`;
    this.publishing.set([live.loaded ? figure(live.rate()) : NONE, "versions/s"], values ? `${plural(values.publishes, "version")} since the start${through}` : this.untold());
    this.publishing.chart.draw({ ...axis, lines: [line(live.rates(live.published, now))] });
    this.drawVisible(axis);
    const worst = this.worst();
    const lag = values?.worst_lag_versions ?? worst?.lag ?? 0;
    const actors = values?.subscribers ?? live.actors.length;
    const bad = live.actors.filter((one) => condition(one)[0] !== "ok").length;
    const furthest = worst?.lag ? ` \u00b7 furthest ${nameOf(worst)}, ${lasting(worst.lag_seconds)}` : "";
    this.lag.set(
      actors ? [count(lag), lag === 1 ? "version" : "versions"] : [NONE, ""],
      actors ? `${plural(actors, "actor")}${bad ? `, ${count(bad)} behind or silent` : ""}${furthest}` : live.hiddenActors || "No actor follows a model",
    );
    this.lag.chart.draw({ ...axis, lines: [line(live.series.lag.within(now))] });
    this.drawMemory(values);
  }

  // Why a figure is not there.
  untold() {
    return this.live.partial ? "Told to tokens that cover all models" : "";
  }

  worst() {
    return this.live.actors.reduce((worst, one) => (!worst || one.lag > worst.lag ? one : worst), null);
  }

  drawVisible(axis) {
    const { live } = this;
    const found = live.stats?.quantiles?.visible_seconds;
    if (found?.count) this.visible.set([...split(lasting(found.p50_seconds)), `p99 ${lasting(found.p99_seconds)}`], "Median and p99, from announced to verified by an actor", "aside");
    else this.visible.set([NONE, ""], live.stats ? "No actor took a new version lately" : this.untold());
    const now = axis.to;
    this.visible.chart.draw({ ...axis, lines: [{ points: live.series.p50.within(now), fill: true }, { points: live.series.p99.within(now) }] });
  }

  drawMemory(values) {
    if (!values) return [this.memory, this.archive].forEach((tile) => tile.set([NONE, ""], this.untold()));
    const used = values.memory_versions + values.memory_uploads + values.slot_bytes_lost;
    this.memory.set([...split(bytes(used)), `of ${bytes(values.memory_budget)}`], `Slots: ${count(values.slots_used)} used, ${count(values.slots_free)} free, ${count(values.slots_pinned)} pinned`);
    this.memoryMeter.set(used / values.memory_budget);
    this.drawArchive(values);
  }

  drawArchive(values) {
    const { disk } = this.live;
    const [free, size] = [disk?.free_bytes ?? null, disk?.size_bytes ?? null];
    this.archive.set(free === null ? [NONE, ""] : [...split(bytes(free)), `free of ${bytes(size)}`], archiving(values));
    this.archiveMeter.set(free === null ? NaN : 1 - free / size);
    this.archive.note.classList.toggle("bad", Boolean(values.archive_read_only) || disk?.ok === false);
  }

  // --- models -----------------------------------------------------------------------------------------------------------

  drawModels(now) {
    const { live } = this;
    const all = [...live.models.values()];
    const none = live.loaded && !all.length;
    if (none) howToPublish(this.empty, live.namespace);
    this.empty.hidden = !none;
    this.listed.hidden = !all.length;
    this.search.hidden = all.length <= 8 && !this.filter.value;
    const wanted = all.filter((model) => model.info.model_id.toLowerCase().includes(this.filter.value.trim().toLowerCase()));
    this.lags = new Map();
    for (const actor of live.actors) {
      const known = this.lags.get(actor.model) ?? { actors: 0, worst: null };
      known.actors += 1;
      if (!known.worst || actor.lag > known.worst.lag) known.worst = actor;
      this.lags.set(actor.model, known);
    }
    this.now = now;
    this.models.show(wanted.slice(0, SHOWN), (model) => model.info.model_id);
    const left = wanted.length - SHOWN;
    say(this.modelsMore, left > 0 ? `${plural(left, "model")} more: narrow them down by name.` : !wanted.length && all.length ? "No model has that in its name." : "");
  }

  modelRow() {
    const link = this.linkTo("", "");
    const [newest, published, rate, size, kept, aliases, actors, lag] = Array.from({ length: 8 }, () => el("span"));
    let shown = null;
    const update = (model) => {
      const { info, last } = model;
      if (shown !== info.model_id) {
        const made = this.linkTo(info.model_id, info.model_id);
        (shown === null ? link : node.querySelector("a")).replaceWith(made);
        shown = info.model_id;
      }
      say(newest, info.newest ? count(info.newest) : NONE);
      const at = last ? moment(last.created) : NaN;
      say(published, last ? ago(at, this.now) : info.newest ? NONE : "not yet", absolute(at));
      say(rate, `${figure(this.live.rate(model.published, this.now))}\u00a0/s`);
      say(size, last ? bytes(last.size) : NONE);
      say(kept, count(info.versions), "versions that can be fetched");
      const named = Object.entries(info.aliases).map(([alias, number]) => `${alias}\u00a0\u2192\u00a0${count(number)}`).join(", ");
      say(aliases, named || NONE);
      aliases.parentNode.classList.toggle("none", !named);
      const known = this.lags.get(info.model_id);
      say(actors, count(known?.actors ?? 0));
      say(lag, known?.worst ? `${plural(known.worst.lag, "version")}` : NONE, known?.worst ? `${lasting(known.worst.lag_seconds)} behind` : "");
    };
    const node = row(MODELS, [link, newest, published, rate, size, kept, aliases, actors, lag]);
    return { node, update };
  }

  // --- actors -----------------------------------------------------------------------------------------------------------

  drawActors() {
    const { live } = this;
    const byName = (one, other) => (one.model + (one.name ?? "") + one.subscriber < other.model + (other.name ?? "") + other.subscriber ? -1 : 1);
    const few = live.actors.length <= ACTORS;
    const sorted = [...live.actors].sort(few ? byName : (one, other) => other.lag - one.lag || byName(one, other));
    this.actors.show(sorted.slice(0, ACTORS), (one) => `${one.model} ${one.subscriber}`);
    this.actorsTable.hidden = !sorted.length;
    const left = sorted.length - ACTORS;
    const rest = live.moreActors ? " Of models that are quiet for longest, and beyond 500 for each, actors are not listed." : "";
    const bad = sorted.filter((one) => condition(one)[0] !== "ok").length;
    if (live.hiddenActors) say(this.actorsNote, live.hiddenActors);
    else if (!sorted.length) say(this.actorsNote, live.loaded ? "No actors. One that calls client.subscriber(MODEL) is listed here with its lag." : "");
    else say(this.actorsNote, left > 0 ? `The ${ACTORS} that lag most; ${plural(left, "actor")} more, ${count(bad)} of all behind or silent.${rest}` : rest.trim());
  }
}

function archiving(values) {
  if (values.archive_read_only) return "Read-only after a failed write: free some room, or look into the log";
  const waiting = values.archive_jobs ? `, ${plural(values.archive_jobs, "job")} waiting` : "";
  return `${plural(values.archived, "version")} archived since the start${waiting}`;
}

// A number and its unit.
const split = (text) => (text.includes(" ") ? [text.slice(0, text.lastIndexOf(" ")), text.slice(text.lastIndexOf(" ") + 1)] : [text, ""]);
