/**
 * Durable streams over HTTP: the Durable Streams protocol, protected by the same guard as all
 * HTTP features.
 */
import type { DurableStreamAction, StreamSettings } from "../options.ts";
import { bracketed, offsetAfter } from "../snapshots.ts";
import type { ClientStreams } from "./client_streams.ts";
import { maxRecordBytes } from "../streams.ts";
import type { HttpMutations, HttpMutationStates } from "./mutations.ts";
import { rejectedChange } from "./problems.ts";
import { bodyOf, readRecords } from "./records.ts";
import {
  badRequest,
  closes,
  readAction,
  readContentType,
  readCreation,
  readId,
  readProducer,
  type ReadQuery,
  readQuery,
  readSequence,
  tooLarge,
} from "./request.ts";
import { cursorAt, eventHeaders, EventStreams } from "./sse.ts";
import { digest } from "../options.ts";
import {
  type GuardedRequest,
  HttpGuard,
  type HttpGuardParts,
  isInternalName,
} from "../../server/http/guard.ts";
import { closing } from "../../server/http/body.ts";
import { REVOKED } from "../../server/http/event_bodies.ts";
import { methodNotAllowed, Problem, rejectedBy, tooMany } from "../../server/http/problem.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import type {
  AppendLogOptions,
  LogInfo,
  LogOverShare,
  LogProducer,
  LogRecord,
  RowChange,
} from "../logs/log.ts";
import { overShareReason } from "../logs/log_shares.ts";
import {
  type Change,
  type ClientChange,
  encodeTransaction,
  withValue,
} from "../logs/change_message.ts";
import { MAX_CHANGES, readRowName } from "../../session/wire/rows.ts";
import {
  formatOffset,
  identityIn,
  oldestPosition,
  parseOffset,
  snapshotOf,
} from "../logs/offset.ts";
import { ENTRY_BYTES } from "../../pubsub/broker.ts";
import { RESPONSE_PREFIX } from "../logs/log_names.ts";
import { isDamaged } from "../logs/sound_logs.ts";
import { DEFAULT_CONTENT_TYPE, isJson, JSON_TYPE, mediaType, recordBytes } from "../logs/rules.ts";
import {
  type CreateStreamOptions,
  DROPPED_REASON,
  NO_SPACE,
  type ReadStreamOptions,
  type StreamAppended,
  type StreamCreated,
  type StreamLogs,
  type StreamPage,
  type StreamRead,
} from "../logs/stream_logs.ts";
import type { HttpPublications } from "../../manager/rate_limits.ts";
import type { SessionManager } from "../../manager/session_manager.ts";
import type { HttpStats } from "../../server/metrics/measures.ts";
import { type ChangeGate, otherVersion } from "../state/gate.ts";
import type { UnwrittenStates } from "../state/unwritten.ts";
import { BrokerError, LimitError, RequestError, TimeoutError } from "../../errors.ts";
import { startTimer } from "../../base/wait.ts";
import type { RequestInfo } from "../../transport/address.ts";
import type { OriginRules } from "../../transport/origins.ts";

const METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"];

/** Methods of response streams. */
const READS = ["GET", "HEAD"];

const REQUEST_HEADERS = [
  "idempotency-key",
  "if-none-match",
  "producer-epoch",
  "producer-id",
  "producer-seq",
  "stream-closed",
  "stream-expires-at",
  "stream-fork-offset",
  "stream-fork-sub-offset",
  "stream-forked-from",
  "stream-keyed",
  "stream-seq",
  "stream-ttl",
];

const RESPONSE_HEADERS = [
  "etag",
  "idempotency-replayed",
  "location",
  "producer-epoch",
  "producer-expected-seq",
  "producer-received-seq",
  "producer-seq",
  "skein-stream-cancelled",
  "skein-stream-error",
  "stream-closed",
  "stream-cursor",
  "stream-expires-at",
  "stream-keyed",
  "stream-next-offset",
  "stream-sse-data-encoding",
  "stream-ttl",
  "stream-up-to-date",
];

/** `Cache-Control` of pages that do not change until the stream is deleted. */
const CACHED = "max-age=60, stale-while-revalidate=300";

/** Most records and bytes of a response. */
const PAGE = { maxRecords: 10_000, maxBytes: 1_048_576 };

/** Most records and bytes of an event; each reader may hold one. */
const EVENT = { maxRecords: 1_000, maxBytes: 65_536 };

/** Reads no records, only to renew the time to live. */
const NOTHING = { after: 0, startsAtOldest: true, maxRecords: 0, maxBytes: 0 };

/** Most streams whose content type this node remembers. */
const MAX_KNOWN = 10_000;

/** Most bytes of a cancellation reason. */
const MAX_REASON_BYTES = 1_024;

/** Most characters of an encoded text in a header. */
const MAX_HEADER_LENGTH = 1_024;

/** Characters of the name of a network in the marks of a keyed stream. */
const NETWORK_LENGTH = 10;

/** Time after which a rejected client may retry, in milliseconds. */
const RETRY_MS = 5_000;

/** Settings of durable streams with a path. */
export type ServedStreamsSettings = StreamSettings & { readonly path: string };

/** Reads the changes of a keyed stream. The reader loads late, because Zod is large. */
async function readChanges(records: readonly string[]): Promise<readonly ClientChange[]> {
  const reader = await import("./changes.ts");
  return reader.readChanges(records);
}

/** Parts of the server that durable streams use. */
export interface StreamRequestsParts extends HttpGuardParts {
  readonly logs: StreamLogs;
  /** Counts the streams that clients create. */
  readonly clientStreams: ClientStreams;
  /** Checks the changes of states. */
  readonly changes?: ChangeGate | undefined;
  /** Knows the first rows of states; `undefined` without a server of sessions. */
  readonly unwritten?: UnwrittenStates | undefined;
  /** Counts the changes of keyed streams toward the rates of the server's sessions. */
  readonly rates?: Pick<SessionManager, "publish" | "spend"> | undefined;
  /** Makes the mutations of states; `undefined` on a server without states. */
  readonly states?: HttpMutationStates | undefined;
  readonly origins: OriginRules;
  /** Maximum size of a message in bytes, if sessions of this server can read the records. */
  readonly maxMessageBytes?: number | undefined;
}

/** Counters of rejected readers, by the level whose limit or share was reached. */
const REJECTED_READERS = {
  server: "maxReaders",
  address: "maxReadersPerAddress",
  user: "maxReadersPerUser",
  session: "maxReadersPerUser",
} as const;

/** Immutable properties of a stream. */
type KnownStream = Pick<LogInfo, "contentType" | "identity" | "keyed">;

type StreamRequest = GuardedRequest<DurableStreamAction>;

/**
 * Durable streams over HTTP.
 *
 * - **Protocol:** Durable Streams, without subscriptions; see `docs/reference/durable-streams-http.md`.
 * - **Extensions:** `POST ?action=cancel`, and the header `Skein-Stream-Error` of an aborted
 *   stream.
 * - **Bounds:** every limit in the options is enforced, and rejected requests are counted.
 */
export class StreamRequests {
  readonly #guard: HttpGuard<DurableStreamAction>;
  readonly #parts: StreamRequestsParts;
  readonly #settings: ServedStreamsSettings;
  readonly #events: EventStreams;
  readonly #known = new Map<string, KnownStream>(); // At most `MAX_KNOWN`.
  #mutations: HttpMutations | undefined;
  readonly #readers = { "long-poll": 0, sse: 0 };
  readonly #rejected = {
    maxReaders: 0,
    maxReadersPerAddress: 0,
    maxReadersPerUser: 0,
    maxStreams: 0,
    maxStreamBytes: 0,
    maxForks: 0,
    maxRows: 0,
    maxTotalBytes: 0,
  };

  /** Creates the handler. */
  constructor(settings: ServedStreamsSettings, parts: StreamRequestsParts) {
    this.#settings = settings;
    this.#parts = parts;
    const { runtime, report } = parts;
    this.#guard = new HttpGuard({
      ...parts.origins,
      name: "durableStreams",
      path: settings.path,
      authorize: settings.authorize,
      closeAction: "close",
      isInternal: (path) => isInternalName(path.split("/")[1] ?? ""),
      methods: METHODS,
      requestHeaders: REQUEST_HEADERS,
      exposedHeaders: RESPONSE_HEADERS,
      isPublic: settings.cache === "public",
      rate: settings.rate,
      maxRequests: settings.maxRequests,
      maxWaiting: settings.maxReaders,
    }, parts);
    this.#events = new EventStreams({
      runtime,
      onError: (error) => report("Reading a durable stream", error),
    });
  }

  get stats(): HttpStats {
    const { stalled } = this.#events;
    return {
      ...this.#guard.stats,
      readers: { ...this.#readers },
      limited: { ...this.#rejected, stalled },
    };
  }

  /**
   * Responds to a request for the path of the streams, or for a path below it.
   *
   * @returns The response. Never rejects.
   */
  fetch(request: Request, info: RequestInfo): Promise<Response> {
    return this.#guard.respond(request, info, async (asked) => {
      try {
        return await this.#route(asked);
      } catch (error) {
        if (error instanceof Problem) throw error;
        if (this.#parts.logs.isClosed) throw closing();
        // The damage was reported when it was found.
        if (isDamaged(error)) {
          const { message: detail } = error as Error;
          throw new Problem(500, { code: "damaged", detail, cause: error });
        }
        if (error instanceof RequestError) throw rejectedChange(error);
        if (!(error instanceof BrokerError)) throw error;
        this.#parts.report("A request to durableStreams", error);
        throw new Problem(503, {
          code: "unavailable",
          detail: "The broker is unreachable",
          cause: error,
        });
      }
    });
  }

  #route(asked: StreamRequest): Promise<Response> {
    const { request } = asked;
    const path = this.#guard.pathOf(request.url);
    if (path === undefined) throw missing();
    if (!METHODS.includes(request.method)) throw methodNotAllowed(request.method, METHODS);
    const id = readId(path);
    // The server writes responses, and their readers cancel them over a session.
    const isReadOnly = id.startsWith(RESPONSE_PREFIX) && !READS.includes(request.method);
    if (isReadOnly) throw methodNotAllowed(request.method, READS);
    switch (request.method) {
      case "PUT":
        return this.#create(asked, id);
      case "POST":
        return this.#post(asked, id);
      case "DELETE":
        return this.#delete(asked, id);
      case "HEAD":
        return this.#head(asked, id);
      default:
        return this.#get(asked, id);
    }
  }

  async #create(asked: StreamRequest, id: string): Promise<Response> {
    const { request, authorize, readBody } = asked;
    await authorize("create", id);
    const { isKeyed: isAskedKeyed, ...creation } = readCreation(
      request.headers,
      this.#settings.path,
    );
    const { fork } = creation;
    // A fork has the type of its source by default.
    if (isAskedKeyed) this.#checkKeyed(creation.contentType ?? (fork && JSON_TYPE));
    if (fork !== undefined) await authorize("read", fork.source);
    const source = fork && await this.#parts.logs.info(fork.source);
    // A fork of a keyed stream is keyed, with or without the header.
    const isKeyed = isAskedKeyed || source?.kind === "page" && source.info.keyed !== undefined;
    this.#checkGuarded(id, { isKeyed, isFork: fork !== undefined });
    // Both end the state for everyone, so the right to create it is not enough.
    if (isKeyed && creation.end !== undefined) await authorize("close", id);
    if (isKeyed && (creation.ttlMs ?? creation.expiresAt) !== undefined) {
      await authorize("delete", id);
    }
    const { clientStreams, logs, unwritten } = this.#parts;
    const body = await readBody(this.#maxBodyBytes);
    let { contentType } = creation;
    if (contentType === undefined && body.length > 0 && source?.kind === "page") {
      contentType = source.info.contentType;
    }
    if (isAskedKeyed && body.length > 0) {
      throw badRequest(
        "bad-body",
        `Cannot create: a keyed stream is created without a body, received ${body.length} bytes`,
      );
    }
    const keyed = isAskedKeyed ? this.#settings.tail : undefined;
    const records = this.#readRecords(id, body, contentType ?? DEFAULT_CONTENT_TYPE);
    const { account, checkRevoked: check, publisher } = asked;
    const facts = { ...creation, records, keyed, isPlain: !isKeyed, source, account, check };
    const make = (facts: CreateStreamOptions) =>
      clientStreams.create({ id, account: publisher }, (owner) => {
        check();
        return logs.create(id, { ...facts, owner });
      });
    const creating = unwritten === undefined ? make(facts) : unwritten.create(id, facts, make);
    const result = await creating.catch((error) => {
      if (error instanceof LimitError) this.#rejected.maxStreams++;
      throw error;
    });
    if (result.kind === "over-share") throw this.#overShare("create", result);
    if (result.kind === "full" && isKeyed && fork !== undefined) throw this.#tooLargeToCopy();
    if (result.kind !== "created" && result.kind !== "exists") throw this.#uncreated(result.kind);
    const { info } = result;
    if (result.kind === "exists" && !result.isSame) {
      throw new Problem(409, {
        code: "exists",
        detail: differsFrom(info, id, contentType ?? DEFAULT_CONTENT_TYPE),
        headers: stateHeaders(info),
      });
    }
    const isNew = result.kind === "created";
    return new Response(null, {
      status: isNew ? 201 : 200,
      headers: {
        ...stateHeaders(info),
        "content-type": info.contentType,
        "cache-control": "no-store",
        ...(info.keyed && { "stream-keyed": "true" }),
        ...(isNew && { location: locationOf(request) }),
      },
    });
  }

  /** Rejects a stream that would go around the checks of a state, or keep the state from its id. */
  #checkGuarded(
    id: string,
    { isKeyed, isFork }: { readonly isKeyed: boolean; readonly isFork: boolean },
  ): void {
    const { changes } = this.#parts;
    // Its mutations create it, and a client's expiry would delete all rows.
    changes?.checkOpen(id);
    if (isKeyed && isFork && changes?.guards(id)) {
      throw new Problem(403, {
        code: "forbidden",
        detail:
          `Cannot create: rows of "${id}" pass the contract or authorizeChange, which a fork ` +
          "would go around; only the server forks into it",
      });
    }
    if (isKeyed || changes?.fits(id) !== true) return;
    throw conflict(
      "keyed",
      `Cannot create: "${id}" fits a pattern of the contract's states, so the stream must be keyed`,
    );
  }

  #uncreated(kind: Exclude<StreamCreated["kind"], "created" | "exists" | "over-share">): Problem {
    switch (kind) {
      case "deleted":
        return conflict(
          "deleted",
          "Cannot create: a stream with this id was deleted, and has forks",
        );
      case "source-missing":
        return new Problem(404, {
          code: "not-found",
          detail: "Cannot create: the source of the fork does not exist",
        });
      case "source-deleted":
        return conflict("deleted", "Cannot create: the source of the fork was deleted");
      case "other-type":
        return conflict(
          "wrong-type",
          "Cannot create: the source of the fork has another content type",
        );
      case "bad-offset":
        return badRequest(
          "bad-offset",
          "Cannot create: Stream-Fork-Offset is beyond the end of the source",
        );
      case "gone":
        return gone("Cannot create: the source no longer has the records at Stream-Fork-Offset");
      case "keyed":
        return conflict(
          "keyed",
          "Cannot create: a keyed fork needs a keyed source, and no content",
        );
      case "too-deep":
        return conflict(
          "too-deep",
          "Cannot create: the source is itself a fork of too many levels",
        );
      case "too-many-forks":
        this.#rejected.maxForks++;
        return conflict(
          "too-many-forks",
          `Cannot create: the source has ${this.#settings.maxForks} forks already (maxForks)`,
        );
      case "full":
        throw this.#full("create");
      case "no-space":
        throw this.#noSpace("create");
      case "too-many":
        this.#rejected.maxStreams++;
        return tooMany(
          `Cannot create: the server has ${this.#settings.maxStreams} streams already (maxStreams)`,
          RETRY_MS,
          "server",
        );
    }
  }

  async #post(asked: StreamRequest, id: string): Promise<Response> {
    const { action, name } = readAction(asked.request.url);
    if (action === "cancel") return await this.#cancel(asked, id);
    if (action === "mutate") return await (await this.#mutationsOf()).respond(asked, id, name);
    return await this.#append(asked, id);
  }

  /** Returns the mutations of the server's states. Their code loads with the first one. */
  async #mutationsOf(): Promise<HttpMutations> {
    const { HttpMutations } = await import("./mutations.ts");
    const { runtime, quotas, rates, states } = this.#parts;
    const { maxRequests } = this.#settings;
    const maxBodyBytes = this.#maxBodyBytes;
    const parts = { runtime, quotas, rates, states, maxRequests, maxBodyBytes };
    return this.#mutations ??= new HttpMutations(parts);
  }

  async #append(asked: StreamRequest, id: string): Promise<Response> {
    const { request, authorize, readBody } = asked;
    const user = await authorize("append", id);
    const { headers } = request;
    const contentType = readContentType(headers);
    const producer = readProducer(headers);
    const sequence = readSequence(headers);
    const isEnd = closes(headers);
    let known = this.#known.get(id) ?? await this.#learn(id);
    const body = await readBody(this.#maxBodyBytes);
    if (body.length === 0 && !isEnd) {
      throw badRequest("bad-body", "Cannot append: the body is empty");
    }
    if (body.length > 0 && contentType === undefined) {
      throw badRequest("bad-header", "Cannot append: Content-Type is missing");
    }
    let isCounted = false;
    for (let isFirst = true;; isFirst = false) {
      if (isEnd && known.keyed) await authorize("close", id);
      if (body.length > 0 && mediaType(contentType!) !== mediaType(known.contentType)) {
        known = await this.#learn(id, true);
        if (mediaType(contentType!) !== mediaType(known.contentType)) {
          throw conflict(
            "wrong-type",
            `Cannot append: Content-Type must be ${known.contentType}, received ${contentType}`,
          );
        }
      }
      const records = this.#readRecords(id, body, known.contentType);
      if (records.length === 0 && body.length > 0) {
        throw badRequest("bad-json", "Cannot append: the array is empty");
      }
      if (known.keyed && !isCounted) {
        isCounted = true;
        const { length: size } = body;
        this.#count(asked, { verb: "append", user, count: records.length, size });
      }
      const changes = known.keyed && body.length > 0
        ? await readChanges(records as readonly string[])
        : undefined;
      const { identity } = known;
      const isOwned = known.keyed && (producer ?? sequence) !== undefined;
      const owned = isOwned ? await this.#ownedBy(asked, producer) : { producer };
      asked.checkRevoked();
      const options = { identity, end: isEnd ? {} : undefined, sequence, ...owned };
      const result = changes === undefined
        ? await this.#parts.logs.append(id, { ...options, records })
        : await this.#write(id, changes, { ...options, user, asked });
      if (result.kind === "conflict") throw rowConflict(result, await mayRead(authorize, id));
      if (result.kind === "missing" && isFirst) {
        known = await this.#learn(id);
        continue;
      }
      return this.#appended(result, { id, producer, sequence, hasRecords: records.length > 0 });
    }
  }

  /** Counts changes toward the rates of the caller, which are the rates of one session. */
  #count({ publisher }: StreamRequest, { count, ...of }: HttpPublications): void {
    // Longer lists are rejected before any change is decided about.
    const counted = Math.min(Math.max(1, count), MAX_CHANGES);
    this.#parts.rates?.publish(publisher, { ...of, count: counted });
  }

  /** Names the caller of an append to a keyed stream, and its producer, which no one else can use. */
  async #ownedBy(
    { publisher }: StreamRequest,
    producer: LogProducer | undefined,
  ): Promise<Pick<AppendLogOptions, "caller" | "producer">> {
    const { runtime } = this.#parts;
    const { user, networks } = publisher;
    const key = networks.at(-1)?.key;
    const id = user === undefined ? "" : await digest(runtime, user);
    const network = key === undefined ? "" : await digest(runtime, key);
    const named = producer && await digest(runtime, producer.id);
    return {
      caller: { id, network: network.slice(0, NETWORK_LENGTH) },
      producer: producer && { ...producer, id: named! },
    };
  }

  /** Checks changes, and appends them. */
  async #write(
    id: string,
    changes: readonly ClientChange[],
    { user, asked, ...options }: {
      readonly user: string | undefined;
      readonly asked: StreamRequest;
      readonly identity: string | undefined;
      readonly producer?: LogProducer | undefined;
    },
  ): Promise<StreamAppended> {
    const { logs, changes: gate } = this.#parts;
    const append = (checked: readonly Change[], identity = options.identity) =>
      logs.append(id, {
        ...options,
        identity,
        records: [],
        changes: this.#encodeChanges(id, checked),
      });
    if (gate === undefined) return await append(changes.map(withValue));
    const { account, request, decision } = asked;
    const source = { account, user, session: undefined, request, decision };
    try {
      return await gate.write(id, changes, {
        source,
        append,
        isNumbered: options.producer !== undefined,
      });
    } catch (error) {
      if (error instanceof RequestError) throw rejectedChange(error);
      if (!(error instanceof TimeoutError)) throw error;
      this.#parts.report("The schema of a row", error);
      throw new Problem(503, {
        code: "unavailable",
        detail: `Cannot append: ${error.message}; try again`,
        cause: error,
      });
    }
  }

  #appended(
    result: StreamAppended,
    { id, producer, sequence, hasRecords }: {
      readonly id: string;
      readonly producer?: LogProducer | undefined;
      readonly sequence?: string | undefined;
      readonly hasRecords: boolean;
    },
  ): Response {
    switch (result.kind) {
      case "appended":
      case "repeated": {
        const { info } = result;
        const isNew = result.kind === "appended";
        const seq = isNew ? producer?.seq : result.seq;
        return new Response(null, {
          status: isNew && producer !== undefined && hasRecords ? 200 : 204,
          headers: {
            ...stateHeaders(info),
            "cache-control": "no-store",
            ...(producer && { "producer-epoch": `${producer.epoch}` }),
            ...(producer && seq !== undefined && { "producer-seq": `${seq}` }),
          },
        });
      }
      case "missing":
        throw missing();
      case "deleted":
        throw gone(`Cannot append: stream "${id}" was deleted`);
      case "ended":
        throw ended(id, result.info);
      case "stale":
        throw new Problem(403, {
          code: "stale-epoch",
          detail: `Cannot append: Producer-Epoch must be at least ${result.epoch}, ` +
            `received ${producer?.epoch}`,
          headers: { "producer-epoch": `${result.epoch}` },
        });
      case "unstarted":
        throw badRequest(
          "bad-header",
          "Cannot append: the first Producer-Seq of a Producer-Epoch must be 0, " +
            `received ${producer?.seq}`,
        );
      case "skipped":
        throw conflict(
          "sequence-gap",
          `Cannot append: Producer-Seq must be ${result.expected}, received ${producer?.seq}`,
          {
            "producer-expected-seq": `${result.expected}`,
            "producer-received-seq": `${producer?.seq}`,
          },
        );
      case "out-of-sequence":
        throw conflict(
          "out-of-sequence",
          `Cannot append: Stream-Seq must be above "${result.sequence}", received "${sequence}"`,
        );
      case "too-many-producers":
        throw conflict(
          "too-many-producers",
          "Cannot append: the stream has no room for another producer of this caller; use a known " +
            "Producer-Id with a higher Producer-Epoch",
        );
      case "fenced":
      case "held":
        throw conflict("held", `Cannot append: stream "${id}" has an open writer`);
      case "full":
        throw this.#full("append");
      case "no-space":
        throw this.#noSpace("append");
      case "over-share":
        throw this.#overShare("append", result);
      case "conflict":
        throw rowConflict(result, false);
      case "too-many-rows":
        throw this.#tooManyRows();
      case "other-form":
        throw rejectedChange(otherVersion(id));
      case "other-kind":
        // The stream was replaced by one of the other kind, so the writer has to look again.
        throw missing();
      case "moved":
        throw new TypeError("An append without `ifTail` fits any tail");
    }
  }

  #tooManyRows(): Problem {
    this.#rejected.maxRows++;
    return new Problem(413, {
      code: "full",
      detail: `Cannot append: a keyed stream must have at most ${this.#settings.maxRows} rows`,
    });
  }

  /** Rejects a keyed stream that cannot be created. */
  #checkKeyed(contentType: string | undefined): void {
    if (contentType === undefined || !isJson(contentType)) {
      throw badRequest(
        "bad-header",
        `Cannot create: the Content-Type of a keyed stream must be application/json, received ${
          contentType === undefined ? "no Content-Type" : `"${contentType}"`
        }`,
      );
    }
    if (this.#parts.logs.keepsRows) return;
    throw conflict("unsupported", "Cannot create: this server's broker stores no keyed streams");
  }

  #full(verb: string): Problem {
    this.#rejected.maxStreamBytes++;
    const { maxStreamBytes } = this.#settings;
    return new Problem(413, {
      code: "full",
      detail: `Cannot ${verb}: a stream must have at most ${maxStreamBytes} bytes, with ` +
        `${ENTRY_BYTES} for each record`,
    });
  }

  #tooLargeToCopy(): Problem {
    this.#rejected.maxStreamBytes++;
    const most = Math.min(this.#settings.maxStreamBytes, this.#parts.logs.maxAppendBytes);
    return new Problem(413, {
      code: "full",
      detail: `Cannot create: the rows of a fork must have at most ${most} bytes, with ` +
        `${ENTRY_BYTES} for each row`,
    });
  }

  #noSpace(verb: string): Problem {
    this.#rejected.maxTotalBytes++;
    return new Problem(413, {
      code: "full",
      detail: `Cannot ${verb}: ${NO_SPACE}`,
    });
  }

  #overShare(verb: "append" | "create", reached: LogOverShare): Problem {
    this.#rejected.maxTotalBytes++;
    return new Problem(413, { code: "full", detail: overShareReason(verb, reached) });
  }

  async #cancel(asked: StreamRequest, id: string): Promise<Response> {
    const { authorize, readBody, checkRevoked } = asked;
    const user = await authorize("cancel", id);
    const body = await readBody(MAX_REASON_BYTES);
    this.#count(asked, { verb: "cancel", user, count: 1, size: body.length });
    const cancel = new TextDecoder().decode(body);
    checkRevoked();
    const result = await this.#parts.logs.append(id, { records: [], cancel });
    // An ended stream has already stopped, as the reader requested.
    if (result.kind !== "ended") return this.#appended(result, { id, hasRecords: false });
    const headers = { ...stateHeaders(result.info), "cache-control": "no-store" };
    return new Response(null, { status: 204, headers });
  }

  async #delete({ authorize }: StreamRequest, id: string): Promise<Response> {
    await authorize("delete", id);
    const result = await this.#parts.logs.delete(id);
    this.#known.delete(id);
    this.#parts.clientStreams.deleted(id);
    if (result === "missing") throw missing();
    if (result === "deleted") throw gone(`Cannot delete: stream "${id}" was deleted already`);
    return new Response(null, { status: 204, headers: { "cache-control": "no-store" } });
  }

  async #head({ authorize }: StreamRequest, id: string): Promise<Response> {
    await authorize("read", id);
    const { info } = found(await this.#parts.logs.info(id));
    const { ttlMs, expiresAt } = info;
    return new Response(null, {
      headers: {
        ...stateHeaders(info),
        "content-type": info.contentType,
        "cache-control": "no-store",
        ...(ttlMs !== undefined && { "stream-ttl": `${Math.ceil(ttlMs / 1_000)}` }),
        ...(expiresAt !== undefined && { "stream-expires-at": new Date(expiresAt).toISOString() }),
        ...(info.keyed && { "stream-keyed": "true" }),
      },
    });
  }

  async #get(asked: StreamRequest, id: string): Promise<Response> {
    await asked.authorize("read", id);
    const query = readQuery(new URL(asked.request.url).searchParams);
    if (query.position !== "now") {
      await this.#checkOffset(asked, id, query);
      try {
        return await this.#read(asked, id, query, query.position);
      } catch (error) {
        // The stream may have been replaced by another one.
        this.#known.delete(id);
        throw error;
      }
    }
    const { info } = found(await this.#parts.logs.read(id, NOTHING));
    const offset = formatOffset(info, info.tail);
    if (query.mode !== "catch-up") {
      // The end moves on while the reader starts. A reader of a keyed stream misses no change.
      const startsAtOldest = info.keyed === undefined;
      return await this.#read(asked, id, { ...query, offset, startsAtOldest }, info.tail);
    }
    return new Response(bodyOf([], info.contentType), {
      headers: {
        ...stateHeaders(info),
        "content-type": info.contentType,
        "cache-control": "no-store",
        "stream-up-to-date": "true",
      },
    });
  }

  #read(asked: StreamRequest, id: string, query: ReadQuery, after: number): Promise<Response> {
    if (query.mode === "sse") return this.#readEvents(asked, id, query, after);
    if (query.mode === "long-poll") return this.#poll(asked, id, query, after);
    return this.#catchUp(asked, id, query, after);
  }

  /** Rejects an offset of another stream before any records are read. */
  async #checkOffset(
    { account }: StreamRequest,
    id: string,
    { mode, offset, position }: ReadQuery,
  ): Promise<void> {
    if (offset === undefined) return;
    // A reader too many is rejected before anything is read.
    if (mode !== "catch-up" && !this.#parts.logs.hasRoom(account)) return;
    const known = this.#known.get(id);
    if (known !== undefined && identityIn(offset) === known.identity) return;
    const result = await this.#parts.logs.info(id);
    const { info } = pageAt(result, offset, position as number);
    this.#remember(id, info);
  }

  /**
   * Returns the response to a conditional read if nothing has changed, without reading any records;
   * `undefined` if the page has to be read. So are pages before the end of a stream that is not
   * keyed, which may have grown.
   */
  async #unchanged(
    { request }: StreamRequest,
    id: string,
    query: ReadQuery,
    after: number,
  ): Promise<Response | undefined> {
    const { offset, snapshot, isTail } = query;
    const condition = request.headers.get("if-none-match");
    if (condition === null || isTail || snapshot !== undefined) return undefined;
    const result = await this.#parts.logs.read(id, NOTHING);
    // The records of a fork may be gone with its source.
    if (result.kind !== "page" || !result.info.keyed && result.info.origin) return undefined;
    const { info } = result;
    const oldest = oldestPosition(info);
    const start = offset === undefined ? oldest : after;
    const isKept = info.keyed ? start === 0 || start >= info.rows!.forgotten : start >= oldest;
    if (!isKept || offset !== undefined && parseOffset(info, offset) !== start) return undefined;
    // At the same tail, a page of a keyed stream ends where it ended before.
    const next = info.keyed ? nextIn(condition, info, start) : info.tail;
    const page = { ...result, after: start, next, isUpToDate: next >= info.tail };
    const headers = catchUpHeaders(page, { isTail, isMoving: this.#isMoving(query) });
    return matches(condition, headers.etag)
      ? new Response(null, { status: 304, headers })
      : undefined;
  }

  async #catchUp(
    asked: StreamRequest,
    id: string,
    query: ReadQuery,
    after: number,
  ): Promise<Response> {
    const unchanged = await this.#unchanged(asked, id, query, after);
    if (unchanged !== undefined) return unchanged;
    const { request } = asked;
    const { offset, startsAtOldest, snapshot, isTail } = query;
    const eachChange = isTail && "always";
    const part = { ...PAGE, after, startsAtOldest, snapshot, eachChange } as const;
    const first = pageAt(await this.#parts.logs.read(id, part), offset, after);
    const page = await this.#fill(id, first, eachChange);
    const headers = catchUpHeaders(page, { isTail, isMoving: this.#isMoving(query) });
    if (matches(request.headers.get("if-none-match"), headers.etag)) {
      return new Response(null, { status: 304, headers });
    }
    return asked.unread.respond(bodyOf(bracketed(page), page.info.contentType), { headers });
  }

  /** True if the first page changes when records are dropped. */
  #isMoving({ startsAtOldest }: ReadQuery): boolean {
    return startsAtOldest && this.#settings.keep !== undefined;
  }

  /** Adds pages while they fit, because brokers and the sources of forks return smaller pages. */
  async #fill(
    id: string,
    page: StreamPage,
    eachChange: ReadStreamOptions["eachChange"],
  ): Promise<StreamPage> {
    for (let bytes = recordBytes(page.records); !page.isUpToDate;) {
      const { info: { identity }, next: after, records, snapshot } = page;
      const maxRecords = PAGE.maxRecords - records.length;
      const maxBytes = PAGE.maxBytes - bytes;
      if (maxRecords <= 0 || maxBytes <= 0) break;
      const part = { after, identity, snapshot, eachChange, maxRecords, maxBytes };
      const more = await this.#parts.logs.read(id, part);
      if (more.kind !== "page") break;
      bytes += recordBytes(more.records);
      if (bytes > PAGE.maxBytes || more.records.length === 0) break;
      page = { ...more, after: page.after, records: [...records, ...more.records] };
    }
    return page;
  }

  async #poll(
    asked: StreamRequest,
    id: string,
    query: ReadQuery,
    after: number,
  ): Promise<Response> {
    const { runtime } = this.#parts;
    using reader = this.#admit("long-poll", asked);
    const { ended } = reader;
    // The request's signal is not used, because the runtime aborts it after each response, and
    // warns.
    const timer = startTimer(runtime, this.#settings.longPollMs, () => ended.abort());
    try {
      let last: StreamPage | undefined;
      const { account } = asked;
      for await (const result of this.#follow(id, query, { ...PAGE, after, ended, account })) {
        last = last === undefined ? this.#first(result, query.offset, after) : found(result);
        if (last.records.length > 0 || last.info.end !== undefined) break;
      }
      if (last === undefined) asked.checkRevoked();
      if (last === undefined && !this.#parts.logs.isClosed) throw unanswered();
      const isInTime = ended.signal.aborted && !this.#parts.gate.cut.aborted;
      if (last === undefined || !isInTime && !isResponse(last)) throw closing();
      const { info } = last;
      const records = bracketed(last);
      const headers = {
        ...pageHeaders(last),
        ...(info.end === undefined && { "stream-cursor": `${cursorAt(runtime, query.cursor)}` }),
      };
      // The cursor is part of the URL, so that shared caches can serve many readers.
      const isShared = this.#settings.cache === "public" && records.length > 0 && !info.keyed &&
        !this.#isMoving(query);
      const caching = { "cache-control": isShared ? CACHED : "no-store" };
      return records.length > 0
        ? asked.unread.respond(bodyOf(records, info.contentType), {
          headers: { ...headers, ...caching },
        })
        : new Response(null, { status: 204, headers: { ...headers, ...caching } });
    } finally {
      runtime.clearTimeout(timer);
    }
  }

  async #readEvents(
    asked: StreamRequest,
    id: string,
    query: ReadQuery,
    after: number,
  ): Promise<Response> {
    const reader = this.#admit("sse", asked);
    const { ended } = reader;
    const { account, unread } = asked;
    const rest = this.#follow(id, query, { ...EVENT, after, ended, account });
    try {
      const { value } = await rest.next();
      if (value === undefined) asked.checkRevoked();
      if (value === undefined) throw closing();
      const first = this.#first(value, query.offset, after);
      const { info, isUpToDate } = first;
      const isOver = isUpToDate && info.end !== undefined;
      const onEnd = () => reader[Symbol.dispose]();
      return new Response(
        this.#events.open({ first, rest, ended, unread, cursor: query.cursor, onEnd }),
        {
          headers: {
            ...eventHeaders(info.contentType),
            ...(isOver && first.records.length === 0 && pageState(first)),
          },
        },
      );
    } catch (error) {
      reader[Symbol.dispose]();
      await rest.return();
      throw error;
    }
  }

  #follow(
    id: string,
    { startsAtOldest, snapshot }: ReadQuery,
    { ended, ...options }: {
      readonly after: number;
      readonly maxRecords: number;
      readonly maxBytes: number;
      readonly ended: AbortController;
      readonly account: Account;
    },
  ): AsyncGenerator<StreamRead, void, undefined> {
    const { signal } = ended;
    // Writers wait until the identifiers of their transactions have come back.
    const part = { ...options, startsAtOldest, snapshot, eachChange: true, signal } as const;
    return this.#parts.logs.follow(id, part);
  }

  /** The first page of a waiting reader. */
  #first(result: StreamRead, offset: string | undefined, after: number): StreamPage {
    if (result.kind === "too-many") this.#rejected[REJECTED_READERS[result.rejection.level!]]++;
    return pageAt(result, offset, after);
  }

  /** Counts a waiting reader, until disposal. */
  #admit(wire: "long-poll" | "sse", { whenRevoked }: StreamRequest): Disposable & {
    /** Aborted by disposal. */
    readonly ended: AbortController;
  } {
    if (this.#parts.logs.isClosed) throw closing();
    this.#readers[wire]++;
    const ended = new AbortController();
    const end = () => ended.abort();
    const { stopped } = this.#parts.gate;
    stopped.addEventListener("abort", end);
    const revocation = whenRevoked(() => ended.abort(REVOKED));
    let isOver = false;
    return {
      ended,
      [Symbol.dispose]: () => {
        if (isOver) return;
        isOver = true;
        stopped.removeEventListener("abort", end);
        revocation[Symbol.dispose]();
        ended.abort();
        this.#readers[wire]--;
      },
    };
  }

  #readRecords(id: string, body: Uint8Array, contentType: string): readonly LogRecord[] {
    const { maxMessageBytes = Infinity } = this.#parts;
    return readRecords(body, contentType, maxRecordBytes(id, maxMessageBytes));
  }

  /** Encodes the changes of a transaction, which has to fit into a session message. */
  #encodeChanges(id: string, changes: readonly Change[]): readonly RowChange[] {
    const { runtime, maxMessageBytes = Infinity } = this.#parts;
    const maxBytes = maxRecordBytes(id, maxMessageBytes);
    const encoded = encodeTransaction(changes, { now: runtime.now(), maxBytes });
    if (encoded.fault === undefined) return encoded.changes;
    throw tooLarge(encoded.fault);
  }

  get #maxBodyBytes(): number {
    return Math.min(this.#settings.maxAppendBytes, this.#parts.logs.maxAppendBytes);
  }

  /** Reads the properties of a stream for an append. */
  async #learn(id: string, isOpen = false): Promise<KnownStream> {
    this.#known.delete(id);
    const { info } = found(await this.#parts.logs.info(id));
    // An ended stream is reported before a wrong type.
    if (isOpen && info.end !== undefined) throw ended(id, info);
    return this.#remember(id, info);
  }

  #remember(id: string, { identity, contentType, keyed }: LogInfo): KnownStream {
    this.#known.delete(id);
    const [oldest] = this.#known.keys();
    if (this.#known.size >= MAX_KNOWN) this.#known.delete(oldest!);
    const known = { identity, contentType, keyed };
    this.#known.set(id, known);
    return known;
  }
}

/** Headers with the state of a whole stream. */
function stateHeaders(info: LogInfo): Record<string, string> {
  const { end, cancelled, tail } = info;
  return {
    "stream-next-offset": formatOffset(info, tail),
    ...(end && { "stream-closed": "true" }),
    ...(end?.error !== undefined && { "skein-stream-error": headerText(end.error) }),
    ...(cancelled !== undefined && { "skein-stream-cancelled": headerText(cancelled) }),
  };
}

/** Headers with the state of a stream at the end of a page. */
function pageState(page: StreamPage): Record<string, string> {
  const { info, isUpToDate } = page;
  const end = isUpToDate ? info.end : undefined;
  return {
    "stream-next-offset": offsetAfter(page),
    ...(isUpToDate && { "stream-up-to-date": "true" }),
    ...(end && { "stream-closed": "true" }),
    ...(end?.error !== undefined && { "skein-stream-error": headerText(end.error) }),
  };
}

/** Headers of a page of a read that does not wait. */
function catchUpHeaders(
  page: StreamPage,
  { isTail, isMoving }: { readonly isTail: boolean; readonly isMoving: boolean },
): Record<string, string> & { readonly etag: string } {
  const { info, after, next, isUpToDate } = page;
  const end = isUpToDate ? info.end : undefined;
  // Each change may move rows, so pages of a keyed stream differ with its end.
  const generation = info.keyed ? `:${info.tail}${isTail ? ":all" : ""}` : "";
  const etag = `"${info.identity}:${after}:${next}${generation}${end ? ":c" : ""}"`;
  const isFinal = !info.keyed && !isMoving && (!isUpToDate || end !== undefined);
  return { ...pageHeaders(page), etag, "cache-control": isFinal ? CACHED : "no-cache" };
}

function pageHeaders(page: StreamPage): Record<string, string> {
  return { ...pageState(page), "content-type": page.info.contentType };
}

/**
 * The URL of a stream, for its creator. Behind a TLS proxy, it uses the proxy's scheme. A creator
 * that falsely claims to use TLS misleads only itself.
 */
function locationOf({ url, headers }: Request): string {
  const { protocol, host, pathname } = new URL(url);
  const hasTls = headers.get("x-forwarded-proto")?.toLowerCase() === "https" ||
    /(?:^|;)\s*proto="?https"?(?:;|,|$)/i.test(headers.get("forwarded") ?? "");
  return `${hasTls ? "https:" : protocol}//${host}${pathname}`;
}

/** Percent-encodes percent signs and everything that is not printable ASCII. */
function headerText(text: string): string {
  let encoded = "";
  for (const character of text.toWellFormed()) {
    const part = /[\x20-\x24\x26-\x7e]/.test(character) ? character : encodeURIComponent(character);
    // A cut must not leave part of an encoded character.
    if (encoded.length + part.length > MAX_HEADER_LENGTH) break;
    encoded += part;
  }
  return encoded.trim();
}

function found(result: StreamRead): StreamPage {
  switch (result.kind) {
    case "page":
      return result;
    case "missing":
      throw missing();
    case "dropped":
      throw gone(DROPPED_REASON);
    case "deleted":
      throw gone("Cannot read: the stream was deleted");
    case "trimmed":
      throw gone("Cannot read: the records at this offset are no longer kept; read from -1");
    case "too-many":
      throw rejectedBy(result.rejection);
  }
}

/** The page of a result, if its position matches the offset. */
function pageAt(result: StreamRead, offset: string | undefined, position: number): StreamPage {
  const page = found(result);
  if (offset === undefined) return page;
  const { info } = page;
  const isOwn = formatOffset(info, position, snapshotOf(offset)) === offset;
  if (isOwn && position <= info.tail) return page;
  throw gone(`Cannot read: the offset "${offset}" is not of this stream`);
}

/** Checks whether a page ends a long-poll. */
function isResponse({ records, info }: StreamPage): boolean {
  return records.length > 0 || info.end !== undefined;
}

function matches(condition: string | null, etag: string): boolean {
  if (condition === null) return false;
  return condition.trim() === "*" ||
    condition.split(",").some((one) => one.trim().replace(/^W\//, "") === etag);
}

/** The end of the page with an ETag; the tail if the ETag is of another page. */
function nextIn(condition: string, { identity, tail }: LogInfo, start: number): number {
  const [, next] = new RegExp(`"${identity}:${start}:(\\d{1,16}):`).exec(condition) ?? [];
  return next === undefined ? tail : Math.min(Number(next), tail);
}

/** True if the caller may also read a stream. */
async function mayRead(authorize: StreamRequest["authorize"], id: string): Promise<boolean> {
  try {
    await authorize("read", id);
    return true;
  } catch (error) {
    if (error instanceof Problem) return false;
    throw error;
  }
}

/** A conflict with a row, which the response contains if the writer may read it. */
function rowConflict(
  { row, version, since, text }: Extract<StreamAppended, { kind: "conflict" }>,
  isShown: boolean,
): Problem {
  const [type, key] = readRowName(row);
  return new Problem(409, {
    code: "conflict",
    detail: `Cannot append: the row ${row} has version ${version}, which is not the expected one`,
    members: {
      row: { type, key, version, since, change: isShown && text ? JSON.parse(text) : undefined },
    },
  });
}

/** Says how the stream that has the id differs from the one to create. */
function differsFrom({ contentType }: LogInfo, id: string, asked: string): string {
  return mediaType(contentType) === mediaType(asked)
    ? `Stream "${id}" exists with another lifetime, source, form or end`
    : `Stream "${id}" exists with the content type ${contentType}, received ${asked}`;
}

function missing(): Problem {
  return new Problem(404, {
    code: "not-found",
    detail: "There is no stream with this id",
  });
}

function gone(detail: string): Problem {
  return new Problem(410, { code: "gone", detail });
}

function conflict(
  code: string,
  detail: string,
  headers: Readonly<Record<string, string>> = {},
): Problem {
  return new Problem(409, { code, detail, headers });
}

function ended(id: string, info: LogInfo): Problem {
  return conflict("closed", `Cannot append: stream "${id}" was closed`, stateHeaders(info));
}

function unanswered(): Problem {
  return new Problem(503, {
    code: "unavailable",
    detail: "Cannot read: the broker did not respond in time",
  });
}
