/** One worker: its broker, its server, and its responses to calls of the main thread. */
import { getHeapStatistics } from "node:v8";
import type { MessagePort } from "node:worker_threads";
import { textOf } from "../../base/error_text.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import type { BrokerFacts } from "../../pubsub/ports/operations.ts";
import { PortBroker } from "../../pubsub/ports/port_broker.ts";
import type { Broker } from "../../pubsub/broker.ts";
import type { Contract } from "../../session/contract.ts";
import type { RequestInfo } from "../../transport/address.ts";
import type { ListenInfo } from "../listener/listener.ts";
import { Server } from "../server.ts";
import type { ServeOptions } from "../server_options.ts";
import { isWellKnown, wellKnownResponse } from "../listener/webtransport.ts";
import {
  type ListeningFacts,
  type MainQuestions,
  type QuestionHandlers,
  ThreadCalls,
  type ThreadMessage,
  type UdpFacts,
  type WorkerQuestions,
} from "./thread_calls.ts";

/**
 * Options of `serve` that all workers share, and that {@linkcode WorkerNode.serve} does not accept.
 */
type SharedOption = Exclude<
  keyof ServeOptions,
  keyof NonNullable<Parameters<WorkerNode["serve"]>[0]>
>;

const SHARED: Readonly<Record<SharedOption, true>> = {
  broker: true,
  hostname: true,
  onListen: true,
  port: true,
  reusePort: true,
  signal: true,
  tls: true,
  webSocket: true,
  webTransport: true,
};

/**
 * One worker of {@linkcode serveWorkers}, as passed to the default function of its module.
 *
 * @example The module of a worker
 * ```ts
 * import type { WorkerNode } from "@skein/skein/server";
 *
 * export default function start({ serve }: WorkerNode) {
 *   const server = serve({
 *     authorize: () => true,
 *     onMessage: (message) => void server.publish("news", message.data),
 *   });
 * }
 * ```
 */
export interface WorkerNode {
  /** Number of the worker, starting at 0; a replacement has the same number. */
  readonly index: number;
  /** Clone of the option `data` of {@linkcode serveWorkers}. */
  readonly data: unknown;
  /** The broker of all workers; `serve` uses it automatically. */
  readonly broker: Broker;
  /** Aborts when the worker drains or closes. */
  readonly signal: AbortSignal;
  /**
   * Serves sessions on the port that all workers share. Call it once. It accepts the options of
   * `serve`, except the options that belong to `serveWorkers`. The feature `metrics()` of each worker
   * reports the metrics of all workers.
   *
   * @typeParam V Type of the values from `authenticate`.
   * @typeParam C The contract.
   * @param options Options of the server.
   * @returns The server, listening.
   * @throws {TypeError} If the worker is already serving, or if an option belongs to
   * `serveWorkers`.
   */
  serve<V = unknown, C extends Contract = Contract>(
    options?: Omit<
      ServeOptions<V, C>,
      | "broker"
      | "hostname"
      | "onListen"
      | "port"
      | "reusePort"
      | "signal"
      | "tls"
      | "webSocket"
      | "webTransport"
    >,
  ): Server<V, C>;
}

/** Key of the `workerData` of a worker that `serveWorkers` started. */
export const INIT_KEY = "skeinWorker";

/** Data that a worker starts with; cloned. */
export interface WorkerInit {
  /** Address of the module. */
  readonly module: string;
  readonly index: number;
  readonly data: unknown;
  readonly broker: BrokerFacts;
  /** Options of `serve` that all workers share. */
  readonly listen: Pick<
    ServeOptions,
    "hostname" | "port" | "reusePort" | "tls" | "webTransport"
  >;
  /** True if the worker listens on UDP from the start. */
  readonly hasUdp: boolean;
}

/** Starts a worker, which executes calls of the main thread. */
export function runWorker(port: MessagePort, init: WorkerInit): void {
  const worker = new WorkerProgram((message) => port.postMessage(message), init);
  // Batches of the broker are arrays; everything else is a call or a response.
  port.on("message", (message: ThreadMessage) => worker.take(message));
}

class WorkerProgram {
  readonly #runtime: Runtime = platformRuntime();
  readonly #init: WorkerInit;
  readonly #broker: PortBroker;
  readonly #calls: ThreadCalls<MainQuestions, WorkerQuestions>;
  readonly #ending = new AbortController();
  readonly #heapLimit = getHeapStatistics().heap_size_limit;
  readonly #udp = Promise.withResolvers<void>();
  #server: Server | undefined;
  #origins: Pick<ServeOptions, "hosts" | "origins"> = {};
  #info: ListenInfo | undefined;

  constructor(post: (message: unknown) => void, init: WorkerInit) {
    this.#init = init;
    this.#broker = new PortBroker({ runtime: this.#runtime, broker: init.broker, post });
    this.#calls = new ThreadCalls<MainQuestions, WorkerQuestions>(post, this.#handlers());
  }

  take(message: ThreadMessage): void {
    if (Array.isArray(message)) this.#broker.take(message as never);
    else this.#calls.take(message);
  }

  #handlers(): QuestionHandlers<WorkerQuestions> {
    return {
      start: () => this.#start(),
      // A full heap aborts a handler at an arbitrary point, and raises the limit afterwards.
      ping: () => ({ isExhausted: getHeapStatistics().heap_size_limit > this.#heapLimit }),
      takeUdp: () => this.#udp.resolve(),
      udp: () => this.#udpFacts(),
      measures: () => this.#server!.measures(),
      health: () => this.#server!.health(),
      drain: async (options) => {
        this.#ending.abort();
        const report = await this.#server!.drain(options);
        await this.#broker.close();
        return report;
      },
      close: async (options) => {
        this.#ending.abort();
        await this.#server?.close(options);
        await this.#broker.close();
      },
    };
  }

  async #start(): Promise<ListeningFacts> {
    const { module, index, data } = this.#init;
    const start = defaultExport(module, await load(module));
    await start({
      index,
      data,
      broker: this.#broker,
      signal: this.#ending.signal,
      serve: (options = {}) => this.#serve(options),
    });
    if (this.#server === undefined) {
      throw new TypeError(
        `Cannot serve workers: the default function of ${module} did not call serve`,
      );
    }
    return this.#facts();
  }

  #serve<V, C extends Contract>(options: Omit<ServeOptions<V, C>, SharedOption>): Server<V, C> {
    if (this.#server !== undefined) {
      throw new TypeError("Cannot serve: the worker has called serve already");
    }
    for (const [name, value] of Object.entries(options)) {
      if (!Object.hasOwn(SHARED, name) || value === undefined) continue;
      throw new TypeError(
        `Cannot serve: ${name} is an option of serveWorkers, not of a worker`,
      );
    }
    const { index, listen, hasUdp } = this.#init;
    const { hosts, origins, limits, node, ...rest } = options;
    this.#origins = { hosts, origins };
    const server = Server.listen<V, C>({
      ...rest,
      ...listen,
      ...this.#origins,
      limits,
      node: { name: `worker ${index}`, ...node },
      broker: this.#broker,
      onListen: (_, info) => this.#listens(info),
    }, {
      udpFrom: hasUdp ? undefined : this.#udp.promise,
      source: {
        measures: () => this.#calls.ask("measures"),
        health: () => this.#calls.ask("health"),
      },
      respond: (request, info) => this.#respond(request, info),
    });
    this.#server = server as unknown as Server;
    return server;
  }

  /** Responds to requests for the certificate hash of another worker. */
  #respond(request: Request, info: RequestInfo): Promise<Response> | undefined {
    const { webTransport, tls } = this.#init.listen;
    if (tls !== undefined || webTransport === false || !isWellKnown(request)) return undefined;
    if (this.#server?.webTransportUrl !== "") return undefined;
    return this.#wellKnownResponse(request, info);
  }

  /** Responds on behalf of the worker that has the UDP port. */
  async #wellKnownResponse(request: Request, info: RequestInfo): Promise<Response> {
    const facts = await this.#calls.ask("udp");
    const response = facts && wellKnownResponse(request, facts, this.#origins);
    return response ?? await this.#server!.fetch(request, info);
  }

  /** Reports changes after the start to the main thread. */
  #listens(info: ListenInfo): void {
    this.#info = info;
    if (this.#server === undefined) return;
    // The result is empty. An error means that the main thread is ending, and so this thread is
    // ending, too.
    this.#calls.ask("listening", this.#facts()).catch(() => {});
  }

  #facts(): ListeningFacts {
    const { address, url, webTransportUrl, nodes } = this.#server!;
    const { webTransportError } = this.#info ?? {};
    return {
      address: address!,
      url,
      webTransportUrl,
      node: nodes!.id,
      webTransportError: webTransportError?.message,
    };
  }

  #udpFacts(): UdpFacts | undefined {
    const { webTransportUrl, certificateHashes } = this.#server!;
    if (webTransportUrl === "") return undefined;
    const { hostname, port } = new URL(webTransportUrl);
    const address: Deno.NetAddr = {
      transport: "udp",
      // The URL has this name if the socket listens on all addresses.
      hostname: hostname === "localhost" ? "0.0.0.0" : hostname,
      port: Number(port) || 443,
    };
    return { address, hashes: certificateHashes };
  }
}

async function load(module: string): Promise<{ readonly default?: unknown }> {
  try {
    return await import(module);
  } catch (cause) {
    const message = `Cannot serve workers: ${module} did not load: ${textOf(cause)}`;
    throw new TypeError(message, { cause });
  }
}

function defaultExport(
  module: string,
  loaded: { readonly default?: unknown },
): (node: WorkerNode) => unknown {
  if (typeof loaded.default === "function") return loaded.default as never;
  throw new TypeError(
    `Cannot serve workers: the default export of ${module} must be a function, received ${typeof loaded
      .default}`,
  );
}
