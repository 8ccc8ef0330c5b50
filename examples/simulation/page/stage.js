/**
 * Draws the hosts, their connections, and the packets in flight.
 *
 * @module
 */

const SVG = "http://www.w3.org/2000/svg";

/** Radius of a host, and of a packet. */
const RADIUS = { client: 22, node: 30, engine: 34, packet: 5 };

/** The drawing of a cluster. */
export class Stage {
  #svg;
  #on;
  #places = new Map();
  #hosts = new Map();
  #lines = new Map();
  #packets = [];
  #names;

  /**
   * `choose` receives the name of a clicked host. `resize` is called after the size has changed;
   * the drawing is empty then.
   */
  constructor(svg, on) {
    this.#svg = svg;
    this.#on = on;
    new ResizeObserver(() => {
      if (this.#names === undefined) return;
      this.build(this.#names);
      on.resize();
    }).observe(svg);
  }

  /** Draws the hosts of a run: a ring of clients around the nodes, and the engine in the middle. */
  build(names) {
    this.#names = names;
    const { width, height } = this.#svg.getBoundingClientRect();
    if (width === 0) return;
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    // The keyboard focus stays on its host when the size changes.
    const focused = [...this.#hosts].find(([, group]) => group === document.activeElement)?.[0];
    this.#svg.replaceChildren();
    for (const part of [this.#places, this.#hosts, this.#lines]) part.clear();
    this.#packets = [];
    const [x, y] = [width / 2, height / 2];
    const place = (list, kind, part, turn) => {
      for (const [i, name] of list.entries()) {
        const angle = (i / list.length + turn) * 2 * Math.PI;
        const reach = (size) => (size / 2 - RADIUS.client - 18) * part;
        this.#places.set(name, {
          x: x + Math.cos(angle) * reach(width),
          y: y + Math.sin(angle) * reach(height),
          kind,
        });
      }
    };
    place([names.engine], "engine", 0, 0);
    place(names.nodes, "node", 0.5, -0.25);
    place(names.clients, "client", 1, 1 / 16 - 0.25);
    for (const name of names.nodes) this.#addLine(name, names.engine);
    for (const client of names.clients) for (const node of names.nodes) this.#addLine(client, node);
    for (const [name, { x, y, kind }] of this.#places) this.#addHost(name, x, y, kind);
    this.#hosts.get(focused)?.focus({ preventScroll: true });
  }

  /** Draws one moment of a trace. */
  draw(trace, ms) {
    const links = trace.linksAt(ms);
    for (const [key, line] of this.#lines) {
      const kind = links.get(key);
      line.setAttribute("class", kind === undefined ? "link" : `link open ${kind}`);
    }
    for (const [name, group] of this.#hosts) {
      const state = trace.stateAt(name, ms);
      if (group.dataset.state === state) continue;
      group.dataset.state = state;
      group.setAttribute("aria-label", `${name}, ${group.dataset.kind}, ${state}`);
    }
    const packets = trace.packetsAt(ms);
    for (const [i, { host, to, part, text }] of packets.entries()) {
      const [from, end] = [this.#places.get(host), this.#places.get(to)];
      const circle = this.#packets[i] ?? this.#addPacket();
      circle.removeAttribute("hidden");
      circle.setAttribute("class", `packet ${text}`);
      circle.setAttribute("cx", from.x + (end.x - from.x) * part);
      circle.setAttribute("cy", from.y + (end.y - from.y) * part);
    }
    for (const circle of this.#packets.slice(packets.length)) circle.setAttribute("hidden", "");
  }

  /** Highlights the chosen host. */
  choose(name) {
    for (const [each, group] of this.#hosts) {
      group.setAttribute("aria-pressed", String(each === name));
    }
  }

  #addLine(from, to) {
    const [a, b] = [this.#places.get(from), this.#places.get(to)];
    const line = this.#add("line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y, class: "link" });
    this.#lines.set(`${from} ${to}`, line);
  }

  #addHost(name, x, y, kind) {
    const group = this.#add("g", {
      class: `host ${kind}`,
      role: "button",
      tabindex: "0",
      "aria-pressed": "false",
      "data-kind": kind,
    });
    this.#add("circle", { cx: x, cy: y, r: RADIUS[kind] }, group);
    const label = this.#add("text", { x, y: y + 4 }, group);
    label.textContent = name;
    group.addEventListener("click", () => this.#on.choose(name));
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.#on.choose(name);
    });
    this.#hosts.set(name, group);
  }

  #addPacket() {
    const circle = this.#add("circle", { r: RADIUS.packet, class: "packet" });
    this.#packets.push(circle);
    return circle;
  }

  #add(tag, attributes, parent = this.#svg) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    parent.append(element);
    return element;
  }
}
