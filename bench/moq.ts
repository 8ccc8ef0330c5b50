/**
 * The part of `@moq/qmux` that is measured.
 *
 * @module
 */
import type { Connection } from "../transport/connection.ts";

/** A session of it. */
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

/** What the package exports. */
export interface Moq {
  /** A session of either end. */
  readonly default: {
    new (url: string): MoqSession;
    accept(socket: WebSocket, options: { readonly protocol: string }): MoqSession;
  };
  /** Chooses a subprotocol. */
  selectSubprotocol(offered: string | null): string | undefined;
}

/** Its version. */
export const MOQ_VERSION = "0.3.3";

/**
 * Loads it. Its types are not those of Deno, so they are not asked for.
 *
 * @returns The package.
 */
export async function loadMoq(): Promise<Moq> {
  const name: string = `npm:@moq/qmux@${MOQ_VERSION}`;
  return await import(name);
}
