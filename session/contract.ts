/**
 * The contract: which topics each end sends, which requests either end may
 * ask, and the schema of each. Both ends share it; the compiler checks the ends
 * against it, and the receiving end checks the data.
 *
 * @module
 */
import { RequestError, type RequestFailure } from "../errors.ts";
import { PRESENCE_PREFIX, type PresenceNotice } from "./wire/presence_notice.ts";
import {
  type InputOf,
  type OutputOf,
  type StandardSchema,
  validate,
  type Validation,
} from "./base/standard_schema.ts";
import { type RouteMatch, type TopicOf, TopicRouter } from "./base/topic_pattern.ts";
import type { Incoming } from "./incoming.ts";
import type { ContractMessage, Message, UntypedMessage } from "./message.ts";

/** Which end of a session this is. */
export type Side = "server" | "client";

/** Topics or topic patterns, each with the schema of its data. */
export type TopicSchemas = Readonly<Record<string, StandardSchema>>;

/** The two schemas of a request. */
export interface RequestSchemas {
  /** What is asked with; checked by the end that answers. */
  readonly input: StandardSchema;
  /** What is answered; checked by the end that asked. */
  readonly output: StandardSchema;
}

/** What {@linkcode defineContract} takes. */
export interface ContractDefinition {
  /** What clients send. */
  readonly toServer?: TopicSchemas;
  /** What the server sends, publications included. */
  readonly toClient?: TopicSchemas;
  /** What either end may ask the other. */
  readonly requests?: Readonly<Record<string, RequestSchemas>>;
  /**
   * With which data clients may be present, by room. The server applies the schema, once: notices
   * and `members` have what it gave, which must be a value that JSON can hold.
   */
  readonly presence?: TopicSchemas;
}

/**
 * A contract, made by {@linkcode defineContract}.
 *
 * @typeParam D The definition.
 */
export interface Contract<D extends ContractDefinition = ContractDefinition> {
  /** What was defined. Changing a section afterwards changes nothing else. */
  readonly definition: D;
}

/** Any contract, and the default where there is none: every topic, `unknown` data. */
export type AnyContract = Contract<ContractDefinition>;

/**
 * Whether `C` is {@linkcode AnyContract} itself; an empty contract is not.
 *
 * @typeParam C The contract.
 */
export type IsUntyped<C extends AnyContract> = AnyContract extends C
  ? keyof ContractDefinition extends keyof C["definition"] ? true : false
  : false;

/**
 * A section of a contract; one without topics where it is left out.
 *
 * @typeParam C The contract.
 * @typeParam K The section's name.
 */
export type SectionOf<C extends AnyContract, K extends keyof ContractDefinition> =
  IsUntyped<C> extends true ? NonNullable<ContractDefinition[K]>
    : C["definition"] extends { readonly [Key in K]: infer Found } ? Found
    : Record<never, never>;

/**
 * The schema of an entry: the entry itself, or one of a request's two.
 *
 * @typeParam E The entry.
 * @typeParam K Which of the two.
 */
export type EntrySchema<E, K extends keyof RequestSchemas> = E extends StandardSchema ? E
  : E extends { readonly [Key in K]: infer Schema extends StandardSchema } ? Schema
  : never;

/**
 * The input for a topic. For a union of topics, what fits each: an intersection,
 * which is what the inferred parameter of a union of functions is.
 *
 * @typeParam M The section.
 * @typeParam T The topic.
 */
export type InputFor<M, T extends string> = (T extends string ? {
    [P in keyof M & string]: T extends TopicOf<P>
      ? (data: InputOf<EntrySchema<M[P], "input">>) => void
      : never;
  }[keyof M & string]
  : never) extends infer Taker
  ? [Taker] extends [never] ? never : [Taker] extends [(data: infer Data) => void] ? Data : never
  : never;

/**
 * The output for a topic.
 *
 * @typeParam M The section.
 * @typeParam T The topic.
 */
export type OutputFor<M, T extends string> = T extends string ? {
    [P in keyof M & string]: T extends TopicOf<P> ? OutputOf<EntrySchema<M[P], "output">> : never;
  }[keyof M & string]
  : never;

/**
 * A type that no topic fits, in place of the topics of a section that a contract does not have: the
 * compiler's message then tells the reason.
 *
 * @typeParam Reason The reason, in words.
 */
export interface NoTopic<Reason extends string> {
  /** The reason, in words. */
  readonly reason: Reason;
}

/**
 * The topics of a section: `chat:{room}` stands for every `chat:${string}`.
 *
 * @typeParam M The section, keyed by pattern.
 * @typeParam None The type for a section without topics.
 */
export type TopicsOf<M, None = never> = {
  // A member: the compiler's messages would name an alias of the topics in their place.
  readonly any: [keyof M & string] extends [never] ? None
    : { [P in keyof M & string]: TopicOf<P> }[keyof M & string];
}["any"];

/**
 * The schemas of what one side sends.
 *
 * @typeParam C The contract.
 * @typeParam S The side that sends.
 */
export type SentBy<C extends AnyContract, S extends Side> = SectionOf<
  C,
  S extends "server" ? "toClient" : "toServer"
>;

/**
 * The topics that one side may send on; {@linkcode NoTopic} where the contract has none.
 *
 * @typeParam C The contract.
 * @typeParam S The side that sends.
 */
export type SendTopic<C extends AnyContract, S extends Side> = TopicsOf<
  SentBy<C, S>,
  string & NoTopic<`the contract has no ${S extends "server" ? "toClient" : "toServer"}`>
>;

/**
 * What one side has to send on a topic. For a union of topics, what fits each.
 *
 * @typeParam C The contract.
 * @typeParam S The side that sends.
 * @typeParam T The topic.
 */
export type SendData<C extends AnyContract, S extends Side, T extends string> = InputFor<
  SentBy<C, S>,
  T
>;

/**
 * The topics that either side may ask on; {@linkcode NoTopic} where the contract has none.
 *
 * @typeParam C The contract.
 */
export type RequestTopic<C extends AnyContract> = TopicsOf<
  SectionOf<C, "requests">,
  string & NoTopic<"the contract has no requests">
>;

/**
 * What has to be asked with on a topic. For a union of topics, what fits each.
 *
 * @typeParam C The contract.
 * @typeParam T The topic.
 */
export type RequestInput<C extends AnyContract, T extends string> = InputFor<
  SectionOf<C, "requests">,
  T
>;

/**
 * What the one who asked on a topic gets.
 *
 * @typeParam C The contract.
 * @typeParam T The topic.
 */
export type RequestOutput<C extends AnyContract, T extends string> = OutputFor<
  SectionOf<C, "requests">,
  T
>;

/**
 * The rooms in which a client may be present with data; {@linkcode NoTopic} where the contract has
 * none.
 *
 * @typeParam C The contract.
 */
export type PresenceTopic<C extends AnyContract> = TopicsOf<
  SectionOf<C, "presence">,
  string & NoTopic<"the contract has no presence">
>;

/**
 * The data with which a client may be present in a room.
 *
 * @typeParam C The contract.
 * @typeParam T The room.
 */
export type PresenceInput<C extends AnyContract, T extends string> = InputFor<
  SectionOf<C, "presence">,
  T
>;

/**
 * The data with which users are present, in any room; `unknown` where the contract does not say.
 *
 * @typeParam C The contract.
 */
export type PresenceData<C extends AnyContract> = IsUntyped<C> extends true ? unknown
  : SectionOf<C, "presence"> extends infer M ? [keyof M] extends [never] ? unknown
    : { [P in keyof M & string]: OutputOf<EntrySchema<M[P], "input">> }[keyof M & string]
  : never;

/**
 * Notice of the users in a topic, for its subscribers; part of every contract.
 *
 * @typeParam C The contract, which says with which data.
 */
export type PresenceMessage<C extends AnyContract = AnyContract> = ContractMessage<
  "presence:{topic}",
  PresenceNotice<PresenceData<C>>
>;

/**
 * The messages of a section: a union, told apart by `pattern`.
 *
 * @typeParam M The section.
 */
export type MessagesIn<M> = {
  [P in keyof M & string]: ContractMessage<
    P,
    OutputOf<EntrySchema<M[P], "input">>,
    M[P] extends RequestSchemas ? InputOf<M[P]["output"]> : unknown
  >;
}[keyof M & string];

/**
 * Every message that one side may receive: a union, told apart by `pattern`.
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
export type MessageOf<C extends AnyContract, S extends Side> = IsUntyped<C> extends true
  ? UntypedMessage
  :
    | MessagesIn<SentBy<C, S extends "server" ? "client" : "server">>
    | MessagesIn<SectionOf<C, "requests">>
    | (S extends "client" ? PresenceMessage<C> : never);

/**
 * The messages that a subscriber to a topic may get: those whose pattern the
 * topic fits.
 *
 * @typeParam C The contract.
 * @typeParam T The topic, or a union of topics.
 */
export type TopicMessage<C extends AnyContract, T extends string> = IsUntyped<C> extends true
  ? UntypedMessage
  : MessagesIn<
    {
      [P in keyof SentBy<C, "server"> & string as T extends TopicOf<P> ? P : never]: SentBy<
        C,
        "server"
      >[P];
    }
  >;

/** What a contract says of a pattern, at run time. */
export interface ContractRoute {
  /** The pattern. */
  readonly pattern: string;
  /** The schema of the data; absent for presence notices, which need none. */
  readonly input: StandardSchema | undefined;
  /** The schema of the answer, for a request. */
  readonly output: StandardSchema | undefined;
  /** Whether the topic is for messages or for requests. */
  readonly kind: "message" | "request";
}

/** What a contract says of a topic: the route's fields, and `params`. */
export type ContractMatch = RouteMatch<ContractRoute>;

/** Finds what a contract says of a topic, and checks what came; see {@linkcode compileContract}. */
export interface ContractRouter extends Pick<TopicRouter<ContractRoute>, "match"> {
  /**
   * Checks a message, or a request if it has a number, and has its session accept or refuse it.
   *
   * @ignore
   */
  check(incoming: Incoming, session: Checked): CheckedMessage;
  /**
   * Checks the answer to a request.
   *
   * @param topic The topic that was asked.
   * @param answer What came.
   * @returns The answer, as the schema gives it.
   * @throws {RequestError} If it does not fit.
   */
  checkAnswer(topic: string, answer: unknown): Promise<unknown>;
}

/**
 * Defines a contract. Give it to `serve` and to `connect`, from a module that
 * both ends import.
 *
 * Data is sent as it is and checked where it arrives, so a schema's input type is
 * what one sends and its output type is what one receives: defaults and
 * transforms are applied once, by the receiver.
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
 *   requests: { join: { input: z.string(), output: z.array(z.string()) } },
 *   presence: { "chat:{room}": z.object({ isTyping: z.boolean() }) },
 * });
 * assertThrows(
 *   () => defineContract({ toServer: { "chat:{room}": text, "chat:lobby": text } }),
 *   TypeError,
 *   "overlap",
 * );
 * ```
 *
 * @typeParam D The definition, with its patterns as literals.
 * @param definition Topics and schemas; each section may be left out.
 * @returns The contract, frozen.
 * @throws {TypeError} If a pattern is malformed or begins with `presence:`, if two
 * patterns that one side receives overlap, or if something is not a schema.
 * @throws {RangeError} If a pattern is longer than 255 bytes.
 */
export function defineContract<D extends ContractDefinition>(
  definition: D & Readonly<Record<Exclude<keyof D, keyof ContractDefinition>, never>>,
): Contract<D> {
  return new CompiledContract<D>(definition);
}

/**
 * Gives the router for what one side receives. Cheap: a contract is compiled
 * when it is defined, and all sessions share the result.
 *
 * @example Usage
 * ```ts
 * import { compileContract, defineContract } from "@skein/skein/session";
 * import { assertEquals } from "@std/assert";
 * import { z } from "zod";
 *
 * const contract = defineContract({ toServer: { "chat:{room}": z.string() } });
 * const match = compileContract(contract, "server").match("chat:lobby");
 * assertEquals(match?.pattern, "chat:{room}");
 * assertEquals(match?.params, { room: "lobby" });
 * assertEquals(compileContract(contract, "client").match("chat:lobby"), undefined);
 * ```
 *
 * @param contract The contract.
 * @param side The side that receives; or `presence`, for the rooms in which clients have data.
 * @returns The router: the topics that the other side sends, the requests, and on
 * the client the presence notices.
 * @throws {TypeError} If the contract is not one.
 */
export function compileContract(
  contract: AnyContract,
  side: Side | "presence",
): ContractRouter {
  // Asked of the contract itself: a page without one does not load what compiles them.
  const { router } = contract as Partial<CompiledContract<ContractDefinition>>;
  if (typeof router === "function") return router.call(contract, side);
  throw new TypeError(
    `Cannot use contract: it must be made by defineContract(), received ${typeof contract}`,
  );
}

const VERB = "define contract";

class Router extends TopicRouter<ContractRoute> implements ContractRouter {
  check(incoming: Incoming, session: Checked): CheckedMessage {
    return checkIncoming(this.match(incoming.topic), incoming, session);
  }

  async checkAnswer(topic: string, answer: unknown): Promise<unknown> {
    const output = this.match(topic)?.output;
    if (output === undefined) return answer;
    const outcome = await validate(output, answer);
    if (outcome.ok) return outcome.value;
    const { message, path } = outcome;
    const text = `The answer to "${topic}" does not fit the contract: ${message}`;
    throw new RequestError("invalid", text, { path });
  }
}

class CompiledContract<D extends ContractDefinition> implements Contract<D> {
  readonly definition: D;
  // Made here, since overlaps are looked for anyway; all sessions share the caches.
  readonly #routers: Readonly<Record<Side | "presence", ContractRouter>>;

  constructor(definition: D) {
    if (!definition) refuse("a definition must be an object", definition);
    const { toServer = {}, toClient = {}, requests = {}, presence = {}, ...rest } = definition;
    for (const name in rest) refuse("sections are toServer, toClient, requests and presence", name);
    const asked = Object.entries(requests).map(([pattern, entry]) =>
      routeOf("request", pattern, entry?.input, entry?.output)
    );
    const sent = (section: TopicSchemas) =>
      Object.entries(section).map(([pattern, input]) => routeOf("message", pattern, input));
    const notices = { pattern: PRESENCE_PREFIX + "{topic}", kind: "message" } as const;
    this.#routers = {
      server: new Router([...sent(toServer), ...asked], VERB),
      client: new Router([
        [notices.pattern, { ...notices, input: undefined, output: undefined }],
        ...sent(toClient),
        ...asked,
      ], VERB),
      presence: new Router(sent(presence), VERB),
    };
    this.definition = Object.freeze({ ...definition });
    Object.freeze(this);
  }

  /** By name: a contract of another copy of Skein, as bundlers may leave it, is as good. */
  router(side: Side | "presence"): ContractRouter {
    return this.#routers[side];
  }
}

function routeOf(
  kind: ContractRoute["kind"],
  pattern: string,
  input: StandardSchema | undefined,
  output?: StandardSchema,
): [pattern: string, route: ContractRoute] {
  if (pattern.startsWith(PRESENCE_PREFIX)) {
    refuse(`topics under ${PRESENCE_PREFIX} are built in`, pattern);
  }
  for (const schema of kind === "request" ? [input, output] : [input]) {
    if (typeof schema?.["~standard"]?.validate !== "function") {
      const rule = kind === "request" ? "an input and an output schema" : "a schema";
      refuse(`a ${kind} topic must have ${rule}`, pattern);
    }
  }
  return [pattern, { pattern, input, output, kind }];
}

function refuse(rule: string, received: unknown): never {
  throw new TypeError(`Cannot ${VERB}: ${rule}, received ${JSON.stringify(received)}`);
}

/** A session, as its contract meets it. */
export interface Checked {
  /** What takes the message that fits. */
  readonly inbound: {
    accept(incoming: Incoming, match: ContractMatch | undefined): Message;
    countInvalid(what: string): void;
  };
  /** Sends an answer that is a failure; `null` answers a message without id. */
  fail(id: number | null, failure: RequestFailure): void;
  /** Reports a failed schema to the application. */
  handlerFailed(error: unknown, reason: string): void;
}

/** What is left of a message that was checked; `undefined` if it was refused. */
export type CheckedMessage = Message | undefined | Promise<Message | undefined>;

/**
 * Checks a message, and has its session accept or refuse it.
 *
 * @param match What the contract has for its topic.
 * @param incoming What came.
 * @param session The session.
 * @returns The message; later, where the schema takes its time.
 */
function checkIncoming(
  match: ContractMatch | undefined,
  incoming: Incoming,
  session: Checked,
): CheckedMessage {
  const { topic, data, id } = incoming;
  const refuse = (failure: RequestFailure): undefined => {
    session.fail(id ?? null, failure);
    session.inbound.countInvalid(failure.message);
  };
  const schemaFailed = (error: unknown): undefined => {
    session.fail(id ?? null, { code: "failed", message: "The schema failed" });
    session.handlerFailed(error, "The schema failed");
  };
  if (match === undefined) {
    const message = `No message of the contract fits the topic "${topic}"`;
    return refuse({ code: "unknown-topic", message });
  }
  if (match.kind === "request" && id === undefined) {
    return refuse({ code: "invalid", message: `"${topic}" is a request: it needs an id` });
  }
  if (match.input === undefined) return session.inbound.accept(incoming, match);
  const judged = (outcome: Validation<unknown>): Message | undefined => {
    if (outcome.ok) return session.inbound.accept({ ...incoming, data: outcome.value }, match);
    const { message, path } = outcome;
    return refuse({ code: "invalid", message, path });
  };
  let outcome: Validation<unknown> | Promise<Validation<unknown>>;
  try {
    outcome = validate(match.input, data);
  } catch (error) {
    return schemaFailed(error);
  }
  return outcome instanceof Promise ? outcome.then(judged, schemaFailed) : judged(outcome);
}
