/**
 * A tour of the quiet cluster at the end of a run, on which guests on separate machines reach each
 * limit once. No fault disturbs a tour, so each reply and each time is known.
 */
import type { Client } from "../../../../client/client.ts";
import type { ConnectOptions } from "../../../../client/connect.ts";
import type { Host } from "../../../simulator/host.ts";
import type { Facts } from "../../facts.ts";
import { Examination, type ExaminationParts, LOOK_MS } from "../examination.ts";
import type { ClusterNode } from "../node.ts";
import { GUEST, type Holds } from "./holds.ts";

/** Maximum wait for a state, in milliseconds. */
const PATIENCE_MS = 3_000;

/** The parts of a cluster that a tour uses. */
export interface TourParts extends ExaminationParts {
  readonly holds: Holds;
  /** The nodes, all of which are running. */
  readonly nodes: readonly ClusterNode[];
}

/** One part of a tour. */
export type Visit = (tour: Tour) => Promise<void>;

/** A tour, which contains the tools that all visits use. */
export class Tour extends Examination {
  override readonly name = "tour";
  /** Requests that nodes hold. */
  readonly holds: Holds;
  readonly nodes: readonly ClusterNode[];

  /**
   * Prepares a tour.
   *
   * @param parts See {@linkcode TourParts}.
   */
  constructor(parts: TourParts) {
    super(parts, GUEST, PATIENCE_MS);
    this.holds = parts.holds;
    this.nodes = parts.nodes;
  }

  /** Runs visits concurrently. Each visit uses its own machines and users. */
  async run(visits: readonly Visit[]): Promise<void> {
    await Promise.all(visits.map(async (visit) => {
      try {
        await visit(this);
      } catch (error) {
        this.journal.tell("unhandled", "", { error });
      }
    }));
    await this.closeClients();
  }

  /**
   * Cuts the power of a node, and restarts it.
   *
   * @param lastsMs Time until the next start.
   */
  bury(node: ClusterNode, lastsMs: number): void {
    const { journal, simulation } = this;
    const { name: target } = node.host;
    journal.fault({ scope: "node", kind: "power", target, lastsMs }, "loses its power on the tour");
    node.host.kill({ power: true });
    simulation.after(lastsMs, () => node.restart());
  }

  /**
   * Picks the node of a visit. The choice depends on the visit and the seed.
   *
   * @param number Number of the visit.
   */
  node(number: number): ClusterNode {
    return this.nodes[(this.simulation.seed + number) % this.nodes.length]!;
  }

  /**
   * Connects a guest over WebSocket.
   *
   * @param host The machine.
   * @param name Name of the user.
   * @param options Options of `connect`.
   * @returns The client, which the tour closes.
   */
  guest(host: Host, name: string, node: ClusterNode, options: ConnectOptions = {}): Client {
    return this.open(host, node.host, {
      token: () => this.token(name),
      onMessage: () => {},
      onError: () => {},
      onMessageRejected: () => {},
      ...options,
    });
  }

  override pause(ms: number): Promise<void> {
    return new Promise((resolve) => void this.simulation.after(ms, resolve));
  }

  /**
   * Waits for the outcome of the first attempt to connect.
   *
   * @returns `connected`, or `rejected` and the close code.
   */
  async outcome(client: Client): Promise<string> {
    await this.until(() => client.status.current.name !== "connecting");
    const { current } = client.status;
    return "cause" in current ? `rejected ${current.cause.code}` : current.name;
  }

  /**
   * Examines how and when a promise settles.
   *
   * @param what The operation.
   * @param expected The name of the error or `fulfilled`, and the earliest and the latest time.
   */
  async settles(
    part: Facts["examined"]["part"],
    what: string,
    promise: Promise<unknown>,
    { as, fromMs, toMs }: { readonly as: string; readonly fromMs: number; readonly toMs: number },
  ): Promise<void> {
    const startMs = this.nowMs;
    let outcome = "pending";
    let tookMs = 0;
    promise.then(() => "fulfilled", nameOfError).then((name) => {
      outcome = name;
      tookMs = this.nowMs - startMs;
    });
    await this.until(() => outcome !== "pending", toMs + LOOK_MS);
    const isInTime = tookMs >= fromMs && tookMs <= toMs;
    this.examine(
      part,
      what,
      `${as} after ${fromMs} to ${toMs} ms`,
      outcome === as && isInTime
        ? `${as} after ${fromMs} to ${toMs} ms`
        : `${outcome} after ${Math.round(tookMs || this.nowMs - startMs)} ms`,
    );
  }
}

/**
 * Returns the name of an error.
 *
 * @returns The name of the class and, for a rejection, its code.
 */
export function nameOfError(error: unknown): string {
  const { name = typeof error, failure } = Object(error) as {
    readonly name?: string;
    readonly failure?: { readonly code: string };
  };
  return failure === undefined ? name : `${name} ${failure.code}`;
}
