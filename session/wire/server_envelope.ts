/**
 * Reads the envelopes that only a server accepts: requests for services, and numbered messages. A
 * client does not load this module.
 */
import { describe } from "../../base/error_text.ts";
import {
  badCredit,
  badId,
  badTag,
  badTopic,
  type Envelope,
  isCredit,
  isId,
  isName,
  isObject,
  isTag,
  isTopic,
  malformed,
  type Raw,
  readEnvelope,
  type ServiceKind,
} from "./envelope.ts";
import { STREAM_PREFIX } from "./recovery.ts";
import { MAX_CHANGES, MAX_SESSION_ROWS, MAX_WRITES } from "./rows.ts";
import { MAX_PRODUCER_NUMBER, PRODUCER_NAME } from "./producer.ts";

/**
 * Reads one envelope. Never throws. An unreadable envelope is returned as `malformed`, with the
 * expected and the received value.
 *
 * @param text One JSON object.
 * @example Usage
 * ```ts
 * import { parseEnvelope } from "./server_envelope.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(parseEnvelope('{"topic":"chat","data":"hi"}'), {
 *   kind: "message",
 *   topic: "chat",
 *   data: "hi",
 * });
 * assertEquals(parseEnvelope("[]").kind, "malformed");
 * ```
 */
export function parseEnvelope(text: string): Envelope {
  return readEnvelope(text, readService);
}

/**
 * Reads an envelope that only a server accepts.
 *
 * @param kind The kind of the envelope.
 * @param value The value of the key of that kind.
 * @param raw All keys of the envelope.
 */
export function readService(kind: ServiceKind | "message", value: unknown, raw: Raw): Envelope {
  const { id, data, seq, client } = raw;
  if (kind === "auth") {
    if (typeof value !== "string") {
      return malformed(`Expected "auth" to be a token, received ${describe(value)}`, id);
    }
    return isId(id) ? { kind, token: value, id } : badId(kind, id);
  }
  if (kind === "producer") return readProducer(value, raw);
  if (!isTopic(value)) return badTopic(kind, value, id);
  if (client !== undefined && kind !== "unsubscribe" && !isName(client)) {
    return malformed(`Expected "client" to be a name, received ${describe(client)}`, id);
  }
  const introduced = isName(client) ? { client } : undefined;
  switch (kind) {
    case "message": {
      const message = { kind, topic: value, data, ...introduced };
      return seq === undefined ? readResumable(message, raw) : readNumbered(message, raw);
    }
    case "publish":
      return readPublication({ kind, topic: value, data, ...introduced }, raw);
    case "subscribe":
      if (!isId(id)) return badId(kind, id);
      return readSubscribe({ kind, topic: value, id, ...introduced }, raw);
    case "unsubscribe":
      return isId(id) ? { kind, topic: value, id } : badId(kind, id);
    case "presence":
      return isId(id) ? { kind, topic: value, data, id } : badId(kind, id);
  }
}

/**
 * Number of publications as which an envelope counts: each change of a state, stored or ephemeral,
 * and each mutation is one, because the application decides about each of them.
 */
export function publicationsIn(envelope: Envelope): number {
  if (envelope.kind !== "publish" || !envelope.topic.startsWith(STREAM_PREFIX)) return 1;
  const { writes, ephemeral, mutations } = Object(envelope.data) as {
    readonly writes?: unknown;
    readonly ephemeral?: unknown;
    readonly mutations?: unknown;
  };
  if (Array.isArray(mutations)) return Math.min(Math.max(1, mutations.length), MAX_WRITES);
  if (Array.isArray(ephemeral)) return Math.min(Math.max(1, ephemeral.length), MAX_SESSION_ROWS);
  let changes = 0;
  if (Array.isArray(writes)) {
    // The server rejects longer lists before it decides about any change.
    for (let i = 0; i < writes.length && i < MAX_WRITES; i++) {
      const write: unknown = writes[i];
      changes += Array.isArray(write) ? Math.min(write.length, MAX_CHANGES) : 0;
    }
  }
  return Math.max(1, changes);
}

function readProducer(name: unknown, { id, user, acked, sent, epoch }: Raw): Envelope {
  const kind = "producer";
  if (!isId(id)) return badId(kind, id);
  if (typeof name !== "string" || !PRODUCER_NAME.test(name)) {
    return malformed(
      'Expected "producer" to be a name of 22 characters of base64url, received ' + describe(name),
      id,
    );
  }
  if (user !== null && typeof user !== "string") {
    return malformed(`Expected "user" to be a user or null, received ${describe(user)}`, id);
  }
  if (!isProducerNumber(acked)) return badId("acked", acked, id);
  if (!isProducerNumber(sent)) return badId("sent", sent, id);
  if (!isProducerNumber(epoch)) return badId("epoch", epoch, id);
  if (acked > sent) {
    return malformed(`Expected "acked" to be at most "sent", received ${acked} and ${sent}`, id);
  }
  return { kind, name, id, user, acked, sent, epoch };
}

function isProducerNumber(value: unknown): value is number {
  return isId(value) && value < MAX_PRODUCER_NUMBER;
}

const RESPONSE_NAME = /^[\w-]{16,64}$/;

function readResumable(
  of: Omit<Extract<Envelope, { kind: "message" }>, "id">,
  { id, items, stream, begun }: Raw,
): Envelope {
  if (!isId(id)) return badId("topic", id);
  if (items !== undefined && !isCredit(items)) return badCredit(items, id);
  if (typeof stream !== "string" || !RESPONSE_NAME.test(stream)) {
    return malformed(
      `Expected "stream" to be a name of 16 to 64 characters, received ${describe(stream)}`,
      id,
    );
  }
  return { ...of, id, items, stream, begun: begun === true ? begun : undefined };
}

function readNumbered(
  of: Omit<Extract<Envelope, { kind: "message" }>, "id" | "seq">,
  { id, seq }: Raw,
): Envelope {
  if (id !== undefined && !isId(id)) return badId("topic", id);
  if (!isId(seq)) return badId("seq", seq, id);
  return id === undefined ? { ...of, seq } : { ...of, id, seq };
}

function readPublication(of: Extract<Envelope, { kind: "publish" }>, raw: Raw): Envelope {
  const { id, n, seq } = raw;
  if (id !== undefined && !isId(id)) return badId("publish", id);
  if (seq !== undefined) {
    if (!isId(id)) return badId("publish", id);
    if (!isId(seq)) return badId("seq", seq, id);
    return { ...of, id, seq, ...(raw.echo === false && { echo: false } as const) };
  }
  for (const key of ["echo", "again", "once"] as const) {
    const flag = raw[key];
    if (flag === undefined || typeof flag === "boolean") continue;
    return malformed(`Expected "${key}" to be true or false, received ${describe(flag)}`, id);
  }
  if (n !== undefined && !isId(n)) return badId("n", n, id);
  const publication = {
    ...of,
    ...(raw.echo === false && { echo: false } as const),
    ...(raw.again === true && { again: true } as const),
    ...(raw.once === true && { once: true } as const),
  };
  const numbered = n === undefined ? publication : { ...publication, n };
  return id === undefined ? numbered : { ...numbered, id };
}

function readSubscribe(
  envelope: Extract<Envelope, { kind: "subscribe" }>,
  { since, last }: Raw,
): Envelope {
  if (since === undefined && last === undefined) return envelope;
  const { id } = envelope;
  if (last !== undefined && !isId(last)) return badId("last", last, id);
  const newest = last === undefined ? envelope : { ...envelope, last };
  if (since === undefined) return newest;
  if (!isObject(since) || !isName(since.epoch) || !isId(since.offset)) {
    return malformed('Expected "since" to have epoch and offset', id);
  }
  const { epoch, offset, tag } = since;
  if (!isTag(tag)) return badTag(tag, id);
  return { ...newest, since: tag === undefined ? { epoch, offset } : { epoch, offset, tag } };
}
