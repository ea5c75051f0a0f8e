// Questions to the broadcaster, and the stream of what happens there.

export class Refused extends Error {
  constructor(status, told) {
    super(told.detail || `the broadcaster answered ${status}`);
    this.status = status;
    this.code = told.code || "";
  }
}

const PATIENCE = 8000; // milliseconds

export async function ask(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined));
  const answer = await fetch(`${path}?${query}`, { signal: AbortSignal.timeout(PATIENCE), headers: { Accept: "application/json" } });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, told);
  return told;
}

// All pages of a listing, as far as `most` entries.
export async function pages(path, member, parameters, most) {
  const found = [];
  let next = null;
  do {
    const page = await ask(path, { ...parameters, limit: Math.min(500, most - found.length), after: next });
    found.push(...page[member]);
    next = page.next;
  } while (next !== null && found.length < most);
  return { found, next };
}

export const KINDS = ["published", "archived", "evicted", "created", "updated", "deleted", "version-deleted", "aliased"];

// Events from a place on. A connection that breaks is opened again from the last event that was seen: none is missed or told twice.
export class Events {
  constructor(namespace, after, { event, gap, open, lost }) {
    Object.assign(this, { namespace, after, event, gap, open, lost });
    this.pause = 500;
    this.begin();
  }

  begin() {
    const query = new URLSearchParams({ namespace: this.namespace });
    if (this.after) query.set("after", this.after);
    const source = (this.source = new EventSource(`/v1/events?${query}`));
    const note = (take) => (message) => {
      if (source !== this.source) return;
      this.after = message.lastEventId || this.after;
      take(JSON.parse(message.data));
    };
    source.addEventListener("open", () => {
      this.pause = 500;
      this.open();
    });
    source.addEventListener("gap", note((told) => this.gap(told)));
    source.addEventListener("start", note(() => {}));
    for (const kind of KINDS) source.addEventListener(kind, note((told) => this.event(told)));
    source.addEventListener("error", () => {
      if (source !== this.source) return;
      this.lost();
      if (source.readyState === EventSource.CLOSED) this.later(); // It was answered with an error, and will not try by itself.
    });
  }

  later() {
    this.source.close();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.begin(), this.pause);
    this.pause = Math.min(this.pause * 2, 5000);
  }

  close() {
    clearTimeout(this.timer);
    this.source.close();
    this.source = null;
  }
}
