/** Consensus of replicas on one log, by Raft with the times of NATS. */
import type { Runtime, Timer } from "../../../base/runtime.ts";
import type { GroupDisk, GroupEntry } from "./group_disk.ts";

/** Times of NATS, in milliseconds. */
const HEARTBEAT_MS = 1_000;
const ELECTION_MS = { least: 4_000, most: 9_000 };
const CAMPAIGN_MS = { least: 100, most: 800 };
const LOST_QUORUM_MS = 10_000;

/** Most entries of one packet. */
const MAX_ENTRIES = 1_024;

/** A packet between two replicas. */
export type GroupPacket<S, C> =
  & { readonly term: number }
  & (
    | { readonly kind: "campaign"; readonly lastIndex: number; readonly lastTerm: number }
    | { readonly kind: "vote"; readonly isGranted: boolean }
    | { readonly kind: "lead" }
    | {
      readonly kind: "entries";
      readonly before: number;
      readonly beforeTerm: number;
      readonly entries: readonly GroupEntry<C>[];
      readonly commit: number;
    }
    | {
      readonly kind: "state";
      readonly index: number;
      readonly indexTerm: number;
      readonly state: S;
    }
    | {
      readonly kind: "taken";
      readonly isGood: boolean;
      /** Newest index that matches the leader's log, or an estimate. */
      readonly index: number;
      /** The replica needs the whole state. */
      readonly isLost: boolean;
    }
  );

/** Collaborators of a {@linkcode Group}. */
export interface GroupOptions<S, C> {
  readonly runtime: Runtime;
  /** Name of this server. */
  readonly self: string;
  /** Names of all servers of the group, including this one. */
  readonly peers: readonly string[];
  readonly disk: GroupDisk<S, C>;
  /** True if this server should lead a new group. */
  readonly isPreferred: boolean;
  /** Creates the identity of an entry. */
  readonly nextUid: () => number;
  /** Sends a packet, which may get lost. */
  readonly send: (peer: string, packet: GroupPacket<S, C>) => void;
  /** Applies a change to the state; called once per change, in order, on each replica. */
  readonly apply: (change: C, entry: GroupEntry<C>, index: number) => void;
  /** Called when this server starts to lead, and all earlier entries are in the state. */
  readonly led: () => void;
  /** Called when this server no longer leads. */
  readonly followed: () => void;
  /** Called when the state was replaced by the leader's. */
  readonly replaced: () => void;
}

/** State of another replica, as known to the leader. */
interface Follower {
  next: number;
  match: number;
  heardMs: number;
}

/** One replica of a group. */
export class Group<S, C> {
  readonly #options: GroupOptions<S, C>;
  readonly #followers = new Map<string, Follower>();
  #role: "follower" | "candidate" | "leader" = "follower";
  #leader = "";
  #votes = new Set<string>();
  #commit: number;
  #ledFrom = 0;
  #isLeading = false;
  #timer: Timer | undefined;
  #isOver = false;

  /** Creates a replica. */
  constructor(options: GroupOptions<S, C>) {
    this.#options = options;
    this.#commit = options.disk.applied;
  }

  /** Starts the replica; in a group of one it leads immediately. */
  start(): void {
    const { peers, isPreferred } = this.#options;
    if (peers.length === 1) this.#lead();
    else this.#await(isPreferred ? CAMPAIGN_MS : ELECTION_MS);
  }

  /** True if this server leads, and all earlier entries are in the state. */
  get isLeader(): boolean {
    return this.#isLeading;
  }

  /** True if no server is known to lead. */
  get isLeaderless(): boolean {
    return this.#leader === "";
  }

  /** Number of servers of the group. */
  get size(): number {
    return this.#options.peers.length;
  }

  /** Names of all servers of the group. */
  get peers(): readonly string[] {
    return this.#options.peers;
  }

  /** Adds a change to the log, if this server leads. */
  propose(change: C): void {
    if (this.#role !== "leader" || this.#isOver) return;
    this.#append(change);
  }

  /**
   * Handles a packet of another replica.
   *
   * @param from Name of the other server.
   */
  hear(from: string, packet: GroupPacket<S, C>): void {
    if (this.#isOver || !this.#options.peers.includes(from)) return;
    const { disk } = this.#options;
    if (packet.term > disk.term) this.#follow(packet.term);
    switch (packet.kind) {
      case "campaign":
        return this.#vote(from, packet);
      case "vote":
        if (packet.term !== disk.term || this.#role !== "candidate" || !packet.isGranted) return;
        this.#votes.add(from);
        if (this.#votes.size > this.size / 2) this.#lead();
        return;
      case "lead":
        return void (packet.term === disk.term && this.#campaign());
      case "entries":
        return this.#take(from, packet);
      case "state":
        if (packet.term < disk.term) return;
        this.#heardLeader(from);
        if (packet.index > disk.applied || packet.indexTerm !== disk.termAt(packet.index)) {
          disk.replace(packet.state, packet.index, packet.indexTerm);
          this.#commit = packet.index;
          this.#options.replaced();
        }
        return this.#tell(from, true, packet.index);
      case "taken":
        return this.#taken(from, packet);
    }
  }

  /** Steps down, as in an orderly shutdown or by an operator; another replica takes over. */
  stepDown(): void {
    if (this.#role !== "leader" || this.size === 1) return;
    this.#follow(this.#options.disk.term);
  }

  /** Steps down in favor of another replica, as when a client asks for it. */
  handOver(): void {
    if (this.#role !== "leader" || this.size === 1) return;
    const { disk, peers, runtime, self, send } = this.#options;
    const others = peers.filter((peer) => peer !== self);
    send(others[Math.floor(runtime.random() * others.length)]!, { kind: "lead", term: disk.term });
    this.stepDown();
  }

  /** Stops the replica. */
  close(): void {
    this.#isOver = true;
    this.#options.runtime.clearTimeout(this.#timer);
  }

  get #last(): { readonly index: number; readonly term: number } {
    const { disk } = this.#options;
    return { index: disk.lastIndex, term: disk.termAt(disk.lastIndex) ?? 0 };
  }

  #await({ least, most }: { readonly least: number; readonly most: number }): void {
    const { runtime } = this.#options;
    runtime.clearTimeout(this.#timer);
    const ms = least + Math.floor(runtime.random() * (most - least));
    this.#timer = runtime.setTimeout(() => this.#campaign(), ms);
  }

  #campaign(): void {
    const { disk, self, peers, send } = this.#options;
    disk.term++;
    disk.vote = self;
    this.#role = "candidate";
    this.#leader = "";
    this.#votes = new Set([self]);
    const { index, term } = this.#last;
    for (const peer of peers) {
      if (peer === self) continue;
      send(peer, { kind: "campaign", term: disk.term, lastIndex: index, lastTerm: term });
    }
    this.#await(ELECTION_MS);
  }

  #vote(from: string, packet: GroupPacket<S, C> & { readonly kind: "campaign" }): void {
    const { disk, send } = this.#options;
    const { index, term } = this.#last;
    const isAhead = packet.lastTerm > term || packet.lastTerm === term && packet.lastIndex >= index;
    const isGranted = packet.term === disk.term && isAhead &&
      (disk.vote === "" || disk.vote === from);
    if (isGranted) {
      disk.vote = from;
      this.#await(ELECTION_MS);
    }
    send(from, { kind: "vote", term: disk.term, isGranted });
  }

  #follow(term: number): void {
    const { disk } = this.#options;
    if (term > disk.term) {
      disk.term = term;
      disk.vote = "";
    }
    this.#role = "follower";
    this.#leader = "";
    this.#await(ELECTION_MS);
    if (!this.#isLeading) return;
    this.#isLeading = false;
    this.#options.followed();
  }

  #heardLeader(from: string): void {
    if (this.#role !== "follower") this.#follow(this.#options.disk.term);
    this.#leader = from;
    this.#await(ELECTION_MS);
  }

  #lead(): void {
    const { disk, self, peers, runtime } = this.#options;
    if (peers.length === 1) disk.term++;
    this.#role = "leader";
    this.#leader = self;
    this.#followers.clear();
    for (const peer of peers) {
      if (peer === self) continue;
      this.#followers.set(peer, {
        next: disk.lastIndex + 1,
        match: 0,
        heardMs: runtime.monotonic(),
      });
    }
    this.#ledFrom = disk.lastIndex + 1;
    this.#append(undefined);
    if (peers.length > 1) this.#beat();
  }

  #beat(): void {
    const { runtime } = this.#options;
    runtime.clearTimeout(this.#timer);
    this.#timer = runtime.setTimeout(() => {
      const now = runtime.monotonic();
      let heard = 1;
      for (const { heardMs } of this.#followers.values()) {
        if (now - heardMs < LOST_QUORUM_MS) heard++;
      }
      if (heard <= this.size / 2) return this.#follow(this.#options.disk.term);
      for (const peer of this.#followers.keys()) this.#replicate(peer);
      this.#beat();
    }, HEARTBEAT_MS);
  }

  #append(change: C | undefined): void {
    const { disk, nextUid } = this.#options;
    disk.append({ term: disk.term, uid: nextUid(), change });
    for (const peer of this.#followers.keys()) this.#replicate(peer);
    this.#advance();
  }

  /** Sends the entries that a follower lacks, or the whole state if entries are not kept. */
  #replicate(peer: string): void {
    const { disk, send } = this.#options;
    const follower = this.#followers.get(peer)!;
    const before = follower.next - 1;
    const beforeTerm = disk.termAt(before);
    if (beforeTerm === undefined) return this.#hand(peer, follower);
    const entries = disk.from(follower.next, MAX_ENTRIES);
    follower.next += entries.length;
    const commit = this.#commit;
    send(peer, { kind: "entries", term: disk.term, before, beforeTerm, entries, commit });
  }

  /** Sends the whole state to a follower. */
  #hand(peer: string, follower: Follower): void {
    const { disk, send } = this.#options;
    const index = disk.applied;
    follower.next = index + 1;
    const indexTerm = disk.termAt(index) ?? 0;
    send(peer, { kind: "state", term: disk.term, index, indexTerm, state: disk.copy() });
  }

  #take(from: string, packet: GroupPacket<S, C> & { readonly kind: "entries" }): void {
    const { disk } = this.#options;
    if (packet.term < disk.term) return this.#tell(from, false, disk.lastIndex);
    this.#heardLeader(from);
    const { before, beforeTerm, entries, commit } = packet;
    const known = disk.termAt(before);
    if (before > disk.baseIndex && known !== beforeTerm) {
      if (before <= disk.applied) return this.#tell(from, false, before - 1, true);
      return this.#tell(from, false, Math.min(disk.lastIndex, before - 1));
    }
    for (const [i, entry] of entries.entries()) {
      const index = before + 1 + i;
      if (index <= disk.baseIndex) continue;
      if (disk.at(index)?.uid === entry.uid) continue;
      if (index <= disk.applied) return this.#tell(from, false, index - 1, true);
      if (index <= disk.lastIndex) disk.cutFrom(index);
      disk.append(entry);
    }
    const index = before + entries.length;
    this.#commit = Math.max(this.#commit, Math.min(commit, index));
    this.#apply();
    this.#tell(from, true, index);
  }

  #tell(to: string, isGood: boolean, index: number, isLost = false): void {
    const { disk, send } = this.#options;
    send(to, { kind: "taken", term: disk.term, isGood, index, isLost });
  }

  #taken(from: string, packet: GroupPacket<S, C> & { readonly kind: "taken" }): void {
    const follower = this.#followers.get(from);
    const { disk, runtime } = this.#options;
    if (this.#role !== "leader" || follower === undefined || packet.term !== disk.term) return;
    follower.heardMs = runtime.monotonic();
    if (!packet.isGood) {
      if (packet.isLost) return this.#hand(from, follower);
      follower.next = Math.min(follower.next, packet.index + 1);
      return this.#replicate(from);
    }
    follower.match = Math.max(follower.match, packet.index);
    follower.next = Math.max(follower.next, follower.match + 1);
    if (follower.next <= disk.lastIndex) this.#replicate(from);
    const before = this.#commit;
    this.#advance();
    if (this.#commit === before || this.#role !== "leader") return;
    // Notifies followers of the commit immediately.
    for (const peer of this.#followers.keys()) this.#replicate(peer);
  }

  /** Commits the entries that most replicas have. */
  #advance(): void {
    const { disk } = this.#options;
    const matches = [disk.lastIndex, ...[...this.#followers.values()].map(({ match }) => match)];
    matches.sort((a, b) => b - a);
    const most = matches[Math.floor(this.size / 2)]!;
    if (most > this.#commit && disk.termAt(most) === disk.term) this.#commit = most;
    this.#apply();
  }

  #apply(): void {
    const { disk, apply, led } = this.#options;
    while (disk.applied < this.#commit && disk.applied < disk.lastIndex) {
      const index = ++disk.applied;
      const entry = disk.at(index)!;
      if (entry.change !== undefined) apply(entry.change, entry, index);
      if (this.#role !== "leader" || this.#isLeading || index < this.#ledFrom) continue;
      this.#isLeading = true;
      led();
    }
  }
}
