/**
 * A raw client for tests of limits and shares. It ignores all limits that the server sends.
 *
 * @module
 */
import type { Server } from "../../server/server.ts";
import { Page, type Reply } from "./page.ts";
import { portOf } from "../servers.ts";
import { until } from "../waiting.ts";

/**
 * The address and user of a client, for a server whose `clientAddress` and `authenticate` read
 * them.
 */
export interface CallerOptions {
  readonly from: string;
  /** The user; empty for a guest. */
  readonly user?: string;
}

/** A raw client, like an attacker's. */
export class Caller extends Page {
  /**
   * Connects.
   *
   * @param options The address and the user.
   * @returns The client. The promise rejects if the server rejects the upgrade.
   */
  static async dial(
    server: Pick<Server, "address">,
    { from, user = "" }: CallerOptions,
  ): Promise<Caller> {
    const query = new URLSearchParams({ from, user });
    const caller = new Caller(`ws://127.0.0.1:${portOf(server)}/?${query}`, "skein.1");
    await caller.opened;
    return caller;
  }

  /**
   * Waits for the session.
   *
   * @returns The reason for a rejection; `undefined` if there is a session.
   */
  async rejection(): Promise<string | undefined> {
    let reason: string | undefined;
    void this.closed.then((event) => reason = event.reason, () => {});
    await until(() => this.hello !== undefined || reason !== undefined);
    return reason;
  }

  /**
   * Requests a resumable response.
   *
   * @param topic The topic of the request.
   * @returns The reply, with the id of the stream.
   */
  response(name: string, topic: string = "chat"): Promise<Reply> {
    return this.ask({ topic, data: 1, stream: name.padStart(20, "0") });
  }
}
