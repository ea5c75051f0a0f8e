// The frame around the views: which one is shown, how the connection is, and when all is drawn again.

import { el, say } from "./dom.js";
import { absolute, lasting } from "./format.js";
import { Live } from "./live.js";
import { ModelView } from "./model.js";
import { Overview } from "./overview.js";

const parameters = new URLSearchParams(location.search);
const namespace = parameters.get("namespace") || "default";
const [content, link, about] = ["content", "link", "about"].map((id) => document.getElementById(id));
const lazily = matchMedia("(prefers-reduced-motion: reduce)");

let view = null;
let drawing = null;
let drawn = 0;

const live = new Live(namespace, draw);

// Draws soon: at most four times a second, and rarely for who wants things to stand still.
function draw() {
  if (drawing !== null) return;
  const pause = (lazily.matches ? 3000 : 250) - (performance.now() - drawn);
  drawing = setTimeout(() => {
    drawing = null;
    drawn = performance.now();
    connection();
    if (!document.hidden) view?.draw();
  }, Math.max(0, pause));
}

function connection() {
  const lost = live.lostAt !== null;
  const state = lost ? "lost" : live.streaming ? "live" : "waiting";
  if (link.dataset.state !== state) link.dataset.state = state;
  if (live.problem === "token") say(link, "a token is needed: open this page as /?token=TOKEN");
  else if (lost) say(link, `connection lost at ${new Date(live.lostAt).toLocaleTimeString()}: trying again`, live.problem);
  else say(link, state === "live" ? "live" : "connecting");
  document.documentElement.dataset.link = state;
  if (live.stats) {
    const begun = live.stats.epoch;
    say(about, `${live.stats.server_version ?? ""} \u00b7 up ${lasting((Date.now() - begun) / 1000)}`, `started ${absolute(begun)}`);
  }
}

// --- which view -------------------------------------------------------------------------------------------------------

export const address = (model) =>
  (model === null ? "/" : `/models/${encodeURIComponent(model)}`) + (namespace === "default" ? "" : `?namespace=${encodeURIComponent(namespace)}`);

function show({ focus }) {
  const found = location.pathname.match(/^\/models\/([^/]+)\/?$/);
  view?.close();
  const name = found ? decodeURIComponent(found[1]) : null;
  view = name === null ? new Overview(live, linkTo) : new ModelView(live, name, linkTo);
  document.title = name === null ? "broadcaster" : `${name} \u00b7 broadcaster`;
  content.replaceChildren(...view.nodes);
  view.draw();
  if (focus) {
    scrollTo(0, 0);
    content.focus({ preventScroll: true });
  }
}

function go(event, to) {
  if (event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return; // It is for another tab.
  event.preventDefault();
  history.pushState(null, "", to);
  show({ focus: true });
}

// A link to a model's page, or with null to the first one.
function linkTo(model, text, attributes = {}) {
  const to = address(model);
  return el("a", { href: to, onclick: (event) => go(event, to), ...attributes }, text);
}

addEventListener("popstate", () => show({ focus: true }));
const home = document.querySelector("a.home");
home.href = address(null);
home.addEventListener("click", (event) => go(event, address(null)));

const form = document.getElementById("namespace");
form.elements.namespace.value = namespace;
form.addEventListener("submit", (event) => {
  event.preventDefault();
  location.assign(`/?namespace=${encodeURIComponent(form.elements.namespace.value)}`);
});

show({ focus: false });
live.start();
setInterval(draw, 1000); // Times go on without news.
