/**
 * The contracts between a page and the nodes, and between a page and the program that runs them.
 *
 * @module
 */
import * as z from "zod";
import { defineContract } from "../../client.ts"; // jsr:@skein/skein/client

const NAME = z.string().regex(/^[\p{L}\p{N}]{1,20}$/u);

const TEXT = z.string().trim().min(1).max(500);

/** Id that the writer creates; if a line arrives twice, its id is the same. */
const ID = z.string().min(8).max(64);

const LINE = z.object({
  id: ID,
  from: NAME,
  text: TEXT,
  /** Number of the node that accepted the line. */
  node: z.int(),
});

/** The contract of a page and its node. */
export const chat = defineContract({
  toServer: { say: z.object({ id: ID, text: TEXT }) },
  toClient: { "room:{room}": LINE, node: z.int() },
});

/** The actions on a node. */
export const VERBS = ["kill", "drain", "start"] as const;

/** An action on a node. */
export type Verb = typeof VERBS[number];

export type NodeState = "starting" | "up" | "draining" | "down";

const NODES = z.array(
  z.object({ number: z.int(), state: z.enum(["starting", "up", "draining", "down"]) }),
);

/** The contract of a page and the program that runs the nodes. */
export const control = defineContract({
  toServer: { do: z.object({ verb: z.enum(VERBS), number: z.int() }) },
  toClient: { cluster: z.object({ broker: z.string(), port: z.int(), nodes: NODES }) },
});
