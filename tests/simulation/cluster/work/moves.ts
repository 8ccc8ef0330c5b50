/**
 * Moves, in which a client opens another session next to its current one over any of its
 * transports.
 */
import type { ConnectOptions } from "../../../../client/connect.ts";
import { oneOf } from "../chance.ts";
import { type Program, WAIT_MS } from "../program.ts";

/** Mean interval between a client's moves, in milliseconds. */
const MOVE_EVERY_MS = 12_000;

/** Share of the moves to a transport that the program chooses. */
const CHOSEN_SHARE = 0.5;

/**
 * Makes a client move to another session from time to time.
 *
 * @param transports The transports of the client.
 */
export function move(
  program: Program,
  transports: NonNullable<ConnectOptions["transports"]>,
): void {
  const { client } = program;
  program.every(MOVE_EVERY_MS, "moves", (random) => {
    const chosen = random() < CHOSEN_SHARE ? oneOf(random, transports) : undefined;
    const transport = typeof chosen === "object" ? chosen.name : chosen;
    program.wait("move", client.handOver({ transport }), WAIT_MS).then(
      (isMoved) => program.event(isMoved ? "moved" : "not moved", transport),
      (error) => program.tell("unhandled", { error }),
    );
  });
}
