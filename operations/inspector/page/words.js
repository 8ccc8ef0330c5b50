/**
 * Formats numbers for display.
 *
 * @module
 */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** A count: 1,234 or 12.3k. */
export function count(number) {
  if (number < 10_000) return Math.round(number).toLocaleString("en");
  return number < 1e6 ? `${(number / 1e3).toFixed(1)}k` : `${(number / 1e6).toFixed(1)}M`;
}

/** A rate per second, with one decimal below ten. */
export function rate(number) {
  return number > 0 && number < 10 ? number.toFixed(1) : count(number);
}

/** Bytes: 812 B, 1.2 MiB. */
export function bytes(number) {
  let at = 0;
  for (; number >= 1_024 && at < UNITS.length - 1; at++) number /= 1_024;
  return `${at === 0 || number >= 100 ? Math.round(number) : number.toFixed(1)} ${UNITS[at]}`;
}

/** A time span: 42 s, 3 m 12 s, 2 h 5 m, 4 d 1 h. */
export function duration(ms) {
  const s = Math.floor(ms / 1_000);
  if (s < 60) return `${s} s`;
  if (s < 3_600) return `${Math.floor(s / 60)} m ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3_600)} h ${Math.floor(s / 60) % 60} m`;
  return `${Math.floor(s / 86_400)} d ${Math.floor(s / 3_600) % 24} h`;
}

/** Milliseconds of a round trip: 0.8 ms, 12 ms. */
export function milliseconds(ms) {
  if (ms === undefined || ms === null) return "–";
  if (ms > 0 && ms < 0.1) return "< 0.1 ms";
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

/** The time of day. */
export function time(at) {
  return at === undefined || at === null ? "–" : new Date(at).toLocaleTimeString();
}

/** The time of day with milliseconds. */
export function exactTime(at) {
  const date = new Date(at);
  const parts = [date.getHours(), date.getMinutes(), date.getSeconds()];
  const clock = parts.map((part) => String(part).padStart(2, "0")).join(":");
  return `${clock}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

const TRANSPORTS = {
  webtransport: "WebTransport",
  websocket: "WebSocket",
  http: "HTTP",
  memory: "Memory",
};

/** A transport's name. */
export function transport(name) {
  return TRANSPORTS[name] ?? name;
}

/** A number with a noun in singular or plural. */
export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** Display name of a node. */
export function nodeName({ id, name }) {
  return name || (id === "" ? "This server" : id.slice(0, 8));
}
