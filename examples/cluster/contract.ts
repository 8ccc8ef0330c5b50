/**
 * What pages say to the nodes, and to the program that starts and ends these.
 *
 * @module
 */
import { z } from "zod";
import { defineContract } from "../../client.ts"; // jsr:@skein/skein/client

const NAME = z.string().regex(/^[\p{L}\p{N}]{1,20}$/u);

const TEXT = z.string().trim().min(1).max(500);

/** Made by the writer: a line that comes twice has the same one. */
const ID = z.string().min(8).max(64);

/** A line in the room. */
export type Line = z.infer<typeof LINE>;

const LINE = z.object({
  id: ID,
  from: NAME,
  text: TEXT,
  /** Number of the node that took it. */
  node: z.int(),
});

/** Between a page and its node. */
export const chat = defineContract({
  toServer: { say: z.object({ id: ID, text: TEXT }) },
  toClient: { "room:{room}": LINE, node: z.int() },
});

/** What can be done to a node. */
export const VERBS = ["kill", "drain", "start"] as const;

/** What can be done to a node. */
export type Verb = typeof VERBS[number];

/** How a node is. */
export type NodeState = "starting" | "up" | "draining" | "down";

const NODES = z.array(
  z.object({ number: z.int(), state: z.enum(["starting", "up", "draining", "down"]) }),
);

/** Between a page and the program that has the nodes. */
export const control = defineContract({
  toServer: { do: z.object({ verb: z.enum(VERBS), number: z.int() }) },
  toClient: { cluster: z.object({ engine: z.string(), port: z.int(), nodes: NODES }) },
});
