/**
 * The operations of the HTTP API: their paths, schemas and permissions, for the server and the
 * OpenAPI document.
 */
import { z } from "zod";
import type { ApiAction } from "./api_options.ts";
import { MAX_NAME_LENGTH, MAX_TOPIC_BYTES } from "../../session/wire/envelope.ts";
import { exceedsBytes } from "../../session/wire/utf8.ts";

/** Most publications in one page of a history. */
const MAX_HISTORY = 1_000;

/** Most characters of an event id: offset, tag and epoch, each percent-encoded. */
const MAX_EVENT_ID = 640;

/** Most members in one presence response. */
const MAX_MEMBERS = 10_000;

/** Schemas with a name in the OpenAPI document. */
export const SCHEMAS: z.core.$ZodRegistry<{ readonly id: string }> = z.registry();

/** Gives a schema a name in the OpenAPI document. */
function named<S extends z.ZodType>(id: string, schema: S): S {
  SCHEMAS.add(schema, { id });
  return schema;
}

const Name = (what: string) =>
  z.string().min(1).max(MAX_TOPIC_BYTES).refine(
    (text) => !exceedsBytes(text, MAX_TOPIC_BYTES),
    `Too long: expected ${what} of at most ${MAX_TOPIC_BYTES} bytes in UTF-8`,
  ).refine(
    // Some brokers cannot store other values, and would reject them in the middle of a batch.
    (text) => text.isWellFormed() && !text.includes("\0"),
    `Invalid: expected ${what} that is well-formed and without zero characters`,
  );

const Topic = Name("a topic").describe("A topic, of at most 255 bytes in UTF-8.");
const User = Name("a user").describe("A user, as named by `userOf`.");
const Data = z.unknown().optional().describe(
  "Any JSON value. If it is left out, the message has no data.",
);
const From = User.optional().describe("The publishing user, which every subscriber receives.");
const Count = z.int().min(0);
const Time = z.number().describe("Milliseconds since the Unix epoch.");

const Position = named(
  "Position",
  z.object({
    epoch: z.string().describe("Name of one unbroken history."),
    offset: Count.describe("Offset of the publication in the epoch."),
  }).describe("The position of a publication in the history of a topic."),
);

const Publication = named(
  "Publication",
  z.strictObject({ topic: Topic, data: Data, from: From }),
);

const Published = named(
  "Published",
  z.object({
    topic: Topic,
    position: Position.optional().describe(
      "Absent without a history, and for a publication that the broker already has.",
    ),
  }),
);

const Disconnect = named(
  "Disconnect",
  z.strictObject({
    code: z.union([z.literal(0), z.int().min(3_000).max(4_999)]).optional()
      .describe("The close code; 0 by default."),
    reason: z.string().max(1_024).optional().describe(
      "A readable reason, cut to the size that the transport allows.",
    ),
  }),
);

const Disconnected = named(
  "Disconnected",
  z.object({
    closed: Count.describe("Sessions that were closed, on all nodes."),
    isComplete: z.boolean().describe(
      "True if all nodes responded; otherwise sessions may still be open.",
    ),
  }),
);

const SessionEntry = named(
  "Session",
  z.object({
    id: z.string(),
    node: z.string().describe("Id of the node; empty if there is only one."),
    user: z.string(),
    address: z.string().optional().describe("Network address of the peer, if known."),
    transport: z.string(),
    connectedAt: Time,
  }),
);

const Member = named(
  "Member",
  z.object({
    user: z.string(),
    connections: Count.describe(
      "Sessions of the user; 0 during the grace period after a lost connection.",
    ),
    joinedAt: Time,
    data: z.unknown().optional().describe("Presence data of the user; absent without data."),
  }),
);

const Kept = named(
  "RetainedPublication",
  z.object({
    offset: Count,
    prev: Count.describe("Offset of the previous publication; 0 for the first one."),
    tag: z.string().optional().describe(
      "Identifies the publication, for `tag` of a later request.",
    ),
    data: z.unknown().optional().describe("The data; absent without data, and for bytes."),
    base64: z.string().optional().describe("The bytes of a binary publication."),
    from: z.string().optional().describe("The publishing user."),
  }),
);

/** Health of a server. */
const Health = named(
  "Health",
  z.object({
    status: z.enum(["ok", "draining", "full", "down"]).describe(
      "`ok` while the node accepts sessions.",
    ),
    sessions: Count.describe("Sessions of the node."),
  }),
);

/** Form of problem details. */
export const ProblemDetails = named(
  "Problem",
  z.looseObject({
    type: z.string().describe("`urn:skein:problem:` and the code."),
    title: z.string(),
    status: z.int(),
    code: z.string().describe("Stable reason for programs."),
    detail: z.string().describe("The broken rule and the received value, as a readable text."),
  }).describe("Problem details by RFC 9457."),
);

/** Integer in a query. */
const QueryInt = (min: number, max: number) => z.coerce.number().int().min(min).max(max);

export interface ApiOperation {
  readonly action: ApiAction;
  /** Verb of the operation, for errors. */
  readonly verb: string;
  readonly method: "GET" | "POST";
  /** Path below the API's path, with at most one parameter. */
  readonly path: string;
  /** Schema of the path parameter. */
  readonly parameter?: z.ZodType<string> | undefined;
  readonly summary: string;
  readonly description: string;
  readonly query?: z.ZodObject | undefined;
  readonly body?: z.ZodType | undefined;
  /** Body of the response with status 200. */
  readonly reply: z.ZodType;
  /** Content type of that body; JSON by default. */
  readonly type?: "text/event-stream" | undefined;
  /** Other statuses with their own body. */
  readonly replies?: Readonly<Record<number, z.ZodType>> | undefined;
  /** Statuses of problems, in addition to those of every operation. */
  readonly problems: readonly number[];
}

/** Statuses of problems of every operation. */
export const COMMON_PROBLEMS: readonly number[] = [400, 401, 403, 405, 422, 429, 500, 503];

/** Statuses of problems of every operation with a body. */
export const BODY_PROBLEMS: readonly number[] = [408, 409, 413, 415];

/** All operations, by name. */
export const OPERATIONS = {
  publish: {
    action: "publish",
    verb: "publish",
    method: "POST",
    path: "/topics/{topic}/publications",
    parameter: Topic,
    summary: "Publish on a topic",
    description: "Publishes to all subscribers of the topic, on every node. On a topic with a " +
      "history, the response waits until the broker has the publication.",
    body: named("NewPublication", z.strictObject({ data: Data, from: From })),
    reply: Published,
    problems: [404],
  },
  follow: {
    action: "follow",
    verb: "follow",
    method: "GET",
    path: "/topics/{topic}/publications",
    parameter: Topic,
    summary: "Follow a topic by server-sent events",
    description: "Each publication is an event, whose data is a JSON object with `data` or " +
      "`base64`, and `from`. On a topic with a history events have ids, and `Last-Event-ID` " +
      "resumes; an event `start` has the id at which a new reader starts. An event `gap` says that " +
      "publications are missing, with the `reason`.",
    query: z.strictObject({
      last: QueryInt(0, MAX_HISTORY).default(0)
        .describe("Number of the newest publications to start with, if there is no id."),
      lastEventId: z.string().max(MAX_EVENT_ID).optional()
        .describe(
          "The id of the last event, for clients that cannot set the header in the first request.",
        ),
    }),
    reply: z.string().describe("Server-sent events."),
    type: "text/event-stream",
    problems: [406],
  },
  publishBatch: {
    action: "publish-batch",
    verb: "publish",
    method: "POST",
    path: "/publications",
    summary: "Publish on several topics",
    description: "Publishes in the given order. All publications are validated before the first " +
      "one is published.",
    body: named(
      "Publications",
      z.strictObject({ publications: z.array(Publication).min(1) }),
    ),
    reply: named("PublishedAll", z.object({ publications: z.array(Published) })),
    problems: [404],
  },
  send: {
    action: "send",
    verb: "send",
    method: "POST",
    path: "/users/{user}/messages",
    parameter: User,
    summary: "Send a message to a user",
    description: "Sends to every session of the user, on every node.",
    body: named("Message", z.strictObject({ topic: Topic, data: Data })),
    reply: named(
      "Sent",
      z.object({
        sessions: Count.describe(
          "Sessions of the responding node that received the message; other nodes are not counted.",
        ),
      }),
    ),
    problems: [],
  },
  sessions: {
    action: "sessions",
    verb: "list sessions",
    method: "GET",
    path: "/users/{user}/sessions",
    parameter: User,
    summary: "List the sessions of a user",
    description: "Lists the sessions on every node that responds within two seconds.",
    reply: named("Sessions", z.object({ sessions: z.array(SessionEntry) })),
    problems: [],
  },
  disconnectUser: {
    action: "disconnect-user",
    verb: "disconnect",
    method: "POST",
    path: "/users/{user}/disconnect",
    parameter: User,
    summary: "Close all sessions of a user",
    description: "Closes the sessions on every node, and ends the HTTP requests of the user.",
    body: Disconnect,
    reply: Disconnected,
    problems: [],
  },
  disconnectSession: {
    action: "disconnect-session",
    verb: "disconnect",
    method: "POST",
    path: "/sessions/{session}/disconnect",
    parameter: Name("an id").describe("The id of a session."),
    summary: "Close a session",
    description: "Closes the session, on any node.",
    body: Disconnect,
    reply: Disconnected,
    problems: [404],
  },
  presence: {
    action: "presence",
    verb: "read presence",
    method: "GET",
    path: "/topics/{topic}/presence",
    parameter: Topic,
    summary: "List the present users of a topic",
    description: "Lists users, not sessions, of all nodes.",
    query: z.strictObject({
      limit: QueryInt(0, MAX_MEMBERS).default(MAX_HISTORY).describe(
        "Maximum number of members in the response.",
      ),
    }),
    reply: named(
      "Presence",
      z.object({
        count: Count.describe("Number of present users, including those beyond the limit."),
        isComplete: z.boolean().describe(
          "True if all nodes sent their users, and none of them were left out.",
        ),
        members: z.array(Member).describe("The users, in the order of joining."),
      }),
    ),
    problems: [404],
  },
  history: {
    action: "history",
    verb: "read history",
    method: "GET",
    path: "/topics/{topic}/history",
    parameter: Topic,
    summary: "Read the history of a topic",
    description:
      "Reads the newest publications, or the publications after a position. A position whose " +
      "successors are not all kept gets 410, with the reason as its code: `new-epoch`, `too-old` " +
      "or `beyond-head`.",
    query: z.strictObject({
      limit: QueryInt(1, MAX_HISTORY).default(100).describe(
        "Maximum number of publications in the response.",
      ),
      epoch: z.string().max(MAX_NAME_LENGTH).optional().describe("Epoch of the known position."),
      after: QueryInt(0, Number.MAX_SAFE_INTEGER).optional()
        .describe("Offset of the known position; the publications after it follow."),
      tag: z.string().max(MAX_NAME_LENGTH).optional().describe("Tag of the known position."),
    }).refine(
      ({ epoch, after }) => (epoch === undefined) === (after === undefined),
      "Invalid input: epoch and after belong together",
    ),
    reply: named(
      "History",
      z.object({
        epoch: z.string(),
        head: Count.describe("The newest offset; 0 before the first publication."),
        hasMore: z.boolean().describe("True if newer publications follow this page."),
        publications: z.array(Kept).describe("Oldest first."),
      }),
    ),
    problems: [404, 410],
  },
  health: {
    action: "health",
    verb: "read health",
    method: "GET",
    path: "/health",
    summary: "Read the health of the node",
    description: "Responds with 200 while the node accepts new sessions, otherwise with 503.",
    reply: Health,
    replies: { 503: Health },
    problems: [],
  },
  stats: {
    action: "stats",
    verb: "read statistics",
    method: "GET",
    path: "/stats",
    summary: "Read the counters of the node",
    description: "Counters since the start of the node, and current numbers.",
    reply: named(
      "Stats",
      z.object({
        node: z.string().describe("Id of the node; empty if there is only one."),
        nodes: Count.describe("Nodes that are alive, including this one."),
        broker: z.object({ name: z.string(), status: z.string() }),
        sessions: z.object({
          now: Count,
          peak: Count,
          opened: Count,
          closed: Count,
          users: Count,
          addresses: Count,
        }),
        messages: z.object({ sent: Count, received: Count, dropped: Count, queued: Count }),
        topics: z.object({ now: Count, failedPublications: Count, gaps: Count }),
      }),
    ),
    problems: [],
  },
  describe: {
    action: "describe",
    verb: "describe",
    method: "GET",
    path: "/openapi.json",
    summary: "Read this description",
    description: "The OpenAPI document of the API.",
    reply: z.looseObject({ openapi: z.string() }),
    problems: [],
  },
} as const satisfies Readonly<Record<string, ApiOperation>>;

export type OperationName = keyof typeof OPERATIONS;

/** Parsed body of an operation. */
export type BodyOf<K extends OperationName> = (typeof OPERATIONS)[K] extends
  { readonly body: infer S extends z.ZodType } ? z.output<S> : undefined;

/** Parsed query of an operation. */
export type QueryOf<K extends OperationName> = (typeof OPERATIONS)[K] extends
  { readonly query: infer S extends z.ZodType } ? z.output<S> : undefined;

/** Body of the response of an operation. */
export type ReplyOf<K extends OperationName> = z.input<(typeof OPERATIONS)[K]["reply"]>;
