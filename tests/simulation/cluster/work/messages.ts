/** Messages and requests from clients to nodes, and from nodes to clients and users. */
import type { Session } from "../../../../session/session.ts";
import { type Program, WAIT_MS } from "../program.ts";
import type { ClusterNode } from "../node.ts";
import type { Identity } from "../tokens.ts";
import { patienceOf } from "./patience.ts";

/** Mean interval between a client's messages, in milliseconds. */
const SEND_EVERY_MS = 4_000;

/** Mean interval between a client's requests, in milliseconds. */
const ASK_EVERY_MS = 6_000;

/** Share of the requests with slow handlers. */
const SLOW_SHARE = 0.4;

/** Maximum duration of such a handler, in milliseconds. */
const SLOW_MS = 4_000;

/** Maximum wait until all messages are handled, in milliseconds. */
const FLUSH_MS = 60_000;

/** Sends messages, and occasionally waits until all of them are handled. */
export function sendMessages(program: Program): void {
  const { client, name, isReliable: isAtLeastOnce } = program;
  program.every(SEND_EVERY_MS, "messages", (random) => {
    const id = program.newId("m");
    const isFlush = random() < 0.2;
    program.note(`sends ${id}`);
    program.tell("sent", { client: name, id, isAtLeastOnce });
    try {
      client.send("work", { id, client: name });
    } catch (error) {
      program.failed("send failed", error);
      program.tell("sendFailed", { client: name, id, error });
      return;
    }
    if (!isFlush || !isAtLeastOnce) return;
    const flushed = client.flushed({ timeoutMs: FLUSH_MS });
    program.wait(`flush up to ${id}`, flushed, FLUSH_MS).then(
      () => program.tell("flushed", { client: name, upTo: id }),
      (error) => program.failed("flush failed", error),
    );
  });
}

/** Sends requests to nodes. */
export function ask(program: Program): void {
  const { client, name, host } = program;
  const patience = program.chanceOf("patience with requests");
  program.every(ASK_EVERY_MS, "requests", (random) => {
    const id = program.newId("r");
    const retry = random() < 0.3;
    program.tell("requestSent", { requester: name, id, isResent: retry });
    const { options, withinMs } = patienceOf(host.runtime, patience, WAIT_MS);
    // Some handlers take so long that a session may end in the meantime.
    const isSlow = patience() < SLOW_SHARE;
    const data = isSlow ? { id, ms: SLOW_MS * patience() } : { id };
    const reply = client.request(isSlow ? "hold" : "echo", data, { retry, ...options });
    program.wait(`request ${id}`, reply, withinMs).then(
      (reply) => {
        const answerTo = isSlow ? `${reply}` : (reply as { readonly id: string }).id;
        program.tell("requestReplied", { requester: name, id, answerTo });
      },
      (error) => program.failed("request failed", error),
    );
  });
}

/**
 * Creates the handlers with which a client answers requests from nodes.
 *
 * @returns The handlers.
 */
export function clientRequests(
  user: string,
): Readonly<Record<string, (message: never) => unknown>> {
  return {
    whoami: ({ data }: { readonly data: unknown }) => ({ ...Object(data), user }),
  };
}

/** Handles a client's message on a node. */
export function handleMessage(
  node: ClusterNode,
  session: Session<Identity>,
  data: unknown,
): void {
  const { journal, settings } = node;
  const { name } = node.host;
  const { id, client } = data as { readonly id: string; readonly client: string };
  journal.note(`handles ${id}`, name);
  node.tell("handled", { client, id });
  if (settings.has("rates")) {
    node.tell("rated", { scope: "user", of: session.user, isRejected: false });
  }
  if (settings.has("direct")) sendToUser(node, session.user);
  if (!settings.has("requests")) return;
  const asked = node.newId("q");
  node.tell("requestSent", { requester: name, id: asked });
  const { runtime } = node.host;
  const { options, withinMs } = patienceOf(runtime, () => runtime.random(), WAIT_MS);
  const reply = session.request("whoami", { id: asked }, options);
  journal.wait(node.host, `request ${asked}`, withinMs, reply).then(
    (reply) => {
      const { id: answerTo } = reply as { readonly id: string };
      node.tell("requestReplied", { requester: name, id: asked, answerTo });
    },
    (error) => node.failed("request of node failed", error),
  );
}

/** Sends a message to a user, on all nodes where the user has sessions. */
export function sendToUser(node: ClusterNode, user: string): void {
  const id = node.newId("d");
  node.tell("sentToUser", { user, id });
  node.server.to(user).send("direct", { id });
}

/**
 * Receives a message from a node to a user.
 *
 * @param data The data of the message.
 */
export function takeDirect(program: Program, data: unknown): void {
  const { id } = data as { readonly id: string };
  program.note(`got ${id}`);
  program.tell("receivedAsUser", { client: program.name, user: program.user, id });
}
