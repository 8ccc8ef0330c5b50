/** Machines of an audit of durable streams, which share the engine of the cluster. */
import type { Broker } from "../../../../../pubsub/broker.ts";
import type { BrokerLogs } from "../../../../../pubsub/logs/log.ts";
import {
  StreamLogs,
  type StreamLogsOptions,
  SWEEP_INTERVAL_MS,
} from "../../../../../pubsub/logs/stream_logs.ts";
import { DurableStreams } from "../../../../../server/durable/streams.ts";
import { RENEWALS_PER_LEASE } from "../../../../../server/durable/writer.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { Audit } from "../audit.ts";

/** Most bytes of a message. */
const MAX_MESSAGE_BYTES = 65_536;

/** Attempts to reach the engine, and the time between two of these, in milliseconds. */
const [LOOKS, LOOK_MS] = [40, 200];

/** Lease of the log that a machine makes at its start, in milliseconds. */
const PROBE_MS = 60_000;

/** Bounds that no audit reaches unless it means to. */
export const PLENTY = {
  maxStreams: 1_000_000,
  maxKept: 1_000_000,
  maxStreamBytes: 1 << 26,
  maxForks: 100,
  maxReaders: 1_000,
};

/**
 * Part of the lease that is over at most when a living writer shows the next sign of life: an append
 * right behind a renewal takes the place of the next one.
 */
export const SIGN_SHARE = 2 / RENEWALS_PER_LEASE;

/** Longest time between two searches for lost writers, in milliseconds. */
export const SEARCH_MS = SWEEP_INTERVAL_MS;

/** A machine with a broker of its own, from which an audit calls the logs of the engine. */
export class LogMachine {
  /** The host. */
  readonly host: Host;
  /** The broker. */
  readonly broker: Broker;

  private constructor(host: Host, broker: Broker) {
    this.host = host;
    this.broker = broker;
  }

  /**
   * Starts a machine, whose broker has reached the engine.
   *
   * @param audit The audit.
   * @param name Name of the machine.
   * @param brokerOf Makes the broker; by default on the engine of the cluster.
   * @returns The machine; `undefined` if the engine does not answer.
   */
  static async start(
    audit: Audit,
    name: string,
    brokerOf: (host: Host) => Broker = (host) => audit.broker(host),
  ): Promise<LogMachine | undefined> {
    const host = audit.host(name);
    const machine = await within(host, () => new LogMachine(host, brokerOf(host)));
    // The first log of an engine may have to wait for servers that agree on a leader.
    const id = `audited-${host.name}`;
    const probe = async () => {
      await machine.logs.create(id, {
        config: { contentType: "text/plain" },
        identity: "probe000",
        records: [],
        maxLogs: PLENTY.maxStreams,
        writer: { holder: name, ttlMs: PROBE_MS },
      });
      await machine.logs.delete(id);
    };
    for (let left = LOOKS; left > 0; left--) {
      const isReady = await machine.run(probe).then(() => true, () => false);
      if (isReady) return machine;
      await audit.pause(LOOK_MS);
    }
    machine.end();
    return undefined;
  }

  /**
   * Starts machines for a part of an audit, and ends all of these behind the part.
   *
   * @param audit The audit.
   * @param names Names of the machines.
   * @param part The part; left out if a machine does not reach the engine.
   * @param brokerOf Makes the broker of a machine; by default on the engine of the cluster.
   */
  static async use(
    audit: Audit,
    names: readonly string[],
    part: (machines: readonly LogMachine[]) => Promise<void>,
    brokerOf?: (host: Host) => Broker,
  ): Promise<void> {
    const started = await Promise.all(
      names.map((name) => LogMachine.start(audit, name, brokerOf)),
    );
    const machines = started.filter((machine) => machine !== undefined);
    audit.examine("durable", "machines that reach the engine", names.length, machines.length);
    try {
      if (machines.length === names.length) await part(machines);
    } finally {
      for (const machine of machines) machine.end();
    }
  }

  /** The logs of the engine. */
  get logs(): BrokerLogs {
    return this.broker.logs!;
  }

  /**
   * Runs a call as the program of the machine.
   *
   * @param act The call.
   * @returns The result, which never comes from a machine that ends before.
   */
  run<T>(act: () => T | Promise<T>): Promise<T> {
    return within(this.host, act);
  }

  /**
   * Makes the durable streams of the machine.
   *
   * @param options Bounds, the takeover of lost writers, and a broker in place of that of the machine.
   * @returns The streams, until the machine ends.
   */
  streams(
    options: Partial<Pick<StreamLogsOptions, "broker" | "bounds" | "rescue" | "onError">> = {},
  ) {
    const { host: { runtime }, broker } = this;
    const streams = new StreamLogs({
      runtime,
      broker,
      bounds: PLENTY,
      onError() {},
      ...options,
    });
    return {
      streams,
      node: new DurableStreams({ runtime, streams, maxMessageBytes: MAX_MESSAGE_BYTES }),
    };
  }

  /** Ends the machine, with all connections. */
  end(): void {
    this.host.kill();
  }
}

/** Runs a call in an event of a host, so that timers are those of the host. */
function within<T>(host: Host, act: () => T | Promise<T>): Promise<T> {
  return new Promise((resolve, reject) =>
    host.after(0, () => void Promise.try(act).then(resolve, reject))
  );
}
