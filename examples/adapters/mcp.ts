/**
 * Keeps the sessions of an MCP server in durable streams. A client that was disconnected receives
 * what it has missed, and its session goes on after a restart of the server.
 *
 * Copy this file into your project. `docs/guide/ai-libraries.md` shows the code of the server.
 *
 * @module
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { RequestError } from "../../mod.ts"; // jsr:@skein/skein
import type { DurableStreams, DurableStreamWriter } from "../../streams/mod.ts"; // jsr:@skein/skein/streams
import {
  type EventStore,
  WebStandardStreamableHTTPServerTransport,
} from "npm:@modelcontextprotocol/sdk@^1/server/webStandardStreamableHttp.js";
import {
  isInitializeRequest,
  isJSONRPCErrorResponse,
  isJSONRPCRequest,
  isJSONRPCResultResponse,
  type JSONRPCMessage,
  type JSONRPCRequest,
  type RequestId,
} from "npm:@modelcontextprotocol/sdk@^1/types.js";

/** How long a session is kept after its last read or write: a day. */
const KEEP_MS = 86_400_000;

/** Most sessions in memory. Beyond it, the one that was used longest ago is closed. */
const MAX_SESSIONS = 1_000;

const SESSION_ID = /^[0-9a-f-]{36}$/;
const EVENT_ID = /^(\d{1,9})\.(\d{16}_[0-9a-z]{8})\.([\w-]{1,64})$/;

/** A record of a session's stream: its beginning, or an event. */
type SessionRecord =
  | { readonly user: string; readonly initialize: JSONRPCMessage }
  | {
    readonly stream: string;
    /** Empty for the event that starts an event stream. */
    readonly message: JSONRPCMessage | Record<string, never>;
    /** The requests that the event stream responds to. */
    readonly requests: readonly RequestId[];
  };

/** The requests of the HTTP request that is being handled. */
const requested = new AsyncLocalStorage<readonly RequestId[]>();

/**
 * The event store of one session. Each server that had the session has written a part of it, since
 * a stream ends with its writer.
 */
export class SkeinEventStore implements EventStore {
  readonly #streams: DurableStreams;
  readonly #session: string;
  readonly #part: number;
  readonly #writer: DurableStreamWriter<SessionRecord>;

  private constructor(
    streams: DurableStreams,
    session: string,
    part: number,
    writer: DurableStreamWriter<SessionRecord>,
  ) {
    this.#streams = streams;
    this.#session = session;
    this.#part = part;
    this.#writer = writer;
  }

  /** Starts the next part of a session, after those that exist. */
  static async open(streams: DurableStreams, session: string): Promise<SkeinEventStore> {
    for (let part = 1;; part++) {
      const id = nameOf(session, part);
      if (await streams.info(id) !== undefined) continue;
      try {
        const writer = await streams.create<SessionRecord>(id, { ttlMs: KEEP_MS });
        return new SkeinEventStore(streams, session, part, writer);
      } catch (error) {
        if (!(error instanceof RequestError) || error.failure.code !== "exists") throw error;
      }
    }
  }

  /** Stores a record that is no event. */
  async begin(user: string, initialize: JSONRPCMessage): Promise<void> {
    await this.#writer.append({ user, initialize });
  }

  /** Stores an event, and returns its id. */
  async storeEvent(
    stream: string,
    message: JSONRPCMessage,
    requests: readonly RequestId[] = requested.getStore() ?? [],
  ): Promise<string> {
    const offset = await this.#writer.append({ stream, message, requests });
    return `${this.#part}.${offset}.${stream}`;
  }

  // Without `getStreamIdForEventId`, a client that returns before the server has noticed its loss
  // replaces the lost connection instead of being rejected with 409.

  /** Sends the events of a stream after one of them. */
  async replayEventsAfter(
    lastEventId: string,
    { send }: { send: (eventId: string, message: JSONRPCMessage) => Promise<void> },
  ): Promise<string> {
    const [, number, offset, stream] = EVENT_ID.exec(lastEventId) ?? [];
    if (stream === undefined) throw new RangeError("Unknown event id");
    for (let part = Number(number); part <= this.#part; part++) {
      const after = part === Number(number) ? offset : undefined;
      for await (const { data, offset } of partOf(this.#streams, this.#session, part, after)) {
        if (!("stream" in data) || data.stream !== stream || !("jsonrpc" in data.message)) continue;
        await send(`${part}.${offset}.${stream}`, data.message as JSONRPCMessage);
      }
    }
    return stream;
  }

  /** Closes the part of this server; the session can be continued. */
  async close(): Promise<void> {
    await this.#writer.close();
  }
}

/** Options of {@linkcode McpSessions}. */
export interface McpSessionsOptions {
  /** The streams of the server. */
  readonly streams: DurableStreams;
  /** Connects a new `McpServer`, with its tools, to the transport of a session. */
  readonly connect: (
    transport: WebStandardStreamableHTTPServerTransport,
    user: string,
  ) => Promise<void>;
}

/** A session in memory. */
interface McpSession {
  readonly user: string;
  readonly transport: WebStandardStreamableHTTPServerTransport;
  readonly store: SkeinEventStore;
}

/**
 * The sessions of an MCP server: `fetch: (request) => sessions.fetch(request, userOf(request))`.
 *
 * - **A session belongs to its user.** To anyone else, and for an unknown id, the response is 404.
 * - **After a lost connection,** the client receives what it has missed.
 * - **After a restart,** the session is created again by its id, with the client's first request.
 *   Calls that were running then end with an error, because the server cannot know how far they
 *   came. What your tools keep in memory is lost.
 * - **Several servers:** route all requests of a session to the same server.
 */
export class McpSessions {
  readonly #options: McpSessionsOptions;
  /** The sessions, used longest ago first. */
  readonly #sessions = new Map<string, Promise<McpSession | undefined>>();

  /** Creates the sessions of a server. */
  constructor(options: McpSessionsOptions) {
    this.#options = options;
  }

  /** Handles a request of a user. */
  async fetch(request: Request, user: string): Promise<Response> {
    const id = request.headers.get("mcp-session-id");
    const parsedBody = request.method === "POST" ? await jsonOf(request.clone()) : undefined;
    const session = id === null && isInitializeRequest(parsedBody)
      ? await this.#begin(user, parsedBody as JSONRPCMessage)
      : await this.#find(id ?? "");
    if (session?.user !== user) return notFound();
    const messages: unknown[] = [parsedBody].flat();
    const requests = messages.filter(isJSONRPCRequest).map((call) => (call as JSONRPCRequest).id);
    return await requested.run(requests, () => session.transport.handleRequest(request));
  }

  /** Closes all sessions; the next server continues them. */
  async close(): Promise<void> {
    for (const id of [...this.#sessions.keys()]) await this.#leave(id);
  }

  async #begin(user: string, initialize: JSONRPCMessage): Promise<McpSession> {
    const id = crypto.randomUUID();
    const session = await this.#open(id, user);
    await session.store.begin(user, initialize);
    this.#keep(id, Promise.resolve(session));
    return session;
  }

  async #find(id: string): Promise<McpSession | undefined> {
    if (!SESSION_ID.test(id)) return undefined;
    const session = this.#sessions.get(id) ?? this.#restore(id);
    this.#keep(id, session);
    const found = await session.catch(() => undefined);
    if (found === undefined) this.#sessions.delete(id);
    return await session;
  }

  /** Creates a session again that another server, or this one before a restart, has stored. */
  async #restore(id: string): Promise<McpSession | undefined> {
    const { begun, lost } = await read(this.#options.streams, id);
    if (begun === undefined) return undefined;
    const session = await this.#open(id, begun.user);
    const { transport, store } = session;
    const post = async (message: unknown) => {
      const headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-session-id": id,
      };
      const body = JSON.stringify(message);
      const request = new Request("http://localhost/", { method: "POST", headers, body });
      await (await transport.handleRequest(request)).body?.pipeTo(new WritableStream());
    };
    await post(begun.initialize);
    await post({ jsonrpc: "2.0", method: "notifications/initialized" });
    for (const [request, stream] of lost) {
      const error = { code: -32_000, message: "The server was restarted during this call" };
      await store.storeEvent(stream, { jsonrpc: "2.0", id: request, error }, []);
    }
    return session;
  }

  async #open(id: string, user: string): Promise<McpSession> {
    const { streams, connect } = this.#options;
    const store = await SkeinEventStore.open(streams, id);
    const transport = new WebStandardStreamableHTTPServerTransport({
      sessionIdGenerator: () => id,
      eventStore: store,
      onsessionclosed: async () => {
        await this.#leave(id);
        for (let part = 1; await streams.delete(nameOf(id, part)); part++);
      },
    });
    await connect(transport, user);
    return { user, transport, store };
  }

  #keep(id: string, session: Promise<McpSession | undefined>): void {
    this.#sessions.delete(id);
    this.#sessions.set(id, session);
    const [oldest] = this.#sessions.keys();
    if (this.#sessions.size > MAX_SESSIONS) void this.#leave(oldest!).catch(() => {});
  }

  async #leave(id: string): Promise<void> {
    const session = await this.#sessions.get(id);
    this.#sessions.delete(id);
    await session?.transport.close();
    await session?.store.close();
  }
}

/** Reads how a session began, and the requests that have no response, with their event streams. */
async function read(streams: DurableStreams, session: string) {
  let begun: Extract<SessionRecord, { user: string }> | undefined;
  const lost = new Map<RequestId, string>();
  for (let part = 1; await streams.info(nameOf(session, part)) !== undefined; part++) {
    for await (const { data } of partOf(streams, session, part)) {
      if ("user" in data) begun ??= data;
      else if (isJSONRPCResultResponse(data.message) || isJSONRPCErrorResponse(data.message)) {
        lost.delete(data.message.id!);
      } else for (const request of data.requests) lost.set(request, data.stream);
    }
  }
  return { begun, lost };
}

function partOf(streams: DurableStreams, session: string, part: number, after?: string) {
  return streams.read<SessionRecord>(nameOf(session, part), { ...(after && { after }) });
}

function nameOf(session: string, part: number): string {
  return `mcp/${session}/${part}`;
}

async function jsonOf(request: Request): Promise<unknown> {
  try {
    return await request.json();
  } catch {
    return undefined; // The transport reports it.
  }
}

/** The response that makes a client begin another session. */
function notFound(): Response {
  const error = { code: -32_001, message: "Session not found" };
  return Response.json({ jsonrpc: "2.0", error, id: null }, { status: 404 });
}
