/** Faults by name. A case contains the names and times of its faults. */
import fc from "fast-check";
import type { Host, LinkConditions } from "../simulator/mod.ts";
import type { World } from "./world.ts";

/** A server, or a cluster one of whose processes may end. */
export interface Restartable {
  readonly host: Host;
  /** Restarts the process. */
  restart(): void;
}

/** The two sides that a fault affects. */
export interface FaultyEnds {
  readonly client: Host;
  readonly server: Restartable;
}

/** Starts a fault. If the fault lasts, returns a function that ends it. */
export type Fault = (world: World, ends: FaultyEnds) => (() => void) | void;

/** Faults between a client and a server, which affect no other machine. */
export const FAULTS = {
  "a cut": (world, { client }) => void world.cut(client),
  "a silent cut": (world, { client }) => void world.cut(client, true),
  "a cut that only the server notices": (world, { client }) => void world.cut(client, "client"),
  "a cut that only the client notices": (world, { client }) => void world.cut(client, "server"),
  "a partition": (world, ends) => changed(world, ends, { isBlocked: true }),
  "a slow link": (world, ends) => changed(world, ends, { bytesPerSecond: 20_000 }),
  "lost packets": (world, ends) => changed(world, ends, { lossRate: 0.1 }),
  "rejected connections": (world, ends) => changed(world, ends, { rejectionRate: 1 }),
  "a frozen client": (world, { client }) => frozen(world, client),
  "a frozen server": (world, { server }) => frozen(world, server.host),
  "a client's clock that jumps": (_world, { client }) => client.jumpClock(3_600_000),
  "a server's clock that jumps back": (_world, { server }) => server.host.jumpClock(-3_600_000),
  "a restart of the server": (_world, { server }) => {
    // Another restart is in progress.
    if (!server.host.isAlive) return;
    server.host.kill();
    return () => server.restart();
  },
} as const satisfies Readonly<Record<string, Fault>>;

/** Current effects, with the number of faults that cause each of them. */
const lastingEffects = new WeakMap<World, Map<string, { faults: number; end(): void }>>();

/** Name of a fault in {@linkcode FAULTS}. */
export type FaultName = keyof typeof FAULTS;

/** A fault of a case. */
export interface PlannedFault {
  readonly kind: FaultName;
  /** Time from the start of the plan, in milliseconds. */
  readonly atMs: number;
  /** Duration, in milliseconds. An instantaneous fault ignores it. */
  readonly lastsMs: number;
}

/**
 * Generates faults.
 *
 * @param kinds The faults of the property.
 * @param bounds Maximum number of faults, the time within which they start, and their maximum
 * duration.
 * @returns A generator of lists of faults, which shrink towards an empty list.
 */
export function faultsOf(
  kinds: readonly FaultName[],
  { most = 3, withinMs, lastsMs }: {
    readonly most?: number;
    readonly withinMs: number;
    readonly lastsMs: number;
  },
): fc.Arbitrary<PlannedFault[]> {
  const fault = fc.record({
    kind: fc.constantFrom(...kinds),
    atMs: fc.nat(withinMs),
    lastsMs: fc.integer({ min: 1, max: lastsMs }),
  });
  return fc.array(fault, { maxLength: most });
}

/**
 * Schedules the faults of a case, starting now.
 *
 * @param ends The client and the server.
 * @returns Time after which all faults are over, in milliseconds from now.
 */
export function planFaults(
  world: World,
  faults: readonly PlannedFault[],
  ends: FaultyEnds,
): number {
  for (const { kind, atMs, lastsMs } of faults) {
    world.simulation.after(atMs, () => {
      world.note(`fault: ${kind}`, ends.server.host.name);
      const end = (FAULTS[kind] as Fault)(world, ends);
      if (end !== undefined) world.simulation.after(lastsMs, end);
    });
  }
  return Math.max(0, ...faults.map(({ atMs, lastsMs }) => atMs + lastsMs));
}

/** Changes both directions, and restores them when the last fault with this change ends. */
function changed(
  world: World,
  { client, server }: FaultyEnds,
  change: LinkConditions,
): () => void {
  const directions = [[client, server.host], [server.host, client]] as const;
  const keys = Object.keys(change) as (keyof LinkConditions)[];
  const effect = `${client.name} ${server.host.name} ${keys}`;
  return lasting(world, effect, () => {
    const ends = directions.map(([from, to]) => {
      const before = world.network.conditions(from, to);
      world.network.change(from, to, change);
      return () =>
        world.network.change(from, to, Object.fromEntries(keys.map((key) => [key, before[key]])));
    });
    return () => ends.forEach((end) => end());
  });
}

function frozen(world: World, host: Host): () => void {
  return lasting(world, `${host.name} frozen`, () => {
    host.freeze();
    return () => host.thaw();
  });
}

/**
 * Starts an effect unless it is already active. Stops it when the last fault that causes it ends.
 */
function lasting(world: World, effect: string, begin: () => () => void): () => void {
  const effects = lastingEffects.get(world) ?? new Map<string, { faults: number; end(): void }>();
  lastingEffects.set(world, effects);
  const { faults, end } = effects.get(effect) ?? { faults: 0, end: begin() };
  effects.set(effect, { faults: faults + 1, end });
  return () => {
    const { faults } = effects.get(effect)!;
    if (faults > 1) return void effects.set(effect, { faults: faults - 1, end });
    effects.delete(effect);
    end();
  };
}
