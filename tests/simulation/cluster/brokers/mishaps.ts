/** Faults of brokers and of the store in a trial. */
import type { Host } from "../../../simulator/host.ts";
import type { LinkConditions } from "../../../simulator/network/conditions.ts";
import type { SimulatedNetwork } from "../../../simulator/network/network.ts";
import type { Hiccup, SpareStore } from "./spare.ts";

/** The trial in which a fault happens. */
export interface TrialParts {
  readonly network: SimulatedNetwork;
  readonly store: SpareStore;
  /** Lets time pass, in milliseconds. */
  pause(ms: number): Promise<void>;
  /** Changes both directions between two machines. */
  change(one: Host, other: Host, conditions: Partial<LinkConditions>): void;
  /**
   * Breaks all connections of a broker.
   *
   * @param host The machine of the broker.
   * @param isSilent True if the broker does not notice the break.
   */
  cut(host: Host, isSilent: boolean): void;
  /**
   * Records that a broker has lost all connections.
   *
   * @param host The machine of the broker.
   */
  breaks(host: Host): void;
  /**
   * Checks that a broker has noticed that the store is unreachable.
   *
   * @param host The machine of the broker.
   * @param what The cause.
   */
  expectAway(host: Host, what: string): void;
  /**
   * Records a fault of the store that starts now.
   *
   * @param hiccup The fault.
   */
  hasHiccup(hiccup: Hiccup): void;
  /** Kills the store's process for a time in milliseconds. */
  endBroker(lastsMs: number): Promise<void>;
}

/** A fault that ends by itself. */
export interface Mishap {
  /** Name of the fault, in words. */
  readonly name: string;
  /** Time until everything has recovered, in milliseconds. */
  readonly lastsMs: number;
  /** Starts the fault at a broker, and waits until the fault ends. */
  readonly run: (trial: TrialParts, host: Host) => Promise<void>;
}

/** Time until commands reach the store, in milliseconds. */
const COMMANDS_MS = 60;

/**
 * Delays of a slow link and how long they last, in milliseconds. The delays are shorter than the
 * silence that a broker notices.
 */
const [SLOW_MS, SLOW_FOR_MS] = [[150, 800], 2_500] as const;

/** Time until a broker reconnects, in milliseconds. */
const GREETING_MS = 1_500;

/** Short and long outage of a store, in milliseconds. */
const [SHORT_MS, LONG_MS] = [300, 6_500] as const;

/**
 * Time until a broker notices silence, in ping intervals, and until it notices that a connection
 * has ended.
 */
const SILENCE = { pings: 5, endMs: 3_000 } as const;

/** Blocks one or both directions between a broker and the store. */
function block(
  { network, store }: TrialParts,
  host: Host,
  way: "requests" | "answers" | "both",
  isBlocked: boolean,
): void {
  if (way !== "answers") network.change(host, store.host, { isBlocked });
  if (way !== "requests") network.change(store.host, host, { isBlocked });
}

/**
 * Blocks one direction briefly, then breaks the connection, so that messages in flight are lost.
 */
function loses(way: "requests" | "answers"): Mishap {
  return {
    name: `a break that takes ${way} along`,
    lastsMs: COMMANDS_MS,
    run: async (trial, host) => {
      block(trial, host, way, true);
      await trial.pause(COMMANDS_MS);
      trial.cut(host, false);
      block(trial, host, way, false);
    },
  };
}

/** Stops the store for a time. */
function away(lastsMs: number): Mishap {
  return {
    name: `an end of the broker for ${lastsMs} ms`,
    lastsMs,
    run: (trial) => trial.endBroker(lastsMs),
  };
}

/** Stops the store for a time, and drops the replies to a broker's last requests. */
function endBeforeReplies(lastsMs: number): Mishap {
  return {
    name: `an end of the broker before its answers, for ${lastsMs} ms`,
    lastsMs: COMMANDS_MS + lastsMs,
    run: async (trial, host) => {
      await loses("answers").run(trial, host);
      await trial.endBroker(lastsMs);
    },
  };
}

/** A connection that ends without the broker noticing. */
function silentBreak(lastsMs: number): Mishap {
  return {
    name: "a silent break",
    lastsMs,
    run: async (trial, host) => {
      trial.cut(host, true);
      await trial.pause(lastsMs);
    },
  };
}

/** A network that passes no packets. */
function silence(lastsMs: number, isNoticed: boolean): Mishap {
  return {
    name: `a ${isNoticed ? "long" : "short"} silence`,
    lastsMs,
    run: async (trial, host) => {
      block(trial, host, "both", true);
      if (isNoticed) trial.breaks(host);
      await trial.pause(lastsMs);
      if (isNoticed) trial.expectAway(host, "a long silence");
      block(trial, host, "both", false);
    },
  };
}

/** A link with long delays in both directions. */
function slowWay(delayMs: number): Mishap {
  return {
    name: `a way of ${delayMs} ms`,
    lastsMs: SLOW_FOR_MS,
    run: async (trial, host) => {
      const { network, store } = trial;
      const before = network.conditions(host, store.host);
      trial.change(host, store.host, { delayMs });
      await trial.pause(SLOW_FOR_MS);
      trial.change(host, store.host, { delayMs: before.delayMs });
    },
  };
}

/** A store that stops for a time. */
function frozen(lastsMs: number): Mishap {
  return {
    name: "a frozen broker",
    lastsMs,
    run: async (trial) => {
      const { host } = trial.store;
      host.freeze();
      await trial.pause(lastsMs);
      host.thaw();
    },
  };
}

/**
 * A store that accepts a connection but sends no greeting. The broker does not notice that its
 * old connection has ended.
 */
function lostGreeting(lastsMs: number): Mishap {
  return {
    name: "a lost greeting",
    lastsMs: lastsMs + GREETING_MS,
    run: async (trial, host) => {
      trial.store.host.freeze();
      trial.cut(host, false);
      await trial.pause(GREETING_MS);
      trial.cut(host, true);
      trial.store.host.thaw();
      await trial.pause(lastsMs);
    },
  };
}

/** A connection that ends. */
const BREAK: Mishap = {
  name: "a break",
  lastsMs: COMMANDS_MS,
  run: (trial, host) => Promise.resolve(trial.cut(host, false)),
};

/**
 * Lists all mishaps of a store.
 *
 * @param pingMs Ping interval of each connection, in milliseconds.
 */
export function mishapsOf(store: SpareStore, pingMs: number): readonly Mishap[] {
  const noticedMs = SILENCE.pings * pingMs + SILENCE.endMs;
  const own = Object.entries(store.hiccups).map(([name, hiccup]): Mishap => ({
    name: `a broker that ${name}`,
    lastsMs: hiccup.lastsMs,
    run: async (trial) => {
      hiccup.begin();
      trial.hasHiccup(hiccup);
      await trial.pause(hiccup.lastsMs);
    },
  }));
  return [
    BREAK,
    loses("requests"),
    loses("answers"),
    away(SHORT_MS),
    // These are listed twice, because more depends on their timing.
    away(LONG_MS),
    away(LONG_MS),
    endBeforeReplies(SHORT_MS),
    silence(SHORT_MS, false),
    silence(noticedMs, true),
    silentBreak(noticedMs),
    // These are listed twice, like an unreachable store.
    ...SLOW_MS.map(slowWay),
    ...SLOW_MS.map(slowWay),
    frozen(LONG_MS),
    lostGreeting(noticedMs),
    ...own,
  ];
}
