/** Files of SQLite on the disks of a world. */
import type { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import {
  SimulatedDisk,
  SimulatedSqlite,
  type SimulatedSqliteOptions,
} from "../../testing/simulation/mod.ts";
import type { World } from "./world.ts";

/** A disk, and what opens its files. */
export interface Disk {
  readonly disk: SimulatedDisk;
  /** Opens or creates a file, for the present life of the machine. */
  open(path: string, options?: SimulatedSqliteOptions): SqliteBroker;
}

/**
 * Makes the disk of a machine.
 *
 * @param world The world.
 * @param name Name of the machine.
 * @returns The disk, without files.
 */
export async function diskOf(world: World, name: string): Promise<Disk> {
  const { simulation } = world;
  const sqlite = await simulation.hold(SimulatedSqlite.load(simulation));
  const disk = new SimulatedDisk(simulation, world.host(name));
  return { disk, open: (path, options) => sqlite.open(disk, path, options) };
}
