/**
 * The trace of a run, indexed by time.
 *
 * @module
 */

/** Length of the time slices that index packets, in milliseconds. */
const PART_MS = 100;

/** States of a host, by the texts of its `life` facts. */
const STATES = {
  "is killed": "dead",
  "loses its power": "dead",
  "starts": "alive",
  "is frozen": "frozen",
  "thaws": "alive",
};

/** Answers queries about a moment of a run. */
export class Trace {
  /** Facts without packets, oldest first. */
  facts;
  #parts = new Map();
  #lives = new Map();
  #links = [];

  constructor(entries) {
    this.facts = entries.filter(({ kind }) => kind !== "packet");
    for (const entry of entries) {
      if (entry.kind === "packet") this.#addPacket(entry);
      else if (entry.kind === "life") this.#addLife(entry);
      else if (entry.kind === "network") this.#addLink(entry);
    }
  }

  /** Packets in flight, each with `part`, the travelled fraction of the link. */
  packetsAt(ms) {
    const found = [];
    for (const packet of this.#parts.get(Math.floor(ms / PART_MS)) ?? []) {
      const part = (ms - packet.atMs) / packet.lastsMs;
      if (part >= 0 && part < 1) found.push({ ...packet, part });
    }
    return found;
  }

  /** State of a host: `alive`, `frozen` or `dead`. */
  stateAt(host, ms) {
    return STATES[this.#lives.get(host)?.findLast(({ atMs }) => atMs <= ms)?.text] ?? "alive";
  }

  /** Kinds of the open connections, by pair of hosts (`from to`). */
  linksAt(ms) {
    const open = new Map();
    for (const link of this.#links) {
      if (link.atMs > ms) break;
      const { host, to, kind } = link;
      // A client uses only one connection: a new one replaces a connection that went silent.
      if (kind !== "socket") {
        for (const key of open.keys()) if (key.startsWith(`${host} `)) open.delete(key);
      }
      if (kind !== "") open.set(`${host} ${to}`, link);
    }
    for (const [key, { host, to, atMs }] of open) {
      const died = [host, to].some((name) =>
        this.#lives.get(name)?.some((life) =>
          STATES[life.text] === "dead" && life.atMs > atMs && life.atMs <= ms
        )
      );
      if (died) open.delete(key);
    }
    return new Map([...open].map(([key, { kind }]) => [key, kind]));
  }

  /** Number of facts up to a moment. */
  countAt(ms) {
    let [low, high] = [0, this.facts.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.facts[middle].atMs <= ms) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #addPacket(packet) {
    const first = Math.floor(packet.atMs / PART_MS);
    const last = Math.floor((packet.atMs + packet.lastsMs) / PART_MS);
    for (let part = first; part <= last; part++) {
      if (!this.#parts.has(part)) this.#parts.set(part, []);
      this.#parts.get(part).push(packet);
    }
  }

  #addLife(entry) {
    if (!this.#lives.has(entry.host)) this.#lives.set(entry.host, []);
    this.#lives.get(entry.host).push(entry);
  }

  #addLink(entry) {
    // All other facts of a connection are about its end.
    const kind = /^opens (.+)$/.exec(entry.text)?.[1] ?? "";
    this.#links.push({ ...entry, kind });
  }
}
