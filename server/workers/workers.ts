/** Uses all cores of a machine: workers on one port with one broker, and their supervisor. */
import { Backoff } from "../../base/backoff.ts";
import { attempt, unawaited } from "../../base/call_safely.ts";
import { ConsoleReport } from "../../base/console_report.ts";
import {
  BROKER,
  checkOptions,
  integer,
  objectOr,
  PORT,
  POSITIVE,
  RUNTIME,
} from "../../base/options/option_checks.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import { WEB_TRANSPORT } from "../server_options.ts";
import { requireDeno } from "../../base/platform.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { pause, settlesWithin, within } from "../../base/wait.ts";
import { UnsupportedError } from "../../errors.ts";
import { DRAIN, type DrainOptions, type DrainReport } from "../../manager/drain.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { sayFarewell } from "../../pubsub/nodes/nodes.ts";
import { BrokerPorts } from "../../pubsub/ports/broker_port.ts";
import type { AnyPart } from "../../pubsub/ports/calls.ts";
import { CLOSE } from "../../session/settings/call_checks.ts";
import type { SessionCloseOptions } from "../../session/types.ts";
import { failIfUnusable } from "../broker_services.ts";
import { type Measure, mergeMeasures } from "../metrics/measures.ts";
import { exposition } from "../metrics/prometheus.ts";
import type { ServeOptions } from "../server_options.ts";
import type { ListenInfo } from "../listener/listener.ts";
import { type StartThread, WorkerThread } from "./thread.ts";
import type { ListeningFacts, MainQuestions, QuestionHandlers, UdpFacts } from "./thread_calls.ts";

/** Longest delay before the first replacement of a worker, in milliseconds. */
const FIRST_DELAY_MS = 200;

/** Longest delay before any replacement, in milliseconds. */
const MAX_DELAY_MS = 30_000;

/** Time after which a listening worker is considered healthy and its restart delays start over. */
const SOUND_MS = 60_000;

/** Default time without a response after which a worker is considered hung, in milliseconds. */
const SILENT_MS = 10_000;

/**
 * Time after which a worker that has not begun to listen is considered hung, in milliseconds. A
 * busy machine may take many seconds to load a module, and the worker may first open a database.
 */
const START_MS = 120_000;

/** Longest wait for a worker's metrics and health, in milliseconds. */
const FIGURES_MS = 2_000;

/** Longest wait for a worker to close its sessions, in milliseconds. */
const CLOSE_MS = 10_000;

/** Maximum number of workers; no current machine has as many cores. */
const MAX_WORKERS = 1_024;

/** Options for {@linkcode serveWorkers}. The module sets the options of each server. */
export interface WorkersOptions
  extends Pick<ServeOptions, "hostname" | "onListen" | "port" | "signal" | "tls" | "webTransport"> {
  /**
   * Number of workers. More than one requires Linux, whose kernel shares a port among listeners.
   *
   * @default {the number of cores; 1 on other systems than Linux}
   */
  readonly workers?: number | undefined;
  /** Value for every worker, which receives a clone as `data` of its {@linkcode WorkerNode}. */
  readonly data?: unknown;
  /**
   * Broker of the workers, such as a `RedisBroker` that other processes also use. It is not closed.
   *
   * @default {a `MemoryBroker` that lasts as long as the process}
   */
  readonly broker?: Broker | undefined;
  /**
   * Heap limit of one worker, in MiB. A worker that exceeds the limit ends and is replaced.
   *
   * @default {that of the process}
   */
  readonly maxHeapMb?: number | undefined;
  /**
   * Time without a response after which a worker is considered hung and is replaced, in
   * milliseconds. While a worker starts, the limit is two minutes.
   *
   * @default {10000}
   */
  readonly silentMs?: number | undefined;
  /**
   * Called when a worker ends unexpectedly. Its replacement starts after `restartMs`.
   *
   * @default {prints the error}
   */
  readonly onWorkerEnd?:
    | ((
      end: { readonly index: number; readonly error: Error; readonly restartMs: number },
    ) => void)
    | undefined;
  /**
   * Clocks, timers and randomness of the main thread.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
}

const OPTIONS: OptionKinds<WorkersOptions> = {
  broker: BROKER,
  data: 0,
  hostname: "string",
  maxHeapMb: POSITIVE,
  onListen: "function",
  onWorkerEnd: "function",
  port: PORT,
  runtime: RUNTIME,
  signal: "AbortSignal",
  silentMs: POSITIVE,
  tls: 0,
  webTransport: objectOr("boolean", WEB_TRANSPORT),
  workers: integer(1, MAX_WORKERS),
};

/** Loads the parts of brokers that features use in workers. */
export type WorkerParts = () => Promise<readonly AnyPart[]>;

/** Collaborators of {@linkcode Workers}. */
interface WorkersParts {
  /** Starts a thread; by default, as the platform does. */
  readonly startThread?: StartThread | undefined;
  readonly parts?: WorkerParts | undefined;
}

/** The slot of a worker and its replacements. */
interface WorkerSlot {
  readonly index: number;
  readonly backoff: Backoff;
  state: Workers["states"][number]["state"];
  starts: number;
  thread: WorkerThread | undefined;
  facts: ListeningFacts | undefined;
  /** True if this worker has the UDP port, or is about to take it over. */
  hasUdp: boolean;
}

/** Workers that serve together, from {@linkcode serveWorkers} to `close`. */
export class Workers implements AsyncDisposable {
  readonly #options: WorkersOptions;
  readonly #startThread: StartThread | undefined;
  readonly #module: string;
  readonly #runtime: Runtime;
  readonly #console: ConsoleReport;
  readonly #broker: Broker;
  readonly #ports: BrokerPorts;
  readonly #failing: Disposable;
  readonly #slots: readonly WorkerSlot[];
  readonly #limits: { readonly workers: number; readonly silentMs: number };
  readonly #over = new AbortController();
  #address: Deno.NetAddr | undefined;
  #isDraining = false;
  #closing: Promise<void> | undefined;

  private constructor(
    module: string,
    options: WorkersOptions,
    parts: readonly AnyPart[],
    startThread?: StartThread,
  ) {
    requireDeno("serve workers", "start a process for each core, with a broker that they share");
    const { runtime = platformRuntime(), workers = defaultWorkers() } = options;
    const { silentMs = SILENT_MS } = options;
    this.#limits = { workers, silentMs };
    if (workers > 1 && Deno.build.os !== "linux") {
      throw new UnsupportedError(
        `Cannot serve workers: workers must be 1 on ${Deno.build.os}, received ${workers}`,
      );
    }
    this.#options = options;
    this.#startThread = startThread;
    this.#module = module;
    this.#runtime = runtime;
    this.#console = new ConsoleReport(runtime);
    this.#broker = options.broker ?? new MemoryBroker({ runtime });
    this.#ports = new BrokerPorts(this.#broker, runtime, parts);
    this.#failing = failIfUnusable(this.#broker);
    this.#slots = Array.from({ length: workers }, (_, index) => ({
      index,
      backoff: new Backoff(runtime, { firstDelayMs: FIRST_DELAY_MS, maxDelayMs: MAX_DELAY_MS }),
      state: "starting",
      starts: 0,
      thread: undefined,
      facts: undefined,
      hasUdp: false,
    }));
  }

  /** Address on which all workers listen. */
  get address(): Deno.NetAddr {
    return this.#address!;
  }

  /** The URL at which a client on this machine connects. */
  get url(): string {
    return this.#slots.find(({ facts }) => facts !== undefined)?.facts?.url ?? "";
  }

  /** The WebTransport URL, which one worker serves; empty while no worker does. */
  get webTransportUrl(): string {
    return this.#slots.map(({ facts }) => facts?.webTransportUrl).find(Boolean) ?? "";
  }

  /** The workers, by number. */
  get states(): readonly {
    /** Number of the worker, starting at 0. */
    readonly index: number;
    /** State of the worker. It is `waiting` until a replacement starts. */
    readonly state: "starting" | "listening" | "waiting" | "closed";
    /** Number of starts so far: above 1, the worker was replaced. */
    readonly starts: number;
    /** True if this worker serves WebTransport. */
    readonly hasWebTransport: boolean;
  }[] {
    return this.#slots.map(({ index, state, starts, facts }) => ({
      index,
      state,
      starts,
      hasWebTransport: Boolean(facts?.webTransportUrl),
    }));
  }

  /**
   * Starts workers; called by {@linkcode serveWorkers}.
   *
   * @ignore
   * @param module Address of the module.
   * @param options See {@linkcode WorkersOptions}.
   * @param collaborators `startThread` starts a thread; by default, as the platform does. `parts`
   * loads the parts of the broker that features use.
   */
  static async start(
    module: string,
    options: WorkersOptions,
    { startThread, parts }: WorkersParts = {},
  ): Promise<Workers> {
    const workers = new Workers(module, options, await parts?.() ?? [], startThread);
    const { signal } = options;
    try {
      await within(workers.#runtime, workers.#startAll(), { signal });
    } catch (error) {
      await workers.close();
      throw error;
    }
    const close = () => void workers.close();
    // The last turn of the start may have aborted it, such as in `onListen`.
    if (signal?.aborted) close();
    signal?.addEventListener("abort", close, { once: true });
    workers.#over.signal.addEventListener("abort", () => {
      signal?.removeEventListener("abort", close);
    });
    return workers;
  }

  /**
   * Reads the metrics of all workers in the Prometheus text format. Each number has the label
   * `worker`. A worker that does not respond within two seconds is omitted.
   *
   * @returns The body of a response to a scrape.
   */
  async metrics(): Promise<string> {
    return (await this.#measures()).map(exposition).join("");
  }

  /**
   * Reads the health of all workers together.
   *
   * @returns The state, and the total number of sessions on all workers.
   */
  async health(): Promise<{
    /**
     * `ok` while at least one worker accepts new sessions, and `down` while no worker is listening.
     */
    readonly status: "ok" | "draining" | "full" | "down";
    /** Number of sessions on all workers. */
    readonly sessions: number;
  }> {
    const all = await this.#ask((slot) => slot.thread!.calls.ask("health"));
    const sessions = all.reduce((sum, [, health]) => sum + health.sessions, 0);
    if (this.#isDraining) return { status: "draining", sessions };
    const status = (["ok", "full", "draining"] as const).find((one) =>
      all.some(([, health]) => health.status === one)
    );
    return { status: status ?? "down", sessions };
  }

  /**
   * Drains all workers as `Server.drain` does, and terminates them.
   *
   * @param options The time limit, and the message to peers.
   * @returns The sums over all workers.
   */
  async drain(options: DrainOptions = {}): Promise<DrainReport> {
    checkOptions("drain", options, DRAIN);
    const { signal, ...rest } = options;
    const startedAt = this.#runtime.monotonic();
    this.#isDraining = true;
    const cut = () => void this.close();
    signal?.addEventListener("abort", cut, { once: true });
    if (signal?.aborted) cut();
    const drains = await Promise.allSettled(
      this.#listening.map(({ thread }) => thread!.calls.ask("drain", rest)),
    );
    signal?.removeEventListener("abort", cut);
    const reports = drains.flatMap((one) => one.status === "fulfilled" ? [one.value] : []);
    await this.close();
    const failed = drains.find((one) => one.status === "rejected");
    if (failed !== undefined && reports.length === 0 && !signal?.aborted) throw failed.reason;
    return {
      closed: reports.reduce((sum, { closed }) => sum + closed, 0),
      cut: reports.reduce((sum, { cut }) => sum + cut, 0),
      tookMs: this.#runtime.monotonic() - startedAt,
    };
  }

  /**
   * Closes all sessions, and terminates all workers. Idempotent.
   *
   * @param options Close code and reason for the peers.
   */
  close(options: SessionCloseOptions = {}): Promise<void> {
    checkOptions("close", options, CLOSE);
    return this.#closing ??= this.#close(options);
  }

  /** Closes the workers; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  get #listening(): readonly WorkerSlot[] {
    return this.#slots.filter(({ state }) => state === "listening");
  }

  async #startAll(): Promise<void> {
    const [first, ...others] = this.#slots;
    // The first worker chooses the port that all others share.
    await this.#start(first!);
    await Promise.all(others.map((slot) => this.#start(slot)));
    this.#announce();
  }

  /** Starts the worker of a slot. Rejects if the worker does not start to listen. */
  async #start(slot: WorkerSlot): Promise<void> {
    // A close may come between the starts of two workers.
    this.#over.signal.throwIfAborted();
    const { data, hostname, tls, webTransport = true, port = 8000, maxHeapMb } = this.#options;
    slot.state = "starting";
    slot.starts++;
    slot.hasUdp = webTransport !== false && !this.#slots.some(({ hasUdp }) => hasUdp);
    const thread = new WorkerThread({
      runtime: this.#runtime,
      startThread: this.#startThread,
      ports: this.#ports,
      maxHeapMb,
      silentMs: this.#limits.silentMs,
      handlers: this.#handlers(slot),
      init: {
        module: this.#module,
        index: slot.index,
        data,
        broker: this.#ports.facts,
        hasUdp: slot.hasUdp,
        listen: {
          port: this.#address?.port ?? port,
          hostname,
          tls,
          webTransport,
          reusePort: this.#limits.workers > 1,
        },
      },
    });
    slot.thread = thread;
    try {
      slot.facts = await within(this.#runtime, thread.calls.ask("start"), {
        late: `Worker ${slot.index} did not listen within`,
        timeoutMs: START_MS,
      });
    } catch (error) {
      await thread.terminate(error as Error);
      slot.hasUdp = false;
      // A worker that has started in the meantime left UDP to this one.
      this.#handOverUdp();
      throw error;
    }
    this.#address ??= slot.facts.address;
    slot.state = "listening";
    // The start of the worker to which this one left UDP may have failed since.
    this.#handOverUdp();
    void thread.watch();
    const startedAt = this.#runtime.monotonic();
    void thread.ended.then((error) => {
      if (this.#runtime.monotonic() - startedAt >= SOUND_MS) slot.backoff.reset();
      return this.#ended(slot, error);
    });
  }

  /** Replaces a worker that ended unexpectedly. */
  async #ended(slot: WorkerSlot, error: Error): Promise<void> {
    const { facts } = slot;
    Object.assign(slot, { state: "closed", thread: undefined, facts: undefined, hasUdp: false });
    if (this.#isEnding) return;
    // Other workers need not wait for missed heartbeats of a node that is certainly gone.
    if (facts !== undefined) sayFarewell(this.#broker, facts.node);
    this.#handOverUdp();
    for (let reason = error; !this.#isEnding;) {
      slot.state = "waiting";
      const restartMs = slot.backoff.next()!;
      this.#tell(slot.index, reason, restartMs);
      await pause(this.#runtime, restartMs, this.#over.signal);
      if (this.#isEnding) break;
      try {
        return await this.#start(slot);
      } catch (cause) {
        reason = cause as Error;
      }
    }
    slot.state = "closed";
  }

  /** True if no worker will be started again. */
  get #isEnding(): boolean {
    return this.#isDraining || this.#over.signal.aborted;
  }

  #tell(index: number, error: Error, restartMs: number): void {
    const { onWorkerEnd } = this.#options;
    if (onWorkerEnd === undefined) return this.#console.failed(`Worker ${index}`, error);
    attempt(
      () => onWorkerEnd({ index, error, restartMs }),
      (cause) => this.#console.failed("onWorkerEnd", cause),
    );
  }

  /** Makes another worker listen on UDP, or if there is none, the next worker that starts. */
  #handOverUdp(): void {
    if (this.#options.webTransport === false) return;
    if (this.#slots.some(({ hasUdp }) => hasUdp)) return;
    const [heir] = this.#listening;
    if (heir === undefined) return;
    heir.hasUdp = true;
    // If this worker ends too, its end chooses the next one.
    heir.thread!.calls.ask("takeUdp").catch(() => {});
  }

  #handlers(slot: WorkerSlot): QuestionHandlers<MainQuestions> {
    return {
      listening: (facts) => {
        slot.facts = facts;
        if (facts.webTransportUrl !== "" && this.#options.onListen !== undefined) {
          attempt(() => this.#announce(), this.#onListenFailed);
        }
      },
      udp: () => this.#udp(),
      measures: () => this.#measures(),
      health: () => this.health(),
    };
  }

  async #udp(): Promise<UdpFacts | undefined> {
    const owner = this.#listening.find(({ hasUdp }) => hasUdp);
    return await owner?.thread?.calls.ask("udp");
  }

  async #measures(): Promise<readonly Measure[]> {
    const all = await this.#ask(({ thread }) => thread!.calls.ask("measures"));
    return mergeMeasures(all);
  }

  /** Calls all listening workers, and omits workers that do not respond. */
  async #ask<T>(ask: (slot: WorkerSlot) => Promise<T>): Promise<readonly (readonly [string, T])[]> {
    const asked = this.#listening.map(async (slot) => {
      const response = await within(this.#runtime, ask(slot), { timeoutMs: FIGURES_MS });
      return [`${slot.index}`, response] as const;
    });
    const responses = await Promise.allSettled(asked);
    return responses.flatMap((one) => one.status === "fulfilled" ? [one.value] : []);
  }

  /** Calls `onListen`, or prints the address. */
  #announce(): void {
    const { onListen } = this.#options;
    const error = this.#slots.find(({ facts }) => facts?.webTransportError)?.facts
      ?.webTransportError;
    const info: ListenInfo = {
      webTransportUrl: this.webTransportUrl,
      webTransportError: error === undefined ? undefined : new Error(error),
    };
    if (onListen !== undefined) {
      return void unawaited(onListen(this.address, info), this.#onListenFailed);
    }
    const too = info.webTransportUrl === "" ? "" : `, WebTransport on ${info.webTransportUrl}`;
    // Print on stderr, as the runtime does, because stdout belongs to the program.
    // deno-lint-ignore no-console
    console.error(`${this.#limits.workers} workers listen on ${this.url}${too}`);
  }

  readonly #onListenFailed = (error: unknown) => this.#console.failed("onListen", error);

  async #close(options: SessionCloseOptions): Promise<void> {
    this.#over.abort();
    this.#failing[Symbol.dispose]();
    await Promise.all(this.#slots.map(async (slot) => {
      const { thread } = slot;
      if (thread === undefined) return;
      // A rejection means that the thread has already ended.
      const closed = thread.calls.ask("close", options).catch(() => {});
      await settlesWithin(this.#runtime, closed, CLOSE_MS);
      await thread.terminate(new Error(`Worker ${slot.index} was closed`));
      slot.state = "closed";
    }));
    if (this.#options.broker === undefined) await this.#broker.close();
  }
}

/** Only the Linux kernel shares a port among listeners. */
function defaultWorkers(): number {
  return Deno.build.os === "linux" ? navigator.hardwareConcurrency : 1;
}

/**
 * Checks the arguments of {@linkcode serveWorkers}, and starts the workers.
 *
 * @param module URL of the module that each worker loads.
 * @param options See {@linkcode WorkersOptions}.
 * @param parts See {@linkcode WorkerParts}.
 * @returns The workers, once all of them listen.
 */
export async function startWorkers(
  module: URL,
  options: WorkersOptions,
  parts: WorkerParts,
): Promise<Workers> {
  if (!(module instanceof URL)) {
    throw new TypeError(
      `Cannot serve workers: module must be a URL, such as new URL("./app.ts", import.meta.url), ` +
        `received ${typeof module}`,
    );
  }
  checkOptions("serve workers", options, OPTIONS);
  options.signal?.throwIfAborted();
  return await Workers.start(module.href, options, { parts });
}
