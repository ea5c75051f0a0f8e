// Who follows a model, and how far each is.

import { el, row, say } from "./dom.js";
import { count, lasting, NONE, plural } from "./format.js";

const SILENT = 15; // seconds: who lives says so every ten
const LATE = 10; // seconds behind that are worth a look

// What to think of an actor: its class, and the word for it.
export function condition(actor) {
  if (actor.seen_seconds > SILENT) return ["silent", "silent"];
  if (actor.lag > 0 && actor.lag_seconds > LATE) return ["behind", "behind"];
  return ["ok", "keeps up"];
}

export const nameOf = (actor) => actor.name ?? actor.subscriber.slice(0, 8);

export const actorColumns = (withModel) => [
  { name: "Actor" },
  ...(withModel ? [{ name: "Model" }] : []),
  { name: "State" },
  { name: "Acts with", number: true },
  { name: "Lag", number: true },
  { name: "Behind for", number: true },
  { name: "Heard", number: true },
];

// One row; without `linkTo` the column of the model is left out.
export function actorRow(linkTo = null) {
  const [name, model, state, applied, lag, behind, heard] = Array.from({ length: 7 }, () => el("span"));
  const cells = linkTo ? [name, model, state, applied, lag, behind, heard] : [name, state, applied, lag, behind, heard];
  const node = row(actorColumns(Boolean(linkTo)), cells);
  const update = (one) => {
    say(name, nameOf(one), one.subscriber);
    if (linkTo && model.textContent !== one.model) model.replaceChildren(linkTo(one.model, one.model));
    const [kind, word] = condition(one);
    state.className = `state ${kind}`;
    say(state, word);
    say(applied, one.applied ? count(one.applied) : NONE, `newest received: ${one.received || "none"}`);
    say(lag, plural(one.lag, "version"));
    say(behind, one.lag ? lasting(one.lag_seconds) : NONE);
    say(heard, one.seen_seconds < 1 ? "now" : `${lasting(one.seen_seconds)} ago`);
  };
  return { node, update };
}
