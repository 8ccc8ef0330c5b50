/** SQLite files on simulated disks. */
import type { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { SimulatedDisk, SimulatedSqlite, type SimulatedSqliteOptions } from "../simulator/mod.ts";
import type { World } from "./world.ts";

/** A disk and a function that opens its files. */
export interface Disk {
  readonly disk: SimulatedDisk;
  /** Opens or creates a file for the machine's current life. */
  open(path: string, options?: SimulatedSqliteOptions): SqliteBroker;
}

/**
 * Creates the disk of a machine.
 *
 * @param name Name of the machine.
 * @returns The disk, without files.
 */
export async function diskOf(world: World, name: string): Promise<Disk> {
  const { simulation } = world;
  const sqlite = await simulation.hold(SimulatedSqlite.load(simulation));
  const disk = new SimulatedDisk(simulation, world.host(name));
  return { disk, open: (path, options) => sqlite.open(disk, path, options) };
}
