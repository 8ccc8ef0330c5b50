/** The validated parts of a request for a durable stream: id, query and headers. */
import { internal } from "../../server/http/guard.ts";
import { Problem } from "../../server/http/problem.ts";
import { INTERNAL_PREFIX } from "../../pubsub/broker.ts";
import type { LogProducer } from "../logs/log.ts";
import { snapshotOf, unboundPosition } from "../logs/offset.ts";
import { MAX_LOG_ID_BYTES } from "../logs/log_names.ts";
import type { ForkRequest } from "../logs/forks.ts";
import type { CreateStreamOptions } from "../logs/stream_logs.ts";
import { MAX_TTL_MS } from "../../base/wait.ts";
import { utf8Length } from "../../session/wire/utf8.ts";
import { pathBelow } from "../../transport/url.ts";

/** Maximum length of a content type, a producer's name and a writer's sequence, in characters. */
const MAX_TEXT_LENGTH = 256;

/** Longest time to live, in seconds: 100 years. */
export const MAX_TTL_S: number = MAX_TTL_MS / 1_000;

/** First segment of ids that the protocol reserves. */
const RESERVED = "__ds";

/** A media type and its parameters, in printable ASCII. */
const CONTENT_TYPE = /^[\w!#$&^.+-]+\/[\w!#$&^.+-]+(?:\s*;[\x20-\x7e]*)?$/;

/** A number without signs, fractions and leading zeros. */
const WHOLE = /^(?:0|[1-9]\d{0,15})$/;

const RFC_3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/i;

/** Offsets that mean the start of a stream if it is the source of a fork. */
const BEGINNINGS: ReadonlySet<string> = new Set(["-1", "0000000000000000_0000000000000000"]);

/** The part of a stream that a reader requests. */
export interface ReadQuery {
  /** Mode of reading: existing records, or also new ones. */
  readonly mode: "catch-up" | "long-poll" | "sse";
  /** Position of the first record; `now` for the end of the stream. */
  readonly position: number | "now";
  /** The offset of the position; `undefined` for the start. */
  readonly offset: string | undefined;
  /**
   * True to start at the oldest record that is kept if the position is before it, because the reader
   * has no offset.
   */
  readonly startsAtOldest: boolean;
  /** Position at which the snapshot ends that the reader is reading; see `snapshotOf`. */
  readonly snapshot: number | undefined;
  /** True to read all changes of a keyed stream that its tail has. */
  readonly isTail: boolean;
  /** Cursor of an earlier response. */
  readonly cursor: number | undefined;
}

/** Creates the problem of a malformed request. */
export function badRequest(code: string, detail: string): Problem {
  return new Problem(400, { code, detail });
}

/** Creates the problem of a transaction that is too large. */
export function tooLarge(fault: string): Problem {
  return new Problem(413, { code: "too-large", detail: `Cannot append: ${fault}` });
}

/**
 * Parses the id of a stream: one or more segments separated by slashes, each percent-decoded. A
 * segment must not be empty, `.` or `..`, and must not contain slashes, backslashes or control
 * characters.
 *
 * @param path The part of the URL after the path of the streams.
 * @returns The id, of at most 240 bytes.
 * @throws {Problem} With 400 if the id is invalid, and 404 if it is reserved.
 */
export function readId(path: string): string {
  const segments = path.slice(1).split("/").map(decodeSegment);
  if (segments.includes(undefined)) {
    throw badRequest(
      "bad-id",
      "The id of a stream must have segments that are percent-encoded, neither empty nor dots, and " +
        `without slashes and control characters, received ${path.slice(0, 64)}`,
    );
  }
  const id = segments.join("/");
  const bytes = utf8Length(id);
  if (bytes > MAX_LOG_ID_BYTES) {
    throw badRequest(
      "bad-id",
      `The id of a stream must have at most ${MAX_LOG_ID_BYTES} bytes, received ${bytes}`,
    );
  }
  if (id.startsWith(INTERNAL_PREFIX)) throw internal();
  if (segments[0] === RESERVED) {
    throw new Problem(404, {
      code: "not-found",
      detail: `Ids that start with ${RESERVED} are reserved`,
    });
  }
  return id;
}

function decodeSegment(segment: string): string | undefined {
  let text: string;
  try {
    text = decodeURIComponent(segment);
  } catch {
    return undefined;
  }
  // deno-lint-ignore no-control-regex
  const isBad = /^\.{0,2}$|[/\\\x00-\x1f\x7f-\x9f]/.test(text);
  return isBad ? undefined : text;
}

/**
 * Parses the query of a `GET`.
 *
 * @throws {Problem} With 400 if a parameter is malformed, repeated, or missing.
 */
export function readQuery(query: URLSearchParams): ReadQuery {
  const mode = single(query, "live") ?? "catch-up";
  if (mode !== "catch-up" && mode !== "long-poll" && mode !== "sse" || query.get("live") === "") {
    throw badRequest(
      "bad-query",
      `Cannot read: live must be "long-poll" or "sse", received "${mode.slice(0, 32)}"`,
    );
  }
  const offset = single(query, "offset");
  if (offset === undefined && mode !== "catch-up") {
    throw badRequest("bad-offset", "Cannot read: a live read needs an offset");
  }
  const cursor = single(query, "cursor");
  if (cursor !== undefined && !/^\d{1,15}$/.test(cursor)) {
    throw badRequest(
      "bad-query",
      `Cannot read: cursor must be a Stream-Cursor of this server, received "${
        cursor.slice(0, 64)
      }"`,
    );
  }
  const changes = single(query, "changes");
  if (changes !== undefined && (changes !== "all" || mode !== "catch-up")) {
    throw badRequest(
      "bad-query",
      `Cannot read: changes must be "all", in a read that is not live, received "${
        changes.slice(0, 32)
      }"`,
    );
  }
  const isTail = changes === "all";
  const isStart = offset === undefined || offset === "-1";
  const position = isStart ? 0 : offset === "now" ? "now" : unboundPosition(offset);
  if (position === undefined) {
    throw badRequest(
      "bad-offset",
      `Cannot read: offset must be -1, now or a Stream-Next-Offset of this stream, received "${
        offset!.slice(0, 64)
      }"`,
    );
  }
  return {
    mode,
    position,
    offset: isStart || offset === "now" ? undefined : offset,
    startsAtOldest: isStart,
    snapshot: isTail ? undefined : snapshotOf(offset),
    isTail,
    cursor: cursor === undefined ? undefined : Number(cursor),
  };
}

function single(query: URLSearchParams, name: string): string | undefined {
  const all = query.getAll(name);
  if (all.length <= 1) return all[0];
  throw badRequest("bad-query", `Cannot read: ${name} must be given once, received ${all.length}`);
}

/**
 * Parses the action of a `POST`, and the name of a mutation.
 *
 * @throws {Problem} With 400 if a parameter is malformed, repeated, or missing.
 */
export function readAction(
  url: string,
): { readonly action: "append" | "cancel" | "mutate"; readonly name: string } {
  const query = url.includes("?") ? new URL(url).searchParams : new URLSearchParams();
  const action = query.get("action") ?? "append";
  if (query.has("action") && action !== "cancel" && action !== "mutate") {
    throw badRequest(
      "bad-query",
      `The action must be "cancel" or "mutate", received "${action.slice(0, 32)}"`,
    );
  }
  const [name = "", ...others] = action === "mutate" ? query.getAll("name") : [];
  if (action === "mutate" && (name === "" || others.length > 0)) {
    throw badRequest("bad-query", "Cannot mutate: the query needs exactly one name of a mutation");
  }
  return { action: action as "append" | "cancel" | "mutate", name };
}

/** Checks whether a request closes the stream. A value other than `true` counts as absent. */
export function closes(headers: Headers): boolean {
  return headers.get("stream-closed")?.toLowerCase() === "true";
}

/**
 * Parses the content type of a request.
 *
 * @returns The content type; `undefined` without one.
 * @throws {Problem} With 400 if malformed.
 */
export function readContentType(headers: Headers): string | undefined {
  const type = headers.get("content-type")?.trim();
  if (type === undefined || type === "") return undefined;
  if (type.length <= MAX_TEXT_LENGTH && CONTENT_TYPE.test(type)) return type;
  throw badHeader("Content-Type", `a media type of at most ${MAX_TEXT_LENGTH} characters`, type);
}

/**
 * Parses the headers that set the properties of a new stream.
 *
 * @param now The time, in milliseconds since the Unix epoch.
 * @param path The base path of the streams, used to resolve the source of a fork.
 * @throws {Problem} With 400 if a header is malformed, or requires another header that is missing.
 */
export function readCreation(
  headers: Headers,
  path: string,
):
  & Pick<CreateStreamOptions, "contentType" | "ttlMs" | "expiresAt" | "fork" | "end">
  & { readonly isKeyed: boolean } {
  const ttl = headers.get("stream-ttl");
  const expiry = headers.get("stream-expires-at");
  if (ttl !== null && expiry !== null) {
    throw badRequest(
      "bad-header",
      "Cannot create: Stream-TTL and Stream-Expires-At exclude each other",
    );
  }
  if (ttl !== null && (!WHOLE.test(ttl) || Number(ttl) > MAX_TTL_S)) {
    throw badHeader("Stream-TTL", `whole seconds up to ${MAX_TTL_S}`, ttl);
  }
  const expiresAt = expiry === null ? undefined : Date.parse(expiry);
  if (expiry !== null && (!RFC_3339.test(expiry) || Number.isNaN(expiresAt))) {
    throw badHeader("Stream-Expires-At", "a time by RFC 3339", expiry);
  }
  return {
    contentType: readContentType(headers),
    ttlMs: ttl === null ? undefined : Number(ttl) * 1_000,
    expiresAt,
    fork: readFork(headers, path),
    end: closes(headers) ? {} : undefined,
    isKeyed: headers.get("stream-keyed")?.toLowerCase() === "true",
  };
}

function readFork(headers: Headers, path: string): ForkRequest | undefined {
  const from = headers.get("stream-forked-from");
  const offset = headers.get("stream-fork-offset");
  const subOffset = headers.get("stream-fork-sub-offset");
  if (from === null) {
    if (offset === null && subOffset === null) return undefined;
    throw badRequest(
      "bad-header",
      "Cannot create: an offset to fork at needs Stream-Forked-From",
    );
  }
  const rest = /^\/(?!\/)/.test(from) ? pathBelow(`http://localhost${from}`, path) : undefined;
  if (!rest) throw badHeader("Stream-Forked-From", `a path below ${path}`, from);
  if (subOffset !== null && !WHOLE.test(subOffset)) {
    throw badHeader("Stream-Fork-Sub-Offset", "an integer of 0 or more", subOffset);
  }
  if (offset === null && subOffset !== null && subOffset !== "0") {
    throw badRequest(
      "bad-header",
      "Cannot create: Stream-Fork-Sub-Offset needs Stream-Fork-Offset",
    );
  }
  const isBeginning = offset !== null && BEGINNINGS.has(offset);
  return {
    source: readId(rest),
    offset: isBeginning ? "-1" : offset ?? undefined,
    subOffset: Number(subOffset ?? 0),
  };
}

/**
 * Parses the headers of an idempotent producer.
 *
 * @returns The number of the append; `undefined` without a producer.
 * @throws {Problem} With 400 if a header is malformed, or if only some of the three headers are
 * present.
 */
export function readProducer(headers: Headers): LogProducer | undefined {
  const id = headers.get("producer-id");
  const epoch = headers.get("producer-epoch");
  const seq = headers.get("producer-seq");
  if (id === null && epoch === null && seq === null) return undefined;
  if (id === null || epoch === null || seq === null) {
    throw badRequest(
      "bad-header",
      "Cannot append: Producer-Id, Producer-Epoch and Producer-Seq belong together",
    );
  }
  if (id === "" || id.length > MAX_TEXT_LENGTH) {
    throw badHeader("Producer-Id", `of 1 to ${MAX_TEXT_LENGTH} characters`, id);
  }
  return { id, epoch: readWhole("Producer-Epoch", epoch), seq: readWhole("Producer-Seq", seq) };
}

function readWhole(name: string, text: string): number {
  const value = WHOLE.test(text) ? Number(text) : NaN;
  if (Number.isSafeInteger(value)) return value;
  throw badHeader(name, `an integer from 0 to ${Number.MAX_SAFE_INTEGER}`, text);
}

/**
 * Parses the sequence of a writer.
 *
 * @returns The sequence; `undefined` without one.
 * @throws {Problem} With 400 if malformed.
 */
export function readSequence(headers: Headers): string | undefined {
  const sequence = headers.get("stream-seq") ?? undefined;
  if (sequence === undefined || sequence !== "" && sequence.length <= MAX_TEXT_LENGTH) {
    return sequence;
  }
  throw badHeader("Stream-Seq", `of 1 to ${MAX_TEXT_LENGTH} characters`, sequence);
}

function badHeader(name: string, rule: string, received: string): Problem {
  return badRequest(
    "bad-header",
    `${name} must be ${rule}, received "${received.slice(0, 64)}"`,
  );
}
