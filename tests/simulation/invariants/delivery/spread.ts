/** Clients with sessions on several nodes. */
import type { Fact } from "../../facts.ts";

/**
 * Machines whose client has sessions on several nodes, for example while it moves behind a load
 * balancer.
 */
export class Spread {
  /** The node of each session that is open at a client. */
  readonly #nodes = new Map<string, string>();
  readonly #open = new Map<string, Set<string>>();
  readonly #lastMs = new Map<string, number>();

  /** Records a session on either side. */
  opened({ side, session, host }: Fact<"sessionOpened">): void {
    if (side === "node") return void this.#nodes.set(session, host);
    const open = this.#open.get(host);
    if (open === undefined) this.#open.set(host, new Set([session]));
    else open.add(session);
  }

  /** Records the end of a client's session. */
  closed({ side, session, host, atMs }: Fact<"sessionClosed">): void {
    if (side === "node") return;
    if (this.#isSpread(host)) this.#lastMs.set(host, atMs);
    this.#open.get(host)?.delete(session);
    this.#nodes.delete(session);
  }

  /** Returns true if a machine's client had such sessions at or after a given time. */
  wasSince(host: string, sinceMs: number): boolean {
    return this.#isSpread(host) || (this.#lastMs.get(host) ?? -Infinity) >= sinceMs;
  }

  #isSpread(host: string): boolean {
    const nodes = [...this.#open.get(host) ?? []].map((session) => this.#nodes.get(session));
    return new Set(nodes).size > 1;
  }
}
