/**
 * The measured part of `@moq/qmux`.
 *
 * @module
 */
import type { Connection } from "../transport/connection.ts";

/** A session of `@moq/qmux`. */
export type MoqSession =
  & Pick<
    Connection,
    | "closed"
    | "createBidirectionalStream"
    | "createUnidirectionalStream"
    | "incomingBidirectionalStreams"
    | "incomingUnidirectionalStreams"
    | "ready"
  >
  & { close(): void };

/** The exports of the package. */
export interface Moq {
  /** A session, of client or server. */
  readonly default: {
    new (url: string): MoqSession;
    accept(socket: WebSocket, options: { readonly protocol: string }): MoqSession;
  };
  /** Chooses a subprotocol. */
  selectSubprotocol(offered: string | null): string | undefined;
}

/** Version of the package. */
export const MOQ_VERSION = "0.3.3";

/**
 * Loads the package. Its types do not work in Deno, so the interfaces above replace them.
 *
 * @returns The package.
 */
export async function loadMoq(): Promise<Moq> {
  const name: string = `npm:@moq/qmux@${MOQ_VERSION}`;
  return await import(name);
}
