/**
 * The contract defines the topics that each side sends, the requests that either side may send, and
 * their schemas. Both sides share it. The compiler checks the code of each side, and the receiving
 * end checks the data.
 *
 * @module
 */
import { RequestError, type RequestFailure } from "../errors.ts";
import { PRESENCE_PREFIX, type PresenceNotice } from "./wire/presence_notice.ts";
import { STREAM_PREFIX } from "./wire/recovery.ts";
import {
  type InputOf,
  type Invalid,
  type OutputOf,
  placed,
  type StandardSchema,
  validate,
  type Validation,
} from "../base/standard_schema.ts";
import { type RouteMatch, type TopicOf, TopicRouter } from "./wire/topic_pattern.ts";
import type { ContractMessage, IncomingMessage, UntypedMessage } from "./message.ts";

/** One of the two sides of a session. */
export type Side = "server" | "client";

/**
 * Sections of a contract, for {@linkcode defineContract}: topics or topic patterns, each with the
 * schema of its data.
 */
export interface ContractDefinition {
  /** Topics that clients send. */
  readonly toServer?: Readonly<Record<string, StandardSchema>> | undefined;
  /** Topics that the server sends, including publications. */
  readonly toClient?: Readonly<Record<string, StandardSchema>> | undefined;
  /**
   * Requests that either side may send. `input` is the schema of the data, which the receiver
   * checks. The sender checks the response: `output` is the schema of a single reply, and `stream`
   * is the schema of each item of a streaming response.
   */
  readonly requests?:
    | Readonly<
      Record<
        string,
        | {
          readonly input: StandardSchema;
          readonly output: StandardSchema;
          readonly stream?: undefined;
          readonly resume?: undefined;
        }
        | {
          readonly input: StandardSchema;
          readonly stream: StandardSchema;
          /** Makes the response resumable: it outlives the caller's connection, page and node. */
          readonly resume?: boolean | undefined;
          readonly output?: undefined;
        }
      >
    >
    | undefined;
  /**
   * The presence data of clients, by room. The server applies the schema once. Notices and
   * `members` contain the result, which must be a value that JSON can represent.
   */
  readonly presence?: Readonly<Record<string, StandardSchema>> | undefined;
  /**
   * The collections of live states, by pattern of the states' ids: the schema of the rows of each
   * collection, or in a long form the collections with their version. The server applies the schemas
   * once to each written row, and stores the results, which must be values that JSON can represent.
   * It rejects rows of other collections; deletions need no schema.
   */
  readonly state?:
    | Readonly<Record<string, StateCollections | StateDefinition>>
    | undefined;
}

/**
 * The collections of a live state in a contract, by name: the schema of the rows, or an object with
 * the schema.
 */
export type StateCollections = Readonly<
  Record<
    string,
    StandardSchema | {
      readonly schema: StandardSchema;
      /**
       * True if the rows are not stored: each belongs to the session or server that wrote it, and
       * vanishes with it. An example is the cursors of a board's users.
       *
       * @default {false}
       */
      readonly ephemeral?: boolean | undefined;
    }
  >
>;

/**
 * The long form of a state in a contract. An entry has the long form if it has a member
 * `collections` that is neither a schema nor an object with a `schema`.
 */
export interface StateDefinition {
  /** The collections, as in the short form. */
  readonly collections: StateCollections;
  /**
   * Version of the rows: a positive integer, which you increase if rows that are stored no longer
   * fit. `liveState(contract, { migrate })` then moves them.
   *
   * @default {1}
   */
  readonly version?: number | undefined;
  /**
   * The mutations: named writes that clients call, by name, each with the schema of its input.
   * `defineMutations()` adds their functions. A name belongs to one entry of the contract.
   */
  readonly mutations?: MutationInputs | undefined;
  /**
   * Which changes of clients the server accepts: with `"mutations"`, those that mutations make, and
   * ephemeral rows. The server's own code may write rows in any case.
   *
   * @default {"rows"}
   */
  readonly writes?: "rows" | "mutations" | undefined;
}

/** The schemas of the inputs of mutations in a contract, by the name of the mutation. */
export type MutationInputs = Readonly<
  Record<string, StandardSchema | { readonly input: StandardSchema }>
>;

/**
 * The topics, requests, rooms and states that a server and its clients share, with the types of
 * their data. {@linkcode defineContract} creates a contract.
 *
 * `Contract` without a type argument stands for any contract. Servers and clients that have no
 * contract also use this type: every topic is allowed, and data is `unknown`.
 *
 * @typeParam D The definition.
 */
export interface Contract<D extends ContractDefinition = ContractDefinition> {
  /** The definition. Changing a section afterwards has no effect. */
  readonly definition: D;
}

/**
 * True for {@linkcode Contract} itself; false for any other contract, including an empty one.
 *
 * @typeParam C The contract.
 */
export type IsUntyped<C extends Contract> = Contract extends C
  ? keyof ContractDefinition extends keyof C["definition"] ? true : false
  : false;

/**
 * The name of the section that defines a part of a contract: the topics that one side sends,
 * requests with one reply, requests with a streaming response, rooms with presence data, or live
 * states.
 *
 * @typeParam K The part.
 */
export type SectionName<K extends Side | "requests" | "responses" | "presence" | "state"> =
  K extends "server" ? "toClient"
    : K extends "client" ? "toServer"
    : K extends "responses" ? "requests"
    : Exclude<K, Side | "responses">;

/**
 * A section of a contract; an empty section if the contract omits the section.
 *
 * @typeParam C The contract.
 * @typeParam K The section, as in {@linkcode SectionName}.
 */
export type SectionOf<
  C extends Contract,
  K extends Side | "requests" | "responses" | "presence" | "state",
> = IsUntyped<C> extends true ? NonNullable<ContractDefinition[SectionName<K>]>
  : C["definition"] extends { readonly [Key in SectionName<K>]: infer Found }
    ? K extends "requests" | "responses" ? {
        [
          P in keyof Found as Found[P] extends {
            readonly [Key in K extends "requests" ? "output" : "stream"]: StandardSchema;
          } ? P
            : never
        ]: Found[P];
      }
    : Found
  : Record<never, never>;

/**
 * The schema of an entry: the entry itself, or one of the schemas of a request or a collection.
 *
 * @typeParam E The entry.
 * @typeParam K The schema to select if the entry is not a schema itself.
 */
export type EntrySchema<E, K extends "input" | "output" | "stream" | "schema"> = E extends
  StandardSchema ? E
  : E extends { readonly [Key in K]: infer Schema extends StandardSchema } ? Schema
  : never;

/**
 * A type that no topic fits. It stands for a section that a contract omits, so that the compiler's
 * message includes the reason.
 *
 * @typeParam Reason The reason, in words.
 */
export interface NoTopic<Reason extends string> {
  /** The reason, in words. */
  readonly reason: Reason;
}

/**
 * The topics of a part of a contract: the topics that one side may send on, the topics of requests,
 * the rooms with presence data, or the ids of live states. The pattern `chat:{room}` stands for
 * every `chat:${string}`. The type is {@linkcode NoTopic} if the contract has no such topics.
 *
 * @typeParam C The contract.
 * @typeParam K The side that sends, `requests`, `responses` (requests with a streaming response),
 * `presence` or `state`.
 */
export type ContractTopic<
  C extends Contract,
  K extends Side | "requests" | "responses" | "presence" | "state",
> = {
  // A member, because the compiler's messages would otherwise name this alias and hide the topics.
  readonly any: [keyof SectionOf<C, K> & string] extends [never] ?
      & string
      & NoTopic<
        `the contract has no ${K extends "responses" ? "requests with a stream" : SectionName<K>}`
      >
    : { [P in keyof SectionOf<C, K> & string]: TopicOf<P> }[keyof SectionOf<C, K> & string];
}["any"];

/**
 * The type of the first member of a class with a contract. If the first member that uses the
 * contract is a mapped type, TypeScript compares two such classes by their members. Otherwise, it
 * compares their contracts, and rejects a `Client<C>` where a `Client` is expected.
 *
 * @typeParam C The contract.
 */
export type ComparedByMembers<C extends Contract> = { readonly [K in keyof C]?: unknown };

/**
 * The data that the sender passes for a topic. It is the data of a message, of a request, or of a
 * client's presence in a room. For a union of topics, the data must fit each of them, so the type
 * is an intersection, as TypeScript infers for the parameter of a union of functions.
 *
 * @typeParam C The contract.
 * @typeParam K The side that sends, `requests`, `responses` or `presence`.
 * @typeParam T The topic.
 */
export type ContractData<
  C extends Contract,
  K extends Side | "requests" | "responses" | "presence",
  T extends string,
> = (T extends string ? {
    [P in keyof SectionOf<C, K> & string]: T extends TopicOf<P>
      ? (data: InputOf<EntrySchema<SectionOf<C, K>[P], "input">>) => void
      : never;
  }[keyof SectionOf<C, K> & string]
  : never) extends infer Taker
  ? [Taker] extends [never] ? never : [Taker] extends [(data: infer Data) => void] ? Data : never
  : never;

/**
 * The reply to a request on a topic, as the requesting end receives it.
 *
 * @typeParam C The contract.
 * @typeParam T The topic.
 */
export type ContractReply<C extends Contract, T extends string> = T extends string ? {
    [P in keyof SectionOf<C, "requests"> & string]: T extends TopicOf<P>
      ? OutputOf<EntrySchema<SectionOf<C, "requests">[P], "output">>
      : never;
  }[keyof SectionOf<C, "requests"> & string]
  : never;

/**
 * An item of a streaming response, as the requesting end receives it.
 *
 * @example Usage
 * ```ts
 * import { type ContractItem, defineContract } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 * import { z } from "zod";
 *
 * const contract = defineContract({
 *   requests: { count: { input: z.number(), stream: z.number() } },
 * });
 * const items: ContractItem<typeof contract, "count">[] = [1, 2];
 * assertEquals(items.length, 2);
 * ```
 *
 * @typeParam C The contract.
 * @typeParam T The topic.
 */
export type ContractItem<C extends Contract, T extends string> = IsUntyped<C> extends true ? unknown
  : T extends string ? {
      [P in keyof SectionOf<C, "responses"> & string]: T extends TopicOf<P>
        ? OutputOf<EntrySchema<SectionOf<C, "responses">[P], "stream">>
        : never;
    }[keyof SectionOf<C, "responses"> & string]
  : never;

/**
 * The messages of a section, as a union that is discriminated by `pattern`.
 *
 * @typeParam M The section.
 */
export type MessagesIn<M> = {
  [P in keyof M & string]: ContractMessage<
    P,
    OutputOf<EntrySchema<M[P], "input">>,
    M[P] extends { readonly output: infer Reply extends StandardSchema } ? InputOf<Reply>
      : M[P] extends { readonly stream: infer Item extends StandardSchema }
        ? AsyncIterable<InputOf<Item>>
      : unknown
  >;
}[keyof M & string];

/**
 * Every message that one side may receive, as a union that is discriminated by `pattern`. With any
 * contract, a client may also receive a {@linkcode PresenceNotice} about the users in a topic.
 *
 * @example Narrowing
 * ```ts
 * import { defineContract, type MessageOf } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 * import { z } from "zod";
 *
 * const contract = defineContract({ toServer: { "chat:{room}": z.string(), leave: z.null() } });
 * function tell(message: MessageOf<typeof contract, "server">): string {
 *   if (message.pattern === "leave") return "left";
 *   return message.params.room + message.data;
 * }
 * const [topic, params] = ["chat:a", { room: "a" }] as const;
 * const { signal } = new AbortController();
 * const more = { data: "!", isRequest: false, isCancelled: false, signal, reply() {} };
 * assertEquals(tell({ pattern: "chat:{room}", topic, params, ...more }), "a!");
 * ```
 *
 * @typeParam C The contract.
 * @typeParam S The side that receives.
 */
export type MessageOf<C extends Contract, S extends Side> = IsUntyped<C> extends true
  ? UntypedMessage
  :
    | MessagesIn<SectionOf<C, S extends "server" ? "client" : "server">>
    | MessagesIn<SectionOf<C, "requests">>
    | MessagesIn<SectionOf<C, "responses">>
    | (S extends "client" ? ContractMessage<
        "presence:{topic}",
        PresenceNotice<
          [keyof SectionOf<C, "presence">] extends [never] ? unknown
            : MessagesIn<SectionOf<C, "presence">>["data"]
        >
      >
      : never);

/**
 * The messages that a subscriber to a topic may receive: those whose pattern the topic matches.
 *
 * @typeParam C The contract.
 * @typeParam T The topic, or a union of topics.
 */
export type TopicMessage<C extends Contract, T extends string> = IsUntyped<C> extends true
  ? UntypedMessage
  : MessagesIn<
    {
      [P in keyof SectionOf<C, "server"> & string as T extends TopicOf<P> ? P : never]: SectionOf<
        C,
        "server"
      >[P];
    }
  >;

/**
 * The presence data in a room; `unknown` if the contract does not define its type.
 *
 * @typeParam C The contract.
 * @typeParam T The room.
 */
export type RoomData<C extends Contract, T extends string> = IsUntyped<C> extends true ? unknown
  : MessagesIn<
    {
      [P in keyof SectionOf<C, "presence"> & string as T extends TopicOf<P> ? P : never]: SectionOf<
        C,
        "presence"
      >[P];
    }
  >["data"];

/**
 * The ids of the live states of a contract. The type is {@linkcode NoTopic} if the contract has no
 * states, and `string` for any contract.
 *
 * @typeParam C The contract.
 */
export type StateIds<C extends Contract> = ContractTopic<C, "state">;

/**
 * The collections of a live state: an object with the schema of each.
 *
 * @example A function that writes the rows of one collection
 * ```ts
 * import { defineContract, type StateInput, type StateRow, type StateRows } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 * import { z } from "zod";
 *
 * const card = z.object({ title: z.string(), votes: z.number().default(0) });
 * const contract = defineContract({ state: { "board:{id}": { cards: card } } });
 * type Board = StateRows<typeof contract, "board:1">;
 *
 * const draft: StateInput<Board, "cards"> = { title: "Draft" };
 * const row: StateRow<Board, "cards"> = card.parse(draft);
 * assertEquals(row.votes, 0);
 * ```
 *
 * @typeParam C The contract.
 * @typeParam Id The id of the state.
 */
export type StateRows<C extends Contract, Id extends string> = Id extends string ? {
    [P in keyof SectionOf<C, "state"> & string]: Id extends TopicOf<P>
      ? CollectionsOf<SectionOf<C, "state">[P]>
      : never;
  }[keyof SectionOf<C, "state"> & string]
  : never;

/**
 * The collections of an entry of a contract's `state` section, in the short or the long form.
 *
 * @typeParam E The entry.
 */
export type CollectionsOf<E> = E extends { readonly collections: infer Found }
  ? Found extends StandardSchema | { readonly schema: StandardSchema } ? E : Found
  : E;

/**
 * A row of a live state, as it is stored and read.
 *
 * @typeParam R The collections, as in {@linkcode StateRows}.
 * @typeParam N The name of the collection.
 */
export type StateRow<R, N extends keyof R> = OutputOf<EntrySchema<R[N], "schema">>;

/**
 * A row of a live state, as it is written.
 *
 * @typeParam R The collections, as in {@linkcode StateRows}.
 * @typeParam N The name of the collection.
 */
export type StateInput<R, N extends keyof R> = InputOf<EntrySchema<R[N], "schema">>;

/**
 * The inputs of the mutations of a live state, by name.
 *
 * @typeParam C The contract.
 * @typeParam Id The id of the state.
 */
export type StateMutations<C extends Contract, Id extends string> = Id extends string ? {
    [P in keyof SectionOf<C, "state"> & string]: Id extends TopicOf<P>
      ? MutationsOf<SectionOf<C, "state">[P]>
      : never;
  }[keyof SectionOf<C, "state"> & string]
  : never;

/**
 * The inputs of the mutations of an entry of a contract's `state` section; empty without any.
 *
 * @typeParam E The entry.
 */
export type MutationsOf<E> = E extends {
  readonly collections: unknown;
  readonly mutations: infer Found extends MutationInputs;
} ? Found
  : Record<never, never>;

/** The entry of a contract for the states of a pattern, at run time. */
export interface StateRoute {
  /** The collections, by name. */
  readonly collections: ReadonlyMap<
    string,
    {
      /** The schema of the rows. */
      readonly schema: StandardSchema;
      /** True if the rows are not stored. */
      readonly ephemeral?: boolean | undefined;
    }
  >;
  /** Version of the rows. */
  readonly version: number;
  /** The inputs of the mutations, by name. */
  readonly mutations: MutationInputs | undefined;
  /** Which changes of stored rows clients may make; anything by default. */
  readonly writes: StateDefinition["writes"];
}

/** The entry of a contract for a pattern, at run time. */
export interface ContractRoute {
  readonly pattern: string;
  /** The schema of the data; absent for presence notices, which need none. */
  readonly input?: StandardSchema | undefined;
  /** The schema of the reply, for a request with one reply. */
  readonly output?: StandardSchema | undefined;
  /** The schema of an item, for a request with a streaming response. */
  readonly stream?: StandardSchema | undefined;
  /** True if the response is resumable. */
  readonly resume?: boolean | undefined;
  /** The use of the topic: messages or requests. */
  readonly kind: "message" | "request";
}

/** The entry of a contract for a topic, with the fields of the route and `params`. */
export type ContractMatch = RouteMatch<ContractRoute>;

/**
 * Defines a contract for `serve` and `connect`, in a module that both sides import.
 *
 * The sender passes data unchanged, and the receiver checks it. The sender therefore uses a
 * schema's input type and the receiver its output type: the receiver applies defaults and
 * transforms, once.
 *
 * @example Usage
 * ```ts
 * import { defineContract } from "@skein/skein";
 * import { assertThrows } from "@std/assert";
 * import { z } from "zod";
 *
 * const text = z.object({ text: z.string() });
 * const contract = defineContract({
 *   toServer: { "chat:{room}": text },
 *   toClient: { "chat:{room}": text.extend({ from: z.string() }) },
 *   requests: {
 *     join: { input: z.string(), output: z.array(z.string()) },
 *     count: { input: z.number(), stream: z.number() }, // A streaming response.
 *   },
 *   presence: { "chat:{room}": z.object({ isTyping: z.boolean() }) },
 *   state: {
 *     "board:{id}": {
 *       cards: text,
 *       cursors: { schema: z.object({ x: z.number(), y: z.number() }), ephemeral: true },
 *     },
 *   },
 * });
 * assertThrows(
 *   () => defineContract({ toServer: { "chat:{room}": text, "chat:lobby": text } }),
 *   TypeError,
 *   "overlap",
 * );
 * ```
 *
 * @typeParam D The definition, with its patterns as literals.
 * @param definition Topics and schemas; each section is optional.
 * @returns The contract, frozen.
 * @throws {TypeError} If a pattern is malformed or starts with `presence:` or `stream:`, if two
 * patterns that the same side receives or two patterns of states overlap, or if a value is not a
 * schema.
 * @throws {RangeError} If a pattern is longer than 255 bytes.
 */
export function defineContract<D extends ContractDefinition>(
  definition: D & Readonly<Record<Exclude<keyof D, keyof ContractDefinition>, never>>,
): Contract<D> {
  return new CompiledContract<D>(definition);
}

const VERB = "define contract";

/** Data that fits the contract, or the failure that the sender receives. */
export type CheckedData =
  | { readonly data: unknown; readonly failure?: undefined }
  | { readonly failure: RequestFailure };

/** Finds the entry for a topic, and checks received data. See `compileContract()`. */
export class ContractRouter extends TopicRouter<ContractRoute> {
  /**
   * Checks a message, or a request if it has an id.
   *
   * @param match The entry for the topic.
   * @param incoming The received message.
   * @returns The output of the schema, or the failure; a promise if the schema is asynchronous.
   * @throws The error that a schema throws; if an asynchronous schema rejects, so does the returned
   * promise.
   */
  check(
    match: ContractMatch | undefined,
    incoming: IncomingMessage,
  ): CheckedData | Promise<CheckedData> {
    const { topic, data, id } = incoming;
    if (!match) {
      const message = `No message of the contract fits the topic "${topic}"`;
      return { failure: { code: "unknown-topic", message } };
    }
    if (match.kind === "request" && id === undefined) {
      const message = `"${topic}" is a request: it needs an id`;
      return { failure: { code: "invalid", message } };
    }
    if (!match.input) return incoming;
    const judge = (outcome: Validation<unknown>) => judged(outcome, topic);
    const outcome = validate(match.input, data);
    return outcome instanceof Promise ? outcome.then(judge) : judge(outcome);
  }

  /**
   * Checks the reply to a request.
   *
   * @param topic The topic of the request.
   * @param reply The received reply.
   * @returns The output of the schema.
   * @throws {RequestError} If the reply does not fit the contract.
   */
  async checkReply(topic: string, reply: unknown): Promise<unknown> {
    const output = this.match(topic)?.output;
    return output ? fitting(await validate(output, reply), topic) : reply;
  }

  /**
   * Returns the function that checks the items of a streaming response; `undefined` for other
   * topics. It returns the output of the schema, or a promise if the schema is asynchronous, and
   * throws or rejects with a {@linkcode RequestError} if an item does not fit.
   *
   * @param topic The topic of the request.
   */
  itemCheck(topic: string): ((item: unknown) => unknown) | undefined {
    const schema = this.match(topic)?.stream;
    const judge = (outcome: Validation<unknown>) => fitting(outcome, topic);
    return schema && ((item) => {
      const outcome = validate(schema, item);
      return outcome instanceof Promise ? outcome.then(judge) : judge(outcome);
    });
  }
}

function judged(outcome: Validation<unknown>, topic: string): CheckedData {
  return outcome.ok ? { data: outcome.value } : { failure: misfitOf(topic, outcome) };
}

/** The failure for data on a topic that does not fit its schema. */
export function misfitOf(topic: string, invalid: Invalid): RequestFailure {
  const message = `The data of "${topic}" does not fit the contract${placed(invalid)}`;
  return { code: "invalid", message, path: invalid.path };
}

function fitting(outcome: Validation<unknown>, topic: string): unknown {
  if (outcome.ok) return outcome.value;
  const text = `The response to "${topic}" does not fit the contract${placed(outcome)}`;
  throw new RequestError("invalid", text, outcome);
}

class CompiledContract<D extends ContractDefinition> implements Contract<D> {
  readonly definition: D;
  // Created eagerly, because the constructor must detect overlaps anyway. All sessions share the
  // caches.
  readonly #routers: Readonly<Record<Side | "presence", ContractRouter>>;
  readonly #states: TopicRouter<StateRoute>;

  constructor(definition: D) {
    if (!definition) reject("a definition must be an object", definition);
    const { toServer = {}, toClient = {}, requests = {}, presence = {}, state = {}, ...rest } =
      definition;
    for (const name in rest) {
      reject("sections are toServer, toClient, requests, presence and state", name);
    }
    const asked = Object.entries(requests).map(([pattern, entry]) => {
      const route = routeOf("request", pattern, entry?.input, entry ?? {});
      checkMembers(`"${pattern}"`, entry, "input, output, stream, resume");
      return route;
    });
    const sent = (section: Readonly<Record<string, StandardSchema>>) =>
      Object.entries(section).map(([pattern, input]) => routeOf("message", pattern, input));
    // Presence notices, and the records of durable streams.
    const builtIn = [PRESENCE_PREFIX, STREAM_PREFIX].map((prefix) => {
      const pattern = prefix + "{topic}";
      return [pattern, { pattern, kind: "message" }] as const;
    });
    this.#routers = {
      server: new ContractRouter([...sent(toServer), ...asked], VERB),
      client: new ContractRouter([
        ...builtIn,
        ...sent(toClient),
        ...asked,
      ], VERB),
      presence: new ContractRouter(sent(presence), VERB),
    };
    this.#states = new TopicRouter(Object.entries(state).map(stateRouteOf), VERB);
    this.definition = Object.freeze({ ...definition });
    Object.freeze(this);
  }

  /**
   * This method is looked up by name, so that a contract works even if a bundle contains two copies
   * of Skein.
   */
  router(side: Side | "presence"): ContractRouter {
    return this.#routers[side];
  }

  /** Looked up by name too. */
  stateRouter(): TopicRouter<StateRoute> {
    return this.#states;
  }
}

function stateRouteOf(
  [pattern, entry]: [pattern: string, entry: StateCollections | StateDefinition],
): [pattern: string, route: StateRoute] {
  const { collections: first } = Object(entry);
  const isShort = !first || isSchema(first) || isSchema(first.schema);
  const long = (isShort ? { collections: entry } : entry) as StateDefinition;
  checkMembers(`"${pattern}"`, long, "collections, version, mutations, writes");
  const { collections, version = 1, mutations, writes } = long;
  const all = Object.entries(Object(collections) as StateCollections).map(([name, entry]) => {
    if (isSchema(entry)) return [name, { schema: entry }] as const;
    checkMembers(`"${name}" of "${pattern}"`, entry, "schema, ephemeral");
    return [name, entry] as const;
  });
  // The prefix is `HIDDEN_PREFIX`, whose module pages load late.
  const isValid = all[0] &&
    all.every(([name, entry]) => name && !/^\$skein/.test(name) && isSchema(entry?.schema)) &&
    version > 0 && Number.isSafeInteger(version);
  if (!isValid) {
    reject("a state must have collections, each with a name and a schema, and a version", pattern);
  }
  return [pattern, { collections: new Map(all), version, mutations, writes }];
}

function routeOf(
  kind: ContractRoute["kind"],
  pattern: string,
  input: StandardSchema | undefined,
  { output, stream, resume }: Partial<Pick<ContractRoute, "output" | "stream" | "resume">> = {},
): [pattern: string, route: ContractRoute] {
  const prefix = [PRESENCE_PREFIX, STREAM_PREFIX].find((prefix) => pattern.startsWith(prefix));
  if (prefix) reject(`topics under ${prefix} are built in`, pattern);
  const isRequest = kind === "request";
  for (const schema of isRequest ? [input, stream ?? output] : [input]) {
    if (!isSchema(schema)) {
      const rule = isRequest ? "an input schema, and an output or a stream schema" : "a schema";
      reject(`a ${kind} topic must have ${rule}`, pattern);
    }
  }
  if (stream && output) reject("a request must have either output or stream", pattern);
  if (resume && !stream) reject("resume needs a stream schema", pattern);
  const route = { pattern, input, output, kind };
  return [pattern, stream ? { ...route, stream, resume: !!resume } : route];
}

function isSchema(schema: unknown): schema is StandardSchema {
  return typeof (schema as StandardSchema | undefined)?.["~standard"]?.validate === "function";
}

/** Detects misspelt members, which TypeScript accepts because the definition's type is inferred. */
function checkMembers(of: string, entry: object, names: string): void {
  for (const name in entry) {
    if (!names.split(", ").includes(name)) reject(`the members of ${of} are ${names}`, name);
  }
}

function reject(rule: string, received: unknown): never {
  throw new TypeError(`Cannot ${VERB}: ${rule}, received ${JSON.stringify(received)}`);
}
