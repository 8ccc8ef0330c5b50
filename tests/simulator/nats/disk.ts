/** Everything that a NATS server keeps after the end of its process. */
import type { StreamConfig } from "./config.ts";
import { GroupDisk } from "./group_disk.ts";
import { StreamStore } from "./store.ts";
import type { NatsMessage } from "./wire.ts";
import type { ConsumerConfig } from "./config.ts";

/** A stream as known to the cluster, and the servers with a replica. */
export interface Assignment {
  readonly config: StreamConfig;
  readonly createdMs: number;
  /** Servers with the stream, the preferred leader first. */
  readonly peers: readonly string[];
  /** Subject for the reply to the creation; empty for none. */
  readonly reply: string;
  /** Consumers by name, and the server of each. */
  readonly consumers: ReadonlyMap<
    string,
    { readonly config: ConsumerConfig; readonly peer: string }
  >;
}

export type ClusterChange =
  | { readonly kind: "stream"; readonly assignment: Assignment }
  | { readonly kind: "no stream"; readonly name: string; readonly reply: string }
  | {
    readonly kind: "consumer";
    readonly stream: string;
    readonly config: ConsumerConfig;
    readonly peer: string;
    readonly reply: string;
  }
  | {
    readonly kind: "no consumer";
    readonly stream: string;
    readonly name: string;
    readonly reply: string;
  };

export type StreamChange =
  | { readonly kind: "put"; readonly message: NatsMessage; readonly atMs: number }
  | { readonly kind: "remove"; readonly seq: number; readonly reply: string }
  | {
    readonly kind: "purge";
    readonly filter: string;
    readonly keep: number;
    readonly before: number;
    readonly reply: string;
  };

/** Streams and consumers by name: the state of the group of all servers. */
export type Assignments = Map<string, Assignment>;

/** Disk of one replica of a stream. */
export type StreamDisk = GroupDisk<StreamStore, StreamChange>;

/** The disk of one server. */
export class NatsDisk {
  /** Streams and consumers of the whole cluster. */
  readonly cluster: GroupDisk<Assignments, ClusterChange> = new GroupDisk(
    new Map(),
    (assignments) => new Map(assignments),
  );
  /** Streams of this server by name. */
  readonly streams = new Map<string, StreamDisk>();

  /** Returns the disk of a stream, created if missing. */
  stream(config: StreamConfig): StreamDisk {
    let disk = this.streams.get(config.name);
    if (disk === undefined) {
      disk = new GroupDisk(new StreamStore(config), (store) => new StreamStore(config, store));
      this.streams.set(config.name, disk);
    }
    return disk;
  }

  /** Makes everything written so far survive a power loss. */
  sync(): void {
    this.cluster.sync();
    for (const disk of this.streams.values()) disk.sync();
  }

  /**
   * Loses unsynced writes.
   *
   * @param random Decides how much is left.
   */
  losePower(random: () => number): void {
    for (const disk of this.streams.values()) disk.losePower(random);
  }

  /**
   * Drops the messages of streams in memory, as at the end of the process.
   *
   * @param isClustered True if other servers remember the streams themselves.
   */
  forgetMemory(isClustered: boolean): void {
    for (const [name, { state: { config } }] of [...this.streams]) {
      if (config.storage !== "memory") continue;
      this.streams.delete(name);
      if (!isClustered) this.cluster.state.delete(name);
    }
  }
}
