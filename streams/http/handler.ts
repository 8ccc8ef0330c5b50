/** Durable streams over HTTP without a session server. */
import { ClientStreams } from "./client_streams.ts";
import { StreamRequests } from "./http.ts";
import {
  boundsOf,
  checkKeepsLogs,
  DURABLE_STREAMS,
  type DurableStreamsOptions,
  streamSettings,
} from "../options.ts";
import { reportRequest } from "../../server/broker_services.ts";
import { RequestGate } from "../../server/http/gate.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { Decisions } from "../../pubsub/decisions.ts";
import { StreamLogs } from "../logs/stream_logs.ts";
import { attempt } from "../../base/call_safely.ts";
import { checkedAddress } from "../../base/decision.ts";
import { ConsoleReport } from "../../base/console_report.ts";
import {
  BROKER,
  checkGiven,
  checkOptions,
  listOf,
  RUNTIME,
} from "../../base/options/option_checks.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { proxyRule } from "../../base/quotas/accounts.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import type { HttpStats } from "../../server/metrics/measures.ts";
import { peerAddress, type RequestInfo } from "../../transport/address.ts";
import type { OriginRules } from "../../transport/origins.ts";

/** Options for {@linkcode DurableStreamsHandler}. */
export interface DurableStreamsHandlerOptions extends DurableStreamsOptions, OriginRules {
  /** Path of the streams; see {@linkcode DurableStreamsOptions.path}. */
  readonly path: string;
  /** Stores the streams. The handler does not close it. */
  readonly broker: Broker;
  /**
   * Returns the network address of a client, for limits per address; behind a proxy, read it from a
   * header. By default the address of the connection, if the HTTP server passes it.
   */
  readonly clientAddress?:
    | ((request: Request, info: RequestInfo) => string | undefined)
    | undefined;
  /** Receives errors that are not sent to the client. By default they are printed. */
  readonly onError?: ((error: unknown) => void) | undefined;
  /** Clocks, timers and randomness; by default the platform's. */
  readonly runtime?: Runtime | undefined;
}

const OPTIONS: OptionKinds<DurableStreamsHandlerOptions> = {
  ...DURABLE_STREAMS,
  broker: BROKER,
  clientAddress: "function",
  hosts: listOf("string"),
  onError: "function",
  origins: listOf("string"),
  runtime: RUNTIME,
};

/**
 * A handler of requests for durable streams, for any HTTP server that passes a `Request`:
 * `Deno.serve`, Hono, oak. There are no sessions; session servers on the same broker share the
 * streams.
 *
 * The `user` that `authorize` receives is `undefined`. Identify the user from the request, which
 * `authorize` also receives.
 *
 * @example In `Deno.serve`
 * ```ts
 * import { DurableStreamsHandler } from "@skein/skein/streams";
 * import { MemoryBroker } from "@skein/skein/pubsub";
 * import { assertEquals } from "@std/assert";
 *
 * await using broker = new MemoryBroker();
 * await using streams = new DurableStreamsHandler({
 *   broker,
 *   path: "/streams",
 *   authorize: ({ request, action }) =>
 *     action === "read" || request.headers.get("authorization") === "Bearer s3cret",
 * });
 * await using http = Deno.serve({ port: 0, onListen() {} }, streams.fetch);
 *
 * const url = `http://localhost:${http.addr.port}/streams/greeting`;
 * const headers = { "content-type": "text/plain", authorization: "Bearer s3cret" };
 * const created = await fetch(url, { method: "PUT", headers, body: "hello" });
 * assertEquals([created.status, await created.text()], [201, ""]);
 * assertEquals(await (await fetch(url)).text(), "hello");
 * ```
 */
export class DurableStreamsHandler implements AsyncDisposable {
  readonly #gate = new RequestGate();
  readonly #requests: StreamRequests;
  readonly #logs: StreamLogs;

  /**
   * Creates a handler.
   *
   * @param options See {@linkcode DurableStreamsHandlerOptions}.
   * @throws {TypeError} If a key of the options is unknown, an option is invalid, or the broker
   * keeps no logs.
   * @throws {RangeError} If a number is out of range.
   */
  constructor(options: DurableStreamsHandlerOptions) {
    const verb = "create DurableStreamsHandler";
    checkOptions(verb, options, OPTIONS);
    checkGiven(options.path, "string", { verb, path: "path" });
    checkGiven(options.broker, "Broker", { verb, path: "broker" });
    checkKeepsLogs(verb, options.broker);
    const settings = streamSettings(options);
    const { path, broker, clientAddress, onError, origins, hosts } = options;
    const runtime = options.runtime ?? platformRuntime();
    const console = new ConsoleReport(runtime);
    const report = (what: string, error: unknown) => {
      if (onError === undefined) return reportRequest(console, what, error);
      attempt(() => onError(error), (failure) => {
        console.failed("onError", failure);
        reportRequest(console, what, error);
      });
    };
    const quotas = new Quotas(runtime, { isProxy: proxyRule(clientAddress) });
    this.#logs = new StreamLogs({
      runtime,
      broker,
      bounds: boundsOf(settings),
      quotas,
      onError: (error) => report("The search for overdue durable streams", error),
    });
    const clientStreams = new ClientStreams({ ...settings, runtime, streams: this.#logs });
    quotas.add("durableStreams.maxStreams", clientStreams);
    this.#requests = new StreamRequests({ ...settings, path }, {
      runtime,
      gate: this.#gate,
      quotas,
      logs: this.#logs,
      clientStreams,
      origins: { origins, hosts },
      // Without a user, nothing is ever revoked.
      decisions: new Decisions(),
      identify: () => Promise.resolve(undefined),
      addressOf: (request, info) =>
        clientAddress ? checkedAddress(clientAddress(request, info)) : peerAddress(info),
      report,
    });
  }

  /** Counters of the requests. */
  get stats(): HttpStats {
    return this.#requests.stats;
  }

  /**
   * Responds to a request.
   *
   * @param request A request for a path of the streams.
   * @param info The address of the client, for limits per address.
   * @returns The response; 404 for another path. Never rejects.
   */
  readonly fetch = (request: Request, info: RequestInfo = {}): Promise<Response> =>
    this.#requests.fetch(request, info);

  /**
   * Ends all waiting reads; a request with an incomplete body receives 503. The streams and the
   * broker are not affected. Idempotent.
   */
  close(): Promise<void> {
    this.#gate.close();
    return this.#logs.close();
  }

  /** Closes the handler; called by `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
