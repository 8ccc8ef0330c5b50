/** Request handlers by pattern. */
import { RequestError } from "../../errors.ts";
import type { Contract, ContractRoute, Side } from "../contract.ts";
import {
  type IncomingMessage,
  isAsyncIterable,
  type Message,
  type MessageMatch,
  noHandler,
  type UntypedMessage,
} from "../message.ts";
import type { SessionLike } from "../types.ts";
import { describe } from "../../base/error_text.ts";
import type { TopicRouter } from "../wire/topic_pattern.ts";

interface ErasedHandler {
  /** Produces the response. */
  readonly handle: (message: UntypedMessage, session: SessionLike) => unknown;
  /** Produces the rest of a response after its node was lost. See `ResumableHandler`. */
  readonly resume?: (
    input: Pick<UntypedMessage, "data" | "params" | "pattern" | "topic"> & {
      readonly user: string | undefined;
    },
    progress: {
      readonly written: readonly unknown[];
      readonly count: number;
      readonly signal: AbortSignal;
    },
  ) => AsyncIterable<unknown>;
  /** Returns the feature of the server that stores the responses. */
  readonly resumable?: () => unknown;
  /** Cost of a request; see `CostlyHandler`. */
  readonly cost?: number;
}

/** A handler with its pattern, and the kind of its response. */
export interface RequestRoute extends ErasedHandler {
  /** The pattern of the handler. */
  readonly pattern: string;
  /**
   * True if the response must stream, false if it must not; `undefined` without a contract, because
   * then both are allowed.
   */
  readonly streams: boolean | undefined;
  /** True if the response may be resumable. */
  readonly isResumable: boolean;
  /** Cost of a request. */
  readonly cost: number;
}

/** A request with a resumable response, which outlives the session. */
export interface ResumableRequest {
  /** The request, for the reply. */
  readonly message: Message;
  /** Name of the response, chosen by the caller. */
  readonly name: string;
  /**
   * True if the caller has already received a part of the response, so that no new one may start.
   */
  readonly begun: true | undefined;
  /** Data of the request, as received. */
  readonly input: unknown;
  /** Cost of the start of the response. */
  readonly cost: number;
  /** Calls the handler with the response's signal. `undefined` if the response is not resumable. */
  readonly make: ((signal: AbortSignal) => Promise<AsyncIterable<unknown>>) | undefined;
}

/** Starts a resumable response unless it has started already, and replies. */
export type StoreResponse = (request: ResumableRequest, session: SessionLike) => Promise<void>;

/**
 * Counts a request that costs something.
 *
 * @returns The slot of a running response, if the handler is resumable.
 * @throws {RequestError} With the code `too-many` if a rate or a limit is reached.
 */
export type CountRequest = (
  request: Pick<RequestRoute, "cost" | "isResumable"> & { readonly topic: string },
  session: SessionLike,
) => Disposable | undefined;

/** The services of a server that the handlers of requests need. */
export interface HandlerServices {
  /** Starts a resumable response unless it has started already, and replies. */
  readonly storeResponse?: StoreResponse | undefined;
  readonly countRequest?: CountRequest | undefined;
}

interface RequestSettings {
  readonly side: Side;
  readonly handlers: {
    readonly contract?: Contract | undefined;
    /** Handler of other messages. */
    readonly onMessage?: MessageHandler | undefined;
    /** The handlers of requests by pattern. */
    readonly requests?: Readonly<Record<string, unknown>> | undefined;
  };
  /** The services of a server, which keep resumable responses. They are set after the settings. */
  readonly services?: { readonly services: HandlerServices } | undefined;
}

type MessageHandler = (message: Message, session: SessionLike) => void | Promise<void>;

const VERB = "handle requests";

/** The checked request handlers. */
export class RequestTable {
  readonly #routes: ReadonlyMap<string, RequestRoute>;
  readonly #onMessage: MessageHandler | undefined;
  readonly #router: Pick<TopicRouter<RequestRoute>, "match"> | undefined;
  readonly #settings: RequestSettings;

  /**
   * Checks the handlers.
   *
   * @param settings The handlers, and the contract if there is one.
   * @param route Creates the router for patterns without a contract. Omitted on a client:
   * its topics have no parameters, so pages do not load the router.
   * @throws {TypeError} If a handler is neither a function nor a resumable handler, if the
   * contract does not contain the request, or if patterns overlap.
   */
  constructor(
    settings: RequestSettings,
    route?: (routes: readonly (readonly [string, RequestRoute])[]) => TopicRouter<RequestRoute>,
  ) {
    const { contract, onMessage, requests } = settings.handlers;
    const routes = Object.entries(requests ?? {}).filter(([, handler]) => handler !== undefined)
      .map(
        ([pattern, handler]) =>
          [pattern, routeOf(pattern, handler, contract?.definition.requests ?? contract)] as const,
      );
    this.#routes = new Map(routes);
    this.#onMessage = onMessage;
    this.#settings = settings;
    if (contract !== undefined) return;
    this.#router = route?.(routes);
    const pattern = route === undefined && routes.find(([topic]) => topic.includes("{"))?.[0];
    if (pattern) {
      const rule = "parameters in requests of a client need a contract";
      throw new TypeError(`Cannot ${VERB}: ${rule}, received "${pattern}"`);
    }
  }

  /** True if any handler can continue a response whose node was lost. */
  get canResume(): boolean {
    return this.#routes.values().some(({ resume }) => resume !== undefined);
  }

  /** Finds the function that continues the responses of a pattern. */
  resumeOf(pattern: string | undefined): ErasedHandler["resume"] {
    return this.#routes.get(pattern!)?.resume;
  }

  /** Finds the route of a topic without a contract. */
  match(topic: string): MessageMatch | undefined {
    if (this.#router !== undefined) return this.#router.match(topic);
    return this.#routes.has(topic) ? { pattern: topic, params: {} } : undefined;
  }

  /**
   * Calls the request's handler, whose result becomes the response. If there is no handler, calls
   * `onMessage`.
   *
   * @param message The request.
   * @param incoming The request as received.
   * @returns Resolves when the handler is done.
   * @throws {RequestError} If there is neither a handler nor `onMessage`, or if a server receives a
   * request for a resumable response that is not.
   */
  handle(
    message: Message,
    incoming: IncomingMessage,
    session: SessionLike,
  ): void | Promise<void> {
    const route = this.#routes.get(message.pattern!);
    const { stream: name, begun, data: input } = incoming;
    const services = this.#settings.services?.services;
    if (name !== undefined && services?.storeResponse !== undefined) {
      const make = route?.isResumable
        ? (signal: AbortSignal) => responseFor(route, { message, session, signal })
        : undefined;
      const { cost = 0 } = route ?? {};
      return services.storeResponse({ message, name, begun, input, cost, make }, session);
    }
    if (route !== undefined) {
      if (route.cost === 0 && !route.isResumable) return callHandler(route, message, session);
      const { topic } = message;
      const slot = services?.countRequest?.({ ...route, topic }, session);
      if (slot === undefined) return callHandler(route, message, session);
      return callWithSlot(route, message, { session, slot });
    }
    const onMessage = this.#onMessage;
    if (onMessage !== undefined) return onMessage(message, session);
    throw new RequestError("unanswered", noHandler(message.topic, this.#settings.side));
  }
}

function callHandler(
  route: RequestRoute,
  message: Message,
  session: SessionLike,
): void | Promise<void> {
  const result = route.handle(message, session) as Partial<Promise<unknown>> | null;
  if (typeof result?.then !== "function") return reply(route, message, result);
  return (result as Promise<unknown>).then((data) => reply(route, message, data));
}

/** Calls a handler, and holds a slot until its response has ended. */
async function callWithSlot(
  route: RequestRoute,
  message: Message,
  { session, slot }: { readonly session: SessionLike; readonly slot: Disposable },
): Promise<void> {
  let streams = false;
  try {
    const data = await route.handle(message, session);
    reply(route, message, isAsyncIterable(data) ? releasing(slot, data) : data);
    streams = isAsyncIterable(data);
  } finally {
    if (!streams) slot[Symbol.dispose]();
  }
}

/**
 * The same items; releases a slot when their iteration ends, also by a cancellation.
 *
 * @throws If the items cannot be iterated, such as a stream that another reader has locked.
 */
function releasing(slot: Disposable, items: AsyncIterable<unknown>): AsyncIterable<unknown> {
  const iterator = items[Symbol.asyncIterator]();
  const step = async (call: () => Promise<IteratorResult<unknown>> | undefined) => {
    try {
      const result = await call() ?? { done: true, value: undefined };
      if (result.done) slot[Symbol.dispose]();
      return result;
    } catch (error) {
      slot[Symbol.dispose]();
      throw error;
    }
  };
  const releasingIterator = {
    next: () => step(() => iterator.next()),
    return: () => step(() => iterator.return?.()),
  };
  return { [Symbol.asyncIterator]: () => releasingIterator };
}

/** Calls a handler for a resumable response, which has its own signal instead of the request's. */
async function responseFor(
  route: RequestRoute,
  { message, session, signal }: {
    readonly message: Message;
    readonly session: SessionLike;
    readonly signal: AbortSignal;
  },
): Promise<AsyncIterable<unknown>> {
  const { topic, data, pattern, params } = message;
  const items = await route.handle({
    ...{ topic, data, pattern, params, signal, from: undefined, isRequest: true },
    get isCancelled() {
      return signal.aborted;
    },
    reply: () => {
      throw new TypeError(
        `Cannot reply: the handler for "${topic}" streams; yield its items instead`,
      );
    },
  }, session);
  if (isAsyncIterable(items)) return items;
  throw mismatch(route, { topic, expected: "an async iterable", received: items });
}

function reply(route: RequestRoute, message: Message, data: unknown): void {
  const { streams } = route;
  if (streams !== undefined && streams !== isAsyncIterable(data)) {
    const expected = streams ? "an async iterable" : "a value";
    throw mismatch(route, { topic: message.topic, expected, received: data });
  }
  message.reply(data);
}

function mismatch(
  { pattern }: RequestRoute,
  { topic, expected, received }: {
    readonly topic: string;
    readonly expected: string;
    readonly received: unknown;
  },
): TypeError {
  return new TypeError(
    `Cannot reply to "${topic}": the handler for "${pattern}" must return ${expected}, received ${
      describe(received)
    }`,
  );
}

function routeOf(pattern: string, handler: unknown, known: object | undefined): RequestRoute {
  const place = `requests["${pattern}"]`;
  const route = (known as Readonly<Record<string, Partial<ContractRoute>>> | undefined)?.[pattern];
  if (known !== undefined && route === undefined) {
    throw new TypeError(`Cannot ${VERB}: the contract has no request for ${place}`);
  }
  const streams = route && route.stream !== undefined;
  if (typeof handler === "function") {
    const handle = handler as ErasedHandler["handle"];
    return { pattern, handle, streams, isResumable: false, cost: 0 };
  }
  const { handle, resume, resumable, cost } = Object(handler) as Partial<ErasedHandler>;
  const isResumable = typeof resumable === "function";
  const isHandler = typeof handle === "function" && (isResumable || cost !== undefined) &&
    (resume === undefined || typeof resume === "function");
  if (!isHandler) {
    throw new TypeError(
      `Cannot ${VERB}: ${place} must be a function, or an object with handle, and resumable or cost, ` +
        `received ${describe(handler)}`,
    );
  }
  if (cost !== undefined && !(Number.isFinite(cost) && cost >= 0)) {
    throw new RangeError(
      `Cannot ${VERB}: cost of ${place} must be a number of 0 or more, received ${describe(cost)}`,
    );
  }
  if (!isResumable) return { pattern, handle, streams, isResumable, cost: cost! };
  if (route && route.resume !== true) {
    throw new TypeError(
      `Cannot ${VERB}: ${place} is resumable, which needs resume in the contract`,
    );
  }
  return { pattern, handle, resume, streams, isResumable, cost: cost ?? 1 };
}
