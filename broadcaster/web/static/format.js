// Numbers and times as people read them, always with their units.

const MINUS = "\u2212";
export const NONE = "\u2013";
const THIN = "\u202f";

// A value that is a number, or NaN and infinities as JSON carries them.
export const number = (value) => (value === null || value === undefined ? NaN : Number(value));

export function figure(value, digits = 3) {
  const given = number(value);
  if (!Number.isFinite(given)) return value === null || value === undefined ? NONE : String(value).replace("Infinity", "\u221e");
  const size = Math.abs(given);
  let text;
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) text = given.toExponential(Math.max(0, digits - 1)).replace("e+", "e");
  else if (size >= 100 || Number.isInteger(given)) text = count(Math.round(given * 10) / 10);
  else text = String(Number(given.toPrecision(digits)));
  return text.replace("-", MINUS);
}

export const count = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 }).replaceAll(",", THIN);

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let [left, unit] = [number(value), 0];
  if (!Number.isFinite(left)) return NONE;
  while (left >= 1024 && unit < units.length - 1) [left, unit] = [left / 1024, unit + 1];
  return `${unit && left < 10 ? Number(left.toFixed(1)) : Math.round(left)} ${units[unit]}`;
}

// A length of time in the unit that fits, from microseconds to days.
export function lasting(seconds) {
  const given = number(seconds);
  if (!Number.isFinite(given)) return NONE;
  if (given === 0) return "0 s";
  if (given < 1e-3) return `${Math.round(given * 1e6)} \u00b5s`;
  if (given < 1) return `${Number((given * 1e3).toPrecision(given < 0.01 ? 2 : 3))} ms`;
  if (given < 10) return `${given.toFixed(1)} s`;
  if (given < 120) return `${Math.round(given)} s`;
  if (given < 7200) return `${Math.round(given / 60)} min`;
  if (given < 172800) return `${Math.round(given / 3600)} h`;
  return `${Math.round(given / 86400)} days`;
}

// How long ago something was; `at` and `now` in milliseconds since 1970.
export function ago(at, now) {
  if (!Number.isFinite(at)) return NONE;
  const seconds = Math.max(0, (now - at) / 1000);
  return seconds < 1 ? "now" : `${seconds < 10 ? `${Math.floor(seconds)} s` : lasting(seconds)} ago`;
}

export const absolute = (at) => (Number.isFinite(at) ? new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }) : "");

export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

// A stated time, as ISO 8601 text, in milliseconds since 1970.
export const moment = (text) => (text ? Date.parse(text) : NaN);
