/** Uses the services of the nodes as applications, backends and inspectors do. */
import type { Client } from "../../../../client/client.ts";
import type { Examiner } from "./examiner.ts";
import type { Backend } from "./backend.ts";
import { API, KEPT_TOPIC, type Node, STREAMS } from "./nodes.ts";
import { read, ROUND_MS, Waits } from "./waits.ts";
import { streamsOf } from "../../../stream_features.ts";

/**
 * Number of topics that a page inspects per visit. Two visits exceed the number that an inspector
 * keeps.
 */
const HISTORIES = 9;

export interface Visit {
  readonly examiner: Examiner;
  readonly nodes: readonly [Node, Node];
  readonly backend: Backend;
  /** Name of the visit. */
  readonly name: string;
}

/**
 * Uses all services of both nodes.
 *
 * @param visit See {@linkcode Visit}.
 * @param user A user, and the user's client.
 * @returns The outcomes of all calls.
 */
export async function askNodes(
  { examiner, nodes, backend, name: visit }: Visit,
  { name: user, client }: { readonly name: string; readonly client: Client },
): Promise<string[]> {
  const [one, other] = nodes;
  const { server } = one;
  const [waits, asked] = [new Waits(), new Waits()];
  for (const session of [...server.manager.all()]) {
    server.topics.subscribe(session, `pushed:${visit}`);
    server.topics.publish(`free:${visit}`, 1, { except: session });
    asked.add(session.request("ask", 1, { timeoutMs: ROUND_MS }));
  }
  for (const topic of [`free:${visit}`, `nobody:${visit}`, KEPT_TOPIC]) {
    server.publish(topic, 1);
    waits.add(other.server.topics.append(topic, 1));
  }
  for (const { server } of nodes) {
    waits.add(server.sessions(user));
    server.to(user).send("direct", 1);
  }
  const id = `growth-${visit}`;
  const writer = await streamsOf(server).create(id);
  await writer.append(1);
  waits.add(read(client.durableStream(id)));
  await writer.append(2);
  await writer.close();
  waits.add(
    backend.ask(other, `${STREAMS}/${id}`),
    backend.ask(other, `${STREAMS}/${id}?offset=-1&live=sse`),
    backend.ask(one, "/nowhere"),
  );
  await examiner.pause(ROUND_MS);
  await asked.over();
  const outcomes = await waits.over();
  for (const session of server.manager.all()) {
    server.topics.unsubscribe(session, `pushed:${visit}`);
  }
  return outcomes;
}

/**
 * Sends requests with idempotency keys. Some requests are repeated, reuse a key with another body,
 * run on both nodes at the same time, or fail.
 *
 * @param visit See {@linkcode Visit}.
 */
export async function askTwice({ nodes, backend, name: visit }: Visit): Promise<void> {
  const waits = new Waits();
  const topics = [`free:${visit}`, KEPT_TOPIC, `presence:${visit}`, `${"x".repeat(300)}`];
  for (const [round, data] of [1, 1, 2].entries()) {
    // This reuses the key of an answered request with another body.
    if (round === 2) await waits.over();
    for (const node of nodes) {
      for (const [i, topic] of topics.entries()) {
        const path = `${API}/topics/${encodeURIComponent(topic)}/publications`;
        const headers = { "idempotency-key": `${visit}-${i}` };
        const leaveMs = data === 2 && i === 0 ? 2 : ROUND_MS;
        waits.add(backend.ask(node, path, { json: { data }, headers, leaveMs }));
      }
      const headers = {
        "idempotency-key": `malformed-${visit}`,
        "content-type": "application/json",
      };
      waits.add(backend.ask(node, `${API}/publications`, { body: "{", headers }));
    }
  }
  for (
    const path of ["/stats", "/nowhere", "/users/nobody/sessions", `/topics/room:${visit}/presence`]
  ) {
    waits.add(...nodes.map((node) => backend.ask(node, `${API}${path}`)));
  }
  const history = `/topics/${KEPT_TOPIC}/history`;
  for (const query of ["", "?epoch=none&offset=3", "?limit=x"]) {
    waits.add(backend.ask(nodes[0], `${API}${history}${query}`));
  }
  waits.add(
    backend.ask(nodes[1], `${API}/sessions/nobody/disconnect`, { json: {} }),
    backend.ask(nodes[1], `${API}/users/nobody/disconnect`, { json: {} }),
  );
  await waits.over();
}

/**
 * Calls sessions and other nodes, and aborts most of the calls.
 *
 * @param visit See {@linkcode Visit}.
 * @param mortal A node that dies soon.
 */
export async function callNodes(
  { examiner, nodes, name: visit }: Visit,
  { server: mortal }: Node,
): Promise<void> {
  const waits = new Waits();
  const leave = new AbortController();
  const { signal } = leave;
  const { server } = nodes[0];
  for (const session of [...server.manager.all()]) {
    waits.add(
      session.request("ask", 1, { signal }),
      session.request("x".repeat(100), "x".repeat(100)),
      read(session.requestStream("answers", 1, { signal })),
      session.ping({ timeoutMs: 1 }),
    );
  }
  const members = [...nodes.map((node) => node.server), mortal];
  for (const { rooms, presence, topics } of members) {
    for (const topic of [`room:${visit}`, `room:nobody-${visit}`]) {
      using following = presence.follow(topic);
      waits.add(following.ready);
      rooms.members(topic);
    }
    waits.add(
      topics.append(KEPT_TOPIC, 1, { signal }),
      topics.append(KEPT_TOPIC, 1, { key: { producer: visit, number: 1 } }),
      topics.append(`free:${visit}`, 1, { signal: AbortSignal.abort() }),
    );
  }
  await examiner.pause(2);
  leave.abort();
  await examiner.inTime(waits.over(), ROUND_MS, []);
}

/**
 * Inspects both nodes through one inspector and follows a session for a while.
 *
 * @param visit See {@linkcode Visit}.
 */
export async function inspect({ examiner, nodes, backend, name: visit }: Visit): Promise<void> {
  const [one, other] = nodes;
  const waits = new Waits();
  const look = (name: string, params: Readonly<Record<string, string>> = {}) =>
    waits.add(backend.inspect(one, name, params));
  for (const name of ["overview", "sessions", "topics", "rooms", "streams", "nothing"]) look(name);
  look("sessions", { query: visit, sort: "user" });
  look("room", { id: `room:${visit}` });
  // After the second visit, the page has inspected as many histories as the inspector keeps.
  look("topic", { id: KEPT_TOPIC });
  for (let n = 0; n < HISTORIES; n++) look("topic", { id: `free:${visit}-${n}` });
  for (const id of [`kept-${visit}`, `none-${visit}`]) look("stream", { id });
  for (const { server } of nodes) {
    const node = server.nodes!.id;
    for (const { id } of [...server.manager.all()].slice(-2)) {
      look("session", { node, id });
      for (const after of ["0", "0", "5"]) look("traffic", { node, id, after });
    }
    look("traffic", { node, id: "none", after: "0" });
  }
  look("session", { node: "none", id: "none" });
  await waits.over();
  await examiner.pause(ROUND_MS);
  await backend.inspect(other, "overview");
}
