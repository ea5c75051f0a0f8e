// One model: its versions, what was measured of them, and who follows.

import { actorColumns, actorRow } from "./actors.js";
import { ask, pages, Refused } from "./api.js";
import { Chart, ticks } from "./chart.js";
import { el, row, Rows, say, table } from "./dom.js";
import { absolute, ago, bytes, count, figure, lasting, moment, NONE, number, plural } from "./format.js";
import { howToPublish } from "./hints.js";

const LOADED = 1000; // versions that are plotted
const PAGE = 20; // rows shown at first, and more at a time

const columns = (metric) => [
  { name: "Version" },
  { name: "Published" },
  { name: "Size", number: true },
  { name: metric || "Metric", number: true },
  { name: "Aliases" },
  { name: "Kept" },
  { name: "More" },
  { name: "Payload" },
];

export class ModelView {
  constructor(live, name, linkTo) {
    Object.assign(this, { live, name });
    this.versions = new Map();
    this.metric = "";
    this.shown = PAGE;
    this.at = null; // the version that is pointed at
    this.state = "loading";
    this.hear = (event) => this.take(event);
    live.listeners.add(this.hear);
    this.build(linkTo);
    this.load();
  }

  build(linkTo) {
    this.description = el("p", { class: "description" });
    this.facts = el("dl", { class: "facts" });
    this.choice = el("select", { id: "metric", onchange: () => this.choose(this.choice.value) });
    this.readout = el("output", { class: "readout", for: "metric" });
    this.chart = new Chart({ label: "", format: (value) => figure(value), across: (value) => count(value), height: 240, zero: false, dots: true });
    this.chart.node.setAttribute("tabindex", "0");
    this.chart.node.addEventListener("pointermove", (event) => this.pointAt(this.nearest(this.chart.under(event))));
    this.chart.node.addEventListener("pointerleave", () => this.pointAt(null));
    this.chart.node.addEventListener("keydown", (event) => this.key(event));
    this.chart.node.addEventListener("blur", () => this.pointAt(null));
    const chooser = el("p", { class: "choose" }, el("label", { for: "metric" }, "Metric "), this.choice);
    this.plot = el("section", { class: "plot", hidden: true, "aria-labelledby": "plot" }, el("div", { class: "bar" }, el("h2", { id: "plot" }, "Over versions"), chooser, this.readout), this.chart.node);
    this.columns = columns("");
    const versions = table("Versions", this.columns);
    this.metricHead = versions.node.querySelectorAll("thead th")[3];
    this.rows = new Rows(versions.body, (version) => this.versionRow(version));
    this.more = el("button", { class: "more", hidden: true, onclick: () => this.showMore() }, "Show more");
    this.versionsNote = el("p", { class: "note" });
    this.listed = el("section", { "aria-label": "Versions" }, versions.node, this.more, this.versionsNote);
    const actors = table("Subscribers", actorColumns(false));
    this.actors = new Rows(actors.body, () => actorRow());
    this.actorsTable = actors.node;
    this.actorsNote = el("p", { class: "note" });
    this.empty = el("section", { class: "empty", hidden: true });
    this.nodes = [
      el("nav", { class: "crumbs", "aria-label": "Way back" }, linkTo(null, "All models")),
      el("h1", {}, this.name),
      this.description,
      this.facts,
      this.empty,
      this.plot,
      this.listed,
      el("section", { "aria-label": "Subscribers" }, this.actorsTable, this.actorsNote),
    ];
  }

  close() {
    this.closed = true;
    this.live.listeners.delete(this.hear);
    clearTimeout(this.retry);
  }

  // --- what is known ----------------------------------------------------------------------------------------------------

  async load() {
    const path = this.live.path(this.name);
    try {
      const { found, next } = await pages(`${path}/versions`, "versions", { ...this.live.parameters, order: "desc" }, LOADED);
      this.versions = new Map(found.map((version) => [version.number, version]));
      this.older = next !== null;
      this.info = await ask(path, this.live.parameters);
      this.state = "loaded";
    } catch (wrong) {
      this.state = wrong instanceof Refused && wrong.status === 404 ? "unknown" : this.state;
      if (this.state !== "unknown") this.again(1000);
    }
    this.draw();
  }

  again(pause = 200) {
    if (this.closed) return;
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.load(), pause);
  }

  // An event, or null where some were missed.
  take(event) {
    if (event !== null && event.model_id !== this.name) return;
    if (event?.event !== "published" || !event.version || this.state !== "loaded") return this.again();
    this.versions.set(event.number, event.version);
    for (const gone of event.evicted ?? []) this.versions.delete(gone);
  }

  // The newest first, and no more than are loaded at first.
  get sorted() {
    const all = [...this.versions.values()].sort((one, other) => other.number - one.number);
    for (const { number: old } of all.slice(LOADED)) this.versions.delete(old);
    this.older ||= all.length > LOADED;
    return all.slice(0, LOADED);
  }

  // --- drawing ----------------------------------------------------------------------------------------------------------

  draw() {
    const now = Date.now();
    const info = this.live.models.get(this.name)?.info ?? this.info;
    const all = this.sorted;
    const none = this.state === "unknown" || (this.state === "loaded" && !all.length);
    if (none) howToPublish(this.empty, this.live.namespace, this.name);
    this.empty.hidden = !none;
    this.listed.hidden = !all.length;
    if (info) this.drawFacts(info, all, now);
    this.drawMetrics(all, info?.aliases ?? {});
    this.now = now;
    this.rows.show(all.slice(0, this.shown), (version) => version.number);
    const left = all.length - this.shown;
    this.more.hidden = left <= 0;
    say(this.more, left > PAGE * 5 ? `Show ${PAGE * 5} more of ${count(left)}` : `Show the other ${left}`);
    say(this.versionsNote, this.older ? `The newest ${count(all.length)} are listed here; older ones with: broadcaster versions ${this.name}` : "");
    this.drawActors();
  }

  drawFacts(info, all, now) {
    say(this.description, info.description || "");
    const newest = all[0];
    const at = newest ? moment(newest.created) : NaN;
    const total = all.reduce((sum, version) => sum + version.size, 0);
    const retention = Object.entries(info.retention ?? {});
    const facts = [
      ["Newest", newest ? `${count(newest.number)}, ${ago(at, now)}` : NONE, absolute(at)],
      ["Rate", `${figure(this.live.rate(this.live.models.get(this.name)?.published, now))} versions/s`],
      ["Kept", `${plural(info.versions, "version")}, ${bytes(total)}${this.older ? " and more" : ""}`],
      ["Archived", plural(all.filter((version) => version.archived).length, "version")],
      ["Aliases", Object.entries(info.aliases).map(([alias, to]) => `${alias} \u2192 ${count(to)}`)],
      ["Tags", pairs(info.tags)],
      ["User data", pairs(info.user_data)],
      ["Retention", pairs(Object.fromEntries(retention))],
      ["Created", ago(moment(info.created), now), absolute(moment(info.created))],
    ].filter(([, value]) => value.length);
    facts.forEach(([name, value, title], index) => {
      let pair = this.facts.children[index];
      if (!pair) this.facts.append((pair = el("div", {}, el("dt"), el("dd"))));
      say(pair.firstChild, name);
      if (Array.isArray(value)) {
        if (pair.lastChild.dataset.list !== value.join("\n")) {
          pair.lastChild.dataset.list = value.join("\n");
          pair.lastChild.replaceChildren(el("ul", { class: "chips" }, value.map((one) => el("li", {}, one))));
        }
      } else {
        delete pair.lastChild.dataset.list;
        say(pair.lastChild, value, title ?? "");
      }
    });
    while (this.facts.children.length > facts.length) this.facts.lastChild.remove();
  }

  drawMetrics(all, aliases) {
    const names = [...new Set(all.flatMap((version) => Object.keys(version.metrics)))].sort();
    if (!names.includes(this.metric)) this.metric = names.includes("return") ? "return" : (names[0] ?? "");
    const listed = Array.from(this.choice.options, (option) => option.value);
    if (listed.join("\n") !== names.join("\n")) this.choice.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    if (this.choice.value !== this.metric) this.choice.value = this.metric;
    say(this.metricHead, this.metric || "Metric");
    this.plot.hidden = !names.length;
    if (!names.length) return;
    this.points = all.map((version) => [version.number, number(version.metrics[this.metric])]).reverse().filter(([, value]) => Number.isFinite(value));
    const [from, to] = [all.at(-1).number, all[0].number];
    const marks = Object.entries(aliases).filter(([, to_]) => to_ >= from && to_ <= to).map(([name, x]) => ({ x, name }));
    const xticks = ticks(from, to, 6).filter((tick) => tick >= from && tick <= to && Number.isInteger(tick));
    this.chart.node.setAttribute("aria-label", `${this.metric} of versions ${from} to ${to}. Arrow keys go from version to version.`);
    const nothing = `no version here has a number for ${this.metric}`;
    this.chart.draw({ lines: [{ points: this.points }], from: from === to ? from - 1 : from, to: from === to ? to + 1 : to, marks, xticks: from === to ? [from] : xticks, nothing });
    this.pointAt(this.at, false);
  }

  drawActors() {
    const { live } = this;
    const known = live.actors.filter((one) => one.model === this.name).sort((one, other) => ((one.name ?? "") + one.subscriber < (other.name ?? "") + other.subscriber ? -1 : 1));
    this.actors.show(known, (one) => one.subscriber);
    this.actorsTable.hidden = !known.length;
    say(this.actorsNote, live.hiddenActors || (known.length || !live.loaded ? "" : `Nobody follows. An actor does with client.subscriber("${this.name}").`));
  }

  // --- pointing at the plot ---------------------------------------------------------------------------------------------

  choose(metric) {
    this.metric = metric;
    this.at = null;
    this.draw();
  }

  nearest(place) {
    return (this.points ?? []).reduce((best, [at]) => (best === null || Math.abs(at - place) < Math.abs(best - place) ? at : best), null);
  }

  pointAt(at, heard = true) {
    this.at = at;
    const spot = at === null ? null : ((this.points ?? []).find(([number_]) => number_ === at) ?? null);
    this.chart.point(spot);
    const shown = spot ?? this.points?.at(-1);
    const text = shown ? `version ${count(shown[0])}: ${figure(shown[1], 4)}` : "";
    this.readout.setAttribute("aria-live", heard && at !== null ? "polite" : "off"); // News of the newest version are not read out.
    say(this.readout, text);
  }

  key(event) {
    const numbers = (this.points ?? []).map(([at]) => at);
    const index = this.at === null ? numbers.length : numbers.indexOf(this.at);
    const to = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: numbers.length - 1 }[event.key];
    if (to === undefined || !numbers.length) return;
    event.preventDefault();
    this.pointAt(numbers[Math.max(0, Math.min(numbers.length - 1, to))]);
  }

  // --- versions ---------------------------------------------------------------------------------------------------------

  showMore() {
    this.shown += PAGE * 5;
    this.draw();
  }

  versionRow(version) {
    const [name, published, size, metric, aliases, kept] = Array.from({ length: 6 }, () => el("span"));
    const more = el("div");
    const link = el("a", { href: version.data, download: "", "aria-label": `Download version ${version.number} of ${this.name}, ${bytes(version.size)}` }, "Download");
    const node = row(this.columns, [name, published, size, metric, aliases, kept, more, link]);
    let known = null;
    const update = (one) => {
      say(name, count(one.number));
      say(published, ago(moment(one.created), this.now), absolute(moment(one.created)));
      say(size, bytes(one.size), `${one.size} bytes`);
      say(metric, figure(one.metrics[this.metric], 4));
      metric.parentNode.dataset.label = this.metric || "Metric";
      const names = this.live.models.get(this.name)?.info.aliases ?? {};
      const named = Object.keys(names).filter((alias) => names[alias] === one.number).join(", ");
      say(aliases, named || NONE);
      aliases.parentNode.classList.toggle("none", !named);
      say(kept, `${one.archived ? "archive" : "memory"}${one.pinned ? ", pinned" : ""}`);
      if (known !== one) more.replaceChildren(details(one));
      known = one;
    };
    return { node, update };
  }
}

const pairs = (map) => Object.entries(map ?? {}).map(([name, value]) => `${name} = ${value}`);

// All else that is known of a version, folded up.
function details(version) {
  const lists = [
    ["Description", version.description ? [version.description] : []],
    ["Metrics", Object.entries(version.metrics).map(([name, value]) => `${name} = ${figure(value, 6)}`)],
    ["Tags", pairs(version.tags)],
    ["User data", pairs(version.user_data)],
    ["Content type", [version.content_type]],
    ["xxh3-128", version.digest ? [version.digest] : []],
    ["SHA-256", version.sha256 ? [version.sha256] : []],
  ].filter(([, values]) => values.length);
  return el("details", {}, el("summary", {}, "Details"), el("dl", {}, lists.map(([name, values]) => [el("dt", {}, name), values.map((value) => el("dd", {}, value))])));
}
