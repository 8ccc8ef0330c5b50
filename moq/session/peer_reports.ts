/** Measurements of the network path that both sides exchange: SESSION_UPDATE, or PROBE. */
import { ProtocolError } from "../../errors.ts";
import { within } from "../../base/wait.ts";
import { LatestValue } from "../track/loops.ts";
import {
  BidiType,
  decodeProbe,
  decodeSessionUpdate,
  encodeProbe,
  encodeSessionUpdate,
} from "../wire/messages.ts";
import { BitrateMonitor, type BitrateMonitorOptions } from "./bitrate_monitor.ts";
import type { PeerUpdate } from "./bitrate_monitor.ts";
import { codeOf, isViolation, moqErrorOf, type SessionContext, unsupported } from "./context.ts";
import { type Exchange, openExchange } from "./exchange.ts";

/** Bits per unit of gomoqt's SESSION_UPDATE, which counts kilobits; moq-lite's counts bits. */
const GOMOQT_UNIT = 1_000;

const MAX_PROBES = 16;

/**
 * The time after the end of the session stream in which gomoqt may still send the reason, in
 * milliseconds.
 */
const END_GRACE_MS = 250;

const NO_MESSAGE = new Uint8Array(0);

const UNKNOWN: PeerUpdate = { bitrate: undefined, rttMs: undefined };
const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined };

/** The reports of a session, in both directions. */
export class PeerReports {
  readonly #context: SessionContext;
  readonly #exchange: Exchange | undefined;
  readonly #probes = new Set<Exchange>();
  readonly #reports = new LatestValue(UNKNOWN);
  readonly #monitor: BitrateMonitor | undefined;
  #sent: PeerUpdate | undefined = undefined;
  #loops = 0;
  #probing: AbortController | undefined = undefined;

  /**
   * Starts to read SESSION_UPDATE from the setup stream, if the version has one.
   *
   * @param bitrate How to measure the outgoing bitrate. Without options, probes are handled, and
   * SESSION_UPDATE is not sent, because no peer requests it. With `false`, neither is sent.
   */
  constructor(
    context: SessionContext,
    exchange: Exchange | undefined,
    bitrate?: BitrateMonitorOptions | false,
  ) {
    this.#context = context;
    this.#exchange = exchange;
    this.#monitor = bitrate === false
      ? undefined
      : new BitrateMonitor(context.connection, (update) => this.report(update), {
        runtime: context.runtime,
        ...bitrate,
      });
    if (exchange === undefined) return;
    if (bitrate) this.#monitor?.start();
    void this.#readUpdates(exchange);
  }

  /** The last report of the peer. */
  get latest(): PeerUpdate {
    return this.#reports.latest;
  }

  /** Closes with the session. */
  end(): void {
    this.#monitor?.stop();
    this.#probes.clear();
    this.#reports.end();
  }

  /** Reports of the peer, from now on. */
  updated(): AsyncIterable<PeerUpdate> {
    // Versions with PROBE report only on request. One probe serves all loops.
    return this.#reports.loop({
      onBegin: () => {
        if (this.#loops++ === 0 && this.#context.traits.requests) void this.#probeForLoops();
      },
      onEnd: () => {
        if (--this.#loops === 0) this.#probing?.abort();
      },
    });
  }

  /** Requests measurements from the peer. */
  probe(
    options: {
      readonly targetBitrate?: number | undefined;
      readonly signal?: AbortSignal | undefined;
    },
  ): AsyncIterable<PeerUpdate> {
    return { [Symbol.asyncIterator]: () => this.#probe(options) };
  }

  #probe(
    { targetBitrate, signal }: { readonly targetBitrate?: number; readonly signal?: AbortSignal },
  ): AsyncIterableIterator<PeerUpdate> {
    const context = this.#context;
    const left = new AbortController();
    let exchange: Promise<Exchange> | undefined;
    const leave = () => {
      if (left.signal.aborted) return;
      left.abort();
      signal?.removeEventListener("abort", leave);
      exchange?.then((open) => open.leave(codeOf(context, "probe", "cancelled")), () => {});
    };
    const open = () => {
      if (!context.traits.requests) throw unsupported(context, "probe");
      signal?.throwIfAborted();
      signal?.addEventListener("abort", leave, { once: true });
      // In moq-rs, the request is an empty stream: moq-rs rejects a probe with a target.
      const hasTarget = targetBitrate !== undefined && context.family === "gomoqt";
      const message = hasTarget
        ? encodeProbe({ bitrate: targetBitrate, rttMs: undefined })
        : NO_MESSAGE;
      return openExchange(context, BidiType.probe, { message, signal: left.signal });
    };
    const read = async (): Promise<IteratorResult<PeerUpdate, undefined>> => {
      if (left.signal.aborted) return DONE;
      try {
        const { reader } = await (exchange ??= open());
        const body = await reader.message();
        if (body !== undefined && !left.signal.aborted) {
          const value = decodeProbe(body);
          this.#reports.set(value);
          return { done: false, value };
        }
      } catch (error) {
        const isEnd = left.signal.aborted || context.signal.aborted && exchange !== undefined;
        leave();
        if (isViolation(error)) context.violated(error);
        if (!isEnd) throw moqErrorOf(context, "probe", error);
      }
      leave();
      return DONE;
    };
    /** Each read waits for the previous one: concurrent reads would split a message. */
    let last: Promise<unknown> = Promise.resolve();
    const iterator: AsyncIterableIterator<PeerUpdate> = {
      next: () => {
        const reading = last.then(read, read);
        last = reading;
        return reading;
      },
      return: () => {
        leave();
        return Promise.resolve(DONE);
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  /** Sends a report to the peer. */
  report(update: PeerUpdate): void {
    if (this.#exchange !== undefined) {
      if (update.bitrate === undefined) return;
      const isGomoqt = this.#context.traits.setup === "session";
      const bitrate = Math.round(update.bitrate / (isGomoqt ? GOMOQT_UNIT : 1));
      if (!this.#exchange.isPosting) this.#exchange.post(encodeSessionUpdate(bitrate));
      return;
    }
    const message = encodeProbe(update);
    this.#sent = update;
    // Skip a peer that has not read the last report yet.
    for (const probe of this.#probes) if (!probe.isPosting) probe.post(message);
  }

  /** Serves a probe of the peer until the peer leaves. */
  async serve(exchange: Exchange): Promise<void> {
    const rejection = this.#probes.size >= MAX_PROBES ? "sessionLimit" : exchange.rejection;
    if (rejection !== undefined) return exchange.abort(codeOf(this.#context, "probe", rejection));
    this.#probes.add(exchange);
    this.#monitor?.start();
    try {
      if (this.#sent !== undefined) exchange.post(encodeProbe(this.#sent));
      for (let body; (body = await exchange.reader.message()) !== undefined;) decodeProbe(body);
      await exchange.end();
    } finally {
      this.#probes.delete(exchange);
      if (this.#probes.size === 0 && this.#monitor?.isRunning) {
        this.#monitor.stop();
        // The next probe must not receive an outdated measurement.
        this.#sent = undefined;
      }
    }
  }

  async #readUpdates(exchange: Exchange): Promise<void> {
    const context = this.#context;
    const isGomoqt = context.traits.setup === "session";
    try {
      for (let body; (body = await exchange.reader.message()) !== undefined;) {
        const bitrate = decodeSessionUpdate(body) * (isGomoqt ? GOMOQT_UNIT : 1);
        this.#reports.set({ bitrate, rttMs: undefined });
      }
      // A gomoqt session lives as long as this stream.
      if (isGomoqt) await this.#endSoon();
    } catch (error) {
      if (isViolation(error)) context.violated(error);
      else if (isGomoqt) await this.#endSoon();
    }
  }

  /** Closes the session, unless the peer first closes the connection with a reason. */
  async #endSoon(): Promise<void> {
    const { closed, runtime } = this.#context;
    try {
      await within(runtime, closed, { timeoutMs: END_GRACE_MS });
    } catch {
      this.#context.violated(
        new ProtocolError("Expected the session stream to stay open, received its end"),
      );
    }
  }

  async #probeForLoops(): Promise<void> {
    const { signal } = this.#probing = new AbortController();
    try {
      for await (const _ of this.probe({ signal }));
    } catch {
      // A peer that cannot measure sends no reports.
    }
  }
}
