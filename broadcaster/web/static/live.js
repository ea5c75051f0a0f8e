// What is known of one namespace, kept up by events and, once a second, by a look at the counters.

import { ask, Events, pages, Refused } from "./api.js";
import { Counts, Series } from "./chart.js";
import { moment } from "./format.js";

export const WINDOW = 120; // seconds that charts go back
const RATE = 5; // seconds that a rate is over
const REPLAYED = 1000; // events that fill the charts at the beginning
const MODELS = 1000; // models listed
const ASKED = 20; // models whose subscribers are looked at
const REFRESH = 15; // looks after which everything is asked for again

class Model {
  constructor(info) {
    this.info = info;
    this.last = null; // the newest version, as far as it was heard of
    this.published = new Counts(WINDOW);
    this.heard = 0;
  }
}

export class Live {
  constructor(namespace, changed) {
    Object.assign(this, { namespace, changed });
    this.models = new Map();
    this.actors = [];
    this.moreActors = false;
    this.hiddenActors = ""; // why subscribers are not told, where they are not
    this.stats = null;
    this.disk = null;
    this.loaded = false;
    this.partial = false; // whether the figures of the whole broadcaster are not for us
    this.problem = ""; // what is wrong with the connection
    this.lostAt = null;
    this.listeners = new Set(); // of events, beside this
    this.known = Infinity; // since when publications are known, in milliseconds
    this.published = new Counts(WINDOW);
    this.series = Object.fromEntries(["p50", "p99", "lag", "memory"].map((name) => [name, new Series(WINDOW)]));
    this.looks = 0;
    this.streaming = false;
    this.epoch = null;
    this.stale = new Map();
    document.addEventListener("visibilitychange", () => document.hidden || this.soon());
    addEventListener("online", () => this.soon());
  }

  start() {
    this.tick();
  }

  get parameters() {
    return { namespace: this.namespace };
  }

  path(model, rest = "") {
    return `/v1/models/${encodeURIComponent(model)}${rest}`;
  }

  // --- once a second --------------------------------------------------------------------------------------------------

  soon() {
    clearTimeout(this.timer);
    if (!this.busy) this.tick();
  }

  async tick() {
    this.busy = true;
    try {
      if (!document.hidden || !this.loaded) await this.look();
      if (this.streaming || !this.events) this.found();
    } catch (wrong) {
      this.lose(wrong);
    }
    this.busy = false;
    this.changed();
    this.timer = setTimeout(() => this.tick(), 1000);
  }

  async look() {
    await this.lookAtStats();
    if (!this.loaded || this.looks % REFRESH === 0) await this.load();
    if (this.looks % 2 === 0) await this.lookAtActors();
    if (this.looks % REFRESH === 0) this.disk = await ask("/v1/disk");
    this.looks += 1;
    if (!this.events) this.follow();
  }

  async lookAtStats() {
    if (this.partial) return;
    try {
      this.stats = await ask("/v1/stats");
    } catch (wrong) {
      if (!(wrong instanceof Refused) || wrong.status !== 403) throw wrong;
      this.partial = true; // The token covers some models only: it is not told of all.
      return;
    }
    const [now, { values, quantiles }] = [Date.now(), this.stats];
    const visible = quantiles?.visible_seconds;
    this.series.p50.add(now, visible?.count ? visible.p50_seconds : NaN);
    this.series.p99.add(now, visible?.count ? visible.p99_seconds : NaN);
    this.series.lag.add(now, values.worst_lag_versions ?? NaN);
    this.series.memory.add(now, values.memory_versions ?? NaN);
    if (this.epoch !== null && this.epoch !== this.stats.epoch) this.loaded = false; // It was started again.
    this.epoch = this.stats.epoch;
  }

  async load() {
    const { found } = await pages("/v1/models", "models", this.parameters, MODELS);
    const names = new Set(found.map((info) => info.model_id));
    for (const name of this.models.keys()) if (!names.has(name)) this.models.delete(name);
    for (const info of found) this.put(info);
    this.models = new Map([...this.models].sort(([one], [other]) => (one < other ? -1 : 1)));
    this.loaded = true;
    const silent = [...this.models.values()].filter((model) => model.info.newest && model.last?.number !== model.info.newest).slice(0, ASKED);
    for (const model of silent) await this.fetchLast(model);
  }

  put(info) {
    const model = this.models.get(info.model_id);
    if (!model) this.models.set(info.model_id, new Model(info));
    else if ((info.newest ?? 0) >= (model.info.newest ?? 0) || model.info.epoch !== this.epoch) model.info = info;
    this.models.get(info.model_id).info.epoch = this.epoch;
  }

  async fetchLast(model) {
    try {
      model.last = await ask(this.path(model.info.model_id, "/versions/latest"), this.parameters);
    } catch (wrong) {
      if (!(wrong instanceof Refused)) throw wrong;
    }
  }

  async lookAtActors() {
    if (this.hiddenActors) return;
    const busiest = [...this.models.values()].sort((one, other) => other.heard - one.heard).slice(0, ASKED);
    const found = [];
    this.moreActors = this.models.size > ASKED;
    try {
      for (const { info } of busiest) {
        const page = await ask(this.path(info.model_id, "/subscribers"), { ...this.parameters, limit: 500 }).catch(gone);
        found.push(...page.subscribers.map((one) => ({ ...one, model: info.model_id })));
        this.moreActors ||= page.next !== null;
      }
      this.hiddenActors = "";
    } catch (wrong) {
      if (!(wrong instanceof Refused) || wrong.status !== 403) throw wrong;
      this.hiddenActors = "Who follows is told to tokens of learners and admins only.";
    }
    this.actors = found;
  }

  // --- events ---------------------------------------------------------------------------------------------------------

  follow() {
    const { epoch, offset } = this.stats ?? {};
    const first = Math.max(0, (offset ?? 0) - REPLAYED);
    this.from = offset ?? 0;
    this.known = epoch === undefined ? Date.now() : first === 0 ? 0 : Infinity;
    this.events = new Events(this.namespace, epoch === undefined ? null : `${epoch}.${first}`, {
      open: () => {
        if (!this.streamed) this.missed(); // What was asked for until now may be older than where the stream begins.
        this.streaming = this.streamed = true;
        this.soon();
      },
      lost: () => {
        this.streaming = false;
        this.lose(new Error("the stream of events broke off"));
        this.changed();
      },
      gap: () => {
        this.known = Date.now();
        this.missed();
      },
      event: (event) => this.take(event),
    });
  }

  take(event) {
    const now = Date.now();
    const model = this.models.get(event.model_id);
    if (event.event === "published") {
      const made = event.version ? moment(event.version.created) : now;
      const when = made > now - WINDOW * 1000 && made < now + 1000 ? Math.min(made, now) : event.offset > this.from ? now : made;
      this.known = Math.min(this.known, when);
      this.published.add(when, now);
      model?.published.add(when, now);
      if (model && event.number > (model.info.newest ?? 0)) {
        model.info.newest = event.number;
        model.info.versions += 1 - (event.evicted?.length ?? 0);
        model.last = event.version ?? model.last;
        model.heard = now;
      }
    } else if (event.offset > this.from && event.event === "deleted") {
      this.models.delete(event.model_id);
    }
    if (event.offset > this.from || event.epoch !== this.epoch) {
      if (event.event !== "deleted" && (!model || event.event !== "published")) this.again(event.model_id);
      this.tell(event);
    }
    this.changed();
  }

  // Events that were not told: all is asked for again.
  missed() {
    this.loaded = false;
    this.tell(null);
  }

  tell(event) {
    for (const listener of this.listeners) listener(event);
  }

  // Asks for a model anew, once however many events there are.
  again(name) {
    clearTimeout(this.stale.get(name));
    const look = async () => {
      this.stale.delete(name);
      try {
        this.put(await ask(this.path(name), this.parameters));
        this.models = new Map([...this.models].sort(([one], [other]) => (one < other ? -1 : 1)));
        const model = this.models.get(name);
        if (model.info.newest && model.last?.number !== model.info.newest) await this.fetchLast(model);
      } catch (wrong) {
        if (wrong.status === 404) this.models.delete(name);
      }
      this.changed();
    };
    this.stale.set(name, setTimeout(look, 200));
  }

  // --- the connection -------------------------------------------------------------------------------------------------

  lose(wrong) {
    this.lostAt ??= Date.now();
    this.problem = wrong instanceof Refused && wrong.status === 401 ? "token" : wrong.message;
    if (wrong instanceof TypeError || wrong.name === "TimeoutError") this.problem = "the broadcaster does not answer";
  }

  found() {
    this.lostAt = null;
    this.problem = "";
  }

  // --- what is drawn --------------------------------------------------------------------------------------------------

  // Publications per second over the last whole seconds that are known.
  rate(published = this.published, now = Date.now()) {
    const second = Math.floor(now / 1000);
    const known = Math.min(RATE, second - Math.floor(this.known / 1000));
    return known > 0 ? published.within(second - known, second) / known : 0;
  }

  // The same over time; unknown before the first event that was told.
  rates(published = this.published, now = Date.now()) {
    const last = Math.floor(now / 1000);
    return Array.from({ length: WINDOW + 1 }, (_, index) => last - WINDOW + index).map((second) => [
      second * 1000,
      second * 1000 < this.known ? NaN : published.within(second - RATE, second) / RATE,
    ]);
  }
}

// A model that was deleted meanwhile has no subscribers.
function gone(wrong) {
  if (wrong instanceof Refused && wrong.status === 404) return { subscribers: [], next: null };
  throw wrong;
}
