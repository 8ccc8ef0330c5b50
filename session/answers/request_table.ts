/** The handlers of requests, by pattern. */
import { RequestError } from "../../errors.ts";
import type { Contract, ContractRoute } from "../contract.ts";
import {
  isAsyncIterable,
  type Message,
  type MessageMatch,
  type UntypedMessage,
} from "../message.ts";
import type { SessionFace } from "../types.ts";
import { describe } from "../wire/envelope.ts";
import type { TopicRouter } from "../wire/topic_pattern.ts";

/** A handler without the types of its contract. */
interface ErasedHandler {
  /** Makes the answer. */
  readonly answer: (message: UntypedMessage, session: SessionFace) => unknown;
  /** Makes the rest of an answer that lost its node, see `ResumableHandler`. */
  readonly resume?: (
    input: Pick<UntypedMessage, "data" | "params" | "pattern" | "topic">,
    progress: { readonly written: readonly unknown[]; readonly signal: AbortSignal },
  ) => AsyncIterable<unknown>;
}

/** The entry of a handler: where the handler belongs, and how the answer is given. */
export interface RequestRoute extends ErasedHandler {
  /** The pattern of the handler. */
  readonly pattern: string;
  /** True if the answer must stream; `undefined` without a contract, where either is allowed. */
  readonly streams: boolean | undefined;
  /** True if the answer may outlive the connection of its caller. */
  readonly isResumable: boolean;
}

/** Options of either end that decide about requests. */
interface RequestOptions {
  /** The contract. */
  readonly contract?: Contract | undefined;
  /** The handler of other messages. */
  readonly onMessage?: object | undefined;
  /** The handlers of requests by pattern. */
  readonly requests?: Readonly<Record<string, unknown>> | undefined;
}

/** Handles a message. */
type MessageHandler = (message: Message, session: SessionFace) => void | Promise<void>;

const VERB = "create session";

/** The handlers of requests, checked. */
export class RequestTable {
  readonly #routes: ReadonlyMap<string, RequestRoute>;
  readonly #hasOnMessage: boolean;
  readonly #router: Pick<TopicRouter<RequestRoute>, "match"> | undefined;

  /**
   * Checks the handlers.
   *
   * @param options The handlers, and the contract if there is one.
   * @param route Makes the router of patterns without a contract. Absent on a client, which then has
   * topics without parameters: a page does not load the router.
   * @throws {TypeError} If a handler is neither a function nor an object with `answer`, if the
   * contract has no such request, or if patterns overlap.
   */
  constructor(
    { contract, onMessage, requests }: RequestOptions,
    route?: (routes: readonly (readonly [string, RequestRoute])[]) => TopicRouter<RequestRoute>,
  ) {
    const routes = Object.entries(requests ?? {}).filter(([, handler]) => handler !== undefined)
      .map(
        ([pattern, handler]) =>
          [pattern, routeOf(pattern, handler, contract?.definition.requests ?? contract)] as const,
      );
    this.#routes = new Map(routes);
    this.#hasOnMessage = onMessage !== undefined;
    if (contract !== undefined) return;
    this.#router = route?.(routes);
    const pattern = route === undefined && routes.find(([topic]) => topic.includes("{"))?.[0];
    if (pattern) {
      const rule = "parameters in requests of a client need a contract";
      throw new TypeError(`Cannot ${VERB}: ${rule}, received "${pattern}"`);
    }
  }

  /** Finds the entry of a topic without a contract. */
  match(topic: string): MessageMatch | undefined {
    if (this.#router !== undefined) return this.#router.match(topic);
    return this.#routes.has(topic) ? { pattern: topic, params: {} } : undefined;
  }

  /**
   * Finds the handler of a request, whose result becomes the reply.
   *
   * @returns The handler; `undefined` for a message, and for a request that `onMessage` handles.
   */
  handlerOf(message: Message): MessageHandler | undefined {
    if (!message.isRequest) return undefined;
    const route = this.#routes.get(message.pattern!);
    if (route !== undefined) return (_message, session) => answer(route, message, session);
    return this.#hasOnMessage ? undefined : () => {
      const text = `No handler of requests fits "${message.topic}"`;
      throw new RequestError("unanswered", text);
    };
  }
}

/** Calls a handler, and replies with the result. */
function answer(route: RequestRoute, message: Message, session: SessionFace): void | Promise<void> {
  const result = route.answer(message, session) as Partial<Promise<unknown>> | null;
  if (typeof result?.then !== "function") return reply(route, message, result);
  return (result as Promise<unknown>).then((data) => reply(route, message, data));
}

/** Replies to a request by the result of its handler. */
function reply({ pattern, streams }: RequestRoute, message: Message, data: unknown): void {
  if (streams !== undefined && streams !== isAsyncIterable(data)) {
    const expected = streams ? "an async iterable" : "a value";
    throw new TypeError(
      `Cannot answer "${message.topic}": the contract has ${expected} for "${pattern}", received ${
        describe(data)
      }`,
    );
  }
  message.reply(data);
}

function routeOf(pattern: string, handler: unknown, known: object | undefined): RequestRoute {
  const place = `requests["${pattern}"]`;
  const route = (known as Readonly<Record<string, Partial<ContractRoute>>> | undefined)?.[pattern];
  if (known !== undefined && route === undefined) {
    throw new TypeError(`Cannot ${VERB}: the contract has no request for ${place}`);
  }
  const streams = route && route.stream !== undefined;
  if (typeof handler === "function") {
    const answer = handler as ErasedHandler["answer"];
    return { pattern, answer, streams, isResumable: route?.resume === true };
  }
  const { answer, resume } = Object(handler) as Partial<ErasedHandler>;
  if (typeof answer !== "function" || !["undefined", "function"].includes(typeof resume)) {
    throw new TypeError(
      `Cannot ${VERB}: ${place} must be a function, or an object with the function answer, received ${typeof handler}`,
    );
  }
  if (route && route.resume !== true) {
    throw new TypeError(
      `Cannot ${VERB}: ${place} is an object, which needs resume in the contract`,
    );
  }
  return { pattern, answer, ...(resume && { resume }), streams, isResumable: true };
}
