/** JetStream on one server: the API, replicas of streams, and its role in the cluster. */
import { type ApiError, consumerConfig, streamConfig } from "./config.ts";
import type { ConsumerConfig, StreamConfig } from "./config.ts";
import { Consumer, timeOf } from "./consumer.ts";
import type {
  Assignment,
  Assignments,
  ClusterChange,
  NatsDisk,
  StreamChange,
  StreamDisk,
} from "./disk.ts";
import { Group, type GroupPacket } from "./group.ts";
import type { WriteLedger } from "./ledger.ts";
import type { MessageBus } from "./bus.ts";
import type { StreamStore } from "./store.ts";
import { type MessageQuery, Stream } from "./stream.ts";
import { collide, matches } from "./subjects.ts";
import { headerIn, headersOf, jsonIn, messageOf, type NatsMessage } from "./wire.ts";

/** Name of the group of all servers. */
const CLUSTER = "_meta_";

/** Header of an information request whose reply has the form of a creation's reply. */
const RESPONSE_TYPE = "Nats-Response-Type";

/** Wait of a server that reports a missing leader, so that a leader replies first (ms). */
const LEADERLESS_MS = 500;

/** Most streams, and most consumers of a stream, in the model. */
const MAX_STREAMS = 1_000;
const MAX_CONSUMERS = 1_000;

const TYPE = "io.nats.jetstream.api.v1.";

/** List fields of every reply with information about a stream. */
const NO_LIST = { total: 0, offset: 0, limit: 0 };

const NOT_FOUND: ApiError = { code: 404, err_code: 10059, description: "stream not found" };
const NO_CONSUMER: ApiError = { code: 404, err_code: 10014, description: "consumer not found" };
const BAD_REQUEST: ApiError = { code: 400, err_code: 10003, description: "bad request" };
const INVALID_JSON: ApiError = { code: 400, err_code: 10025, description: "invalid JSON" };
const UNAVAILABLE: ApiError = {
  code: 503,
  err_code: 10008,
  description: "JetStream system temporarily unavailable",
};
const MISMATCH: ApiError = {
  code: 400,
  err_code: 10056,
  description: "stream name in subject does not match request",
};
const NAME_TAKEN: ApiError = {
  code: 400,
  err_code: 10058,
  description: "stream name already in use with a different configuration",
};

/** A packet between the replicas of any group. */
interface Addressed {
  readonly group: string;
  readonly from: string;
  readonly packet: GroupPacket<never, never>;
}

/** Collaborators of a {@linkcode JetStream}. */
export interface JetStreamOptions {
  /** The disk of the server. */
  readonly disk: NatsDisk;
  /** Writes that clients know of. */
  readonly ledger: WriteLedger;
  /** Names of all servers, including this one. */
  readonly peers: readonly string[];
  /**
   * Called when several servers start to elect the first leader of a stream or of the cluster, and
   * when there is a leader.
   */
  readonly onElection: (group: string, isOver: boolean) => void;
}

/** A replica of a stream on this server. */
interface Replica {
  readonly stream: Stream;
  readonly group: Group<StreamStore, StreamChange>;
}

/** A request to the API. */
interface ApiCall {
  readonly message: NatsMessage;
  /** Names in the subject, after the operation. */
  readonly names: readonly string[];
  /** Type of the reply. */
  readonly type: string;
}

/** JetStream on one server. */
export class JetStream {
  readonly #bus: MessageBus;
  readonly #disk: NatsDisk;
  readonly #ledger: WriteLedger;
  readonly #replicas = new Map<string, Replica>();
  readonly #cluster: Group<Assignments, ClusterChange>;
  readonly #peers: readonly string[];
  readonly #onElection: JetStreamOptions["onElection"];

  constructor(bus: MessageBus, options: JetStreamOptions) {
    const { disk, ledger, peers, onElection } = options;
    this.#bus = bus;
    this.#disk = disk;
    this.#ledger = ledger;
    this.#peers = peers;
    this.#onElection = onElection;
    this.#serve();
    bus.onPacket = (body) => this.#hear(body);
    this.#cluster = new Group<Assignments, ClusterChange>({
      runtime: bus.runtime,
      self: bus.host.name,
      peers,
      disk: disk.cluster,
      isPreferred: false,
      nextUid: () => ledger.nextUid(),
      send: (peer, packet) => this.#send(peer, CLUSTER, packet),
      apply: (change) => this.#apply(change),
      led: () => {
        bus.note("leads the cluster");
        onElection(CLUSTER, true);
      },
      followed: () => {},
      replaced: () => this.#reopen(),
    });
    this.#reopen();
    if (peers.length > 1 && disk.cluster.lastIndex === 0) onElection(CLUSTER, false);
    this.#cluster.start();
  }

  /** Names of the streams that this server leads. */
  get led(): readonly string[] {
    return [...this.#replicas].filter(([, { group }]) => group.isLeader).map(([name]) => name);
  }

  /**
   * Lets another server lead, if this one leads.
   *
   * @param stream Name of a stream; the whole cluster by default.
   */
  stepDown(stream?: string): void {
    if (stream === undefined) this.#cluster.stepDown();
    else this.#replicas.get(stream)?.group.stepDown();
  }

  /** Removes all consumers on this server, as a defect would. */
  loseConsumers(): void {
    for (const { stream: { consumers } } of this.#replicas.values()) {
      for (const consumer of consumers.values()) consumer.close();
      consumers.clear();
    }
  }

  /** Handles a packet of another server. */
  #hear(body: unknown): void {
    const { group, from, packet } = body as Addressed;
    if (group === CLUSTER) this.#cluster.hear(from, packet);
    else this.#replicas.get(group)?.group.hear(from, packet);
  }

  get #isClustered(): boolean {
    return this.#peers.length > 1;
  }

  #send<S, C>(peer: string, group: string, packet: GroupPacket<S, C>): void {
    const from = this.#bus.host.name;
    const bytes = packet.kind === "entries" ? 64 * packet.entries.length : 0;
    this.#bus.routes.get(peer)?.tell({ group, from, packet }, 64 + bytes);
  }

  #serve(): void {
    const on = (subject: string, type: string, act: (call: ApiCall) => void) => {
      const skipped = subject.split(".").findIndex((token) => token === "*" || token === ">");
      this.#bus.subscribe(`$JS.API.${subject}`, (message) => {
        const names = skipped === -1 ? [] : message.subject.split(".").slice(skipped + 2);
        act({ message, names, type: `${TYPE}${type}_response` });
      });
    };
    on("INFO", "account_info", (call) => this.#accountInfo(call));
    on("STREAM.CREATE.*", "stream_create", (call) => this.#createStream(call));
    on("STREAM.INFO.*", "stream_info", (call) => this.#streamInfo(call));
    on("STREAM.LEADER.STEPDOWN.*", "stream_leader_stepdown", (call) => this.#handOver(call));
    on("STREAM.DELETE.*", "stream_delete", (call) => this.#deleteStream(call));
    on("STREAM.PURGE.*", "stream_purge", (call) => this.#purge(call));
    on("STREAM.MSG.GET.*", "stream_msg_get", (call) => this.#getMessage(call));
    on("STREAM.MSG.DELETE.*", "stream_msg_delete", (call) => this.#deleteMessage(call));
    on("CONSUMER.CREATE.*", "consumer_create", (call) => this.#createConsumer(call));
    on("CONSUMER.DELETE.*.*", "consumer_delete", (call) => this.#deleteConsumer(call));
  }

  #answer(reply: string, type: string, body: object): void {
    if (reply === "") return;
    this.#bus.publish(messageOf(reply, { type, ...body }));
  }

  /** Checks whether this server replies for the whole cluster; reports a missing leader. */
  #responsesForCluster({ message: { reply }, type }: ApiCall): boolean {
    const isDisturbed = this.#bus.trouble === "no leader";
    if (this.#cluster.isLeader && !isDisturbed) return true;
    if (this.#cluster.isLeaderless || isDisturbed) {
      this.#answer(reply, type, { error: UNAVAILABLE });
    }
    return false;
  }

  /**
   * Finds the replica of a stream that replies; `undefined` if this server stays silent, or has
   * reported a missing leader. A single server validates the request before the stream, and
   * receives `null` for a missing stream.
   */
  #leader({ message: { reply }, names: [name = ""], type }: ApiCall): Replica | null | undefined {
    const replica = this.#replicas.get(name);
    if (this.#bus.trouble === "no leader") {
      this.#answer(reply, type, { error: UNAVAILABLE });
      return undefined;
    }
    if (replica?.group.isLeader) return replica;
    if (!this.#isClustered) return null;
    const isMissing = !this.#disk.cluster.state.has(name);
    if (this.#cluster.isLeaderless || replica?.group.isLeaderless) {
      this.#answer(reply, type, { error: UNAVAILABLE });
    } else if (this.#cluster.isLeader && isMissing) this.#answer(reply, type, { error: NOT_FOUND });
    return undefined;
  }

  #accountInfo(call: ApiCall): void {
    if (!this.#responsesForCluster(call)) return;
    const streams = this.#disk.cluster.state.size;
    const unlimited = {
      max_memory: -1,
      max_storage: -1,
      max_streams: -1,
      max_consumers: -1,
      max_ack_pending: -1,
      memory_max_stream_bytes: -1,
      storage_max_stream_bytes: -1,
      max_bytes_required: false,
    };
    const usage = { memory: 0, storage: 0, streams, consumers: 0, limits: unlimited };
    this.#answer(call.message.reply, call.type, { ...usage, api: { total: 0, errors: 0 } });
  }

  #createStream(call: ApiCall): void {
    const { message: { reply }, names: [name], type } = call;
    if (!this.#responsesForCluster(call)) return;
    const given = jsonIn<Partial<StreamConfig> & { readonly name: string }>(call.message);
    if (given === undefined) return this.#answer(reply, type, { error: INVALID_JSON });
    if (given.name !== name) return this.#answer(reply, type, { error: MISMATCH });
    const config = streamConfig(given);
    if ("err_code" in config) return this.#answer(reply, type, { error: config });
    if (config.num_replicas > this.#peers.length) {
      const error = this.#isClustered
        ? { code: 400, err_code: 10005, description: "no suitable peers for placement" }
        : {
          code: 500,
          err_code: 10074,
          description: "replicas > 1 not supported in non-clustered mode",
        };
      return this.#answer(reply, type, { error });
    }
    if (this.#meetsOther(config, call)) return;
    const peers = this.#place(config.num_replicas);
    const createdMs = this.#bus.runtime.now();
    const assignment = { config, createdMs, peers, reply, consumers: new Map() };
    this.#cluster.propose({ kind: "stream", assignment });
  }

  /** Replies to the creation of a stream whose name or subjects are already used. */
  #meetsOther(config: StreamConfig, { message: { reply }, type }: ApiCall): boolean {
    const { state } = this.#disk.cluster;
    const other = state.get(config.name);
    if (other !== undefined) {
      this.#meet(config, other, reply, type);
      return true;
    }
    const isTaken = (subject: string) =>
      [...state.values()].some(({ config }) =>
        config.subjects.some((one) => collide(one, subject))
      );
    if (config.subjects.some(isTaken)) {
      const description = "subjects overlap with an existing stream";
      this.#answer(reply, type, { error: { code: 400, err_code: 10065, description } });
      return true;
    }
    if (state.size < MAX_STREAMS) return false;
    throw new RangeError(`Cannot simulate: at most ${MAX_STREAMS} streams are modeled`);
  }

  /** Replies to a creation with the stream of the same name. */
  #meet(config: StreamConfig, other: Assignment, reply: string, type: string): void {
    if (JSON.stringify(other.config) !== JSON.stringify(config)) {
      return this.#answer(reply, type, { error: NAME_TAKEN });
    }
    const replica = this.#replicas.get(config.name);
    if (!this.#isClustered && replica !== undefined) {
      return this.#answer(reply, type, { ...this.#infoOf(replica, other), did_create: true });
    }
    const headers = headersOf([[RESPONSE_TYPE, "create_response"]]);
    const request = messageOf(`$JS.API.STREAM.INFO.${config.name}`, undefined, headers);
    this.#bus.publish({ ...request, reply });
  }

  /** Chooses servers for a stream; the first one should lead. */
  #place(count: number): string[] {
    const { runtime, host, routes } = this.#bus;
    const online = this.#peers.filter((peer) => peer === host.name || routes.has(peer));
    const offline = this.#peers.filter((peer) => !online.includes(peer));
    const chosen: string[] = [];
    for (const peers of [online, offline]) {
      while (peers.length > 0 && chosen.length < count) {
        chosen.push(...peers.splice(Math.floor(runtime.random() * peers.length), 1));
      }
    }
    return chosen;
  }

  #streamInfo(call: ApiCall): void {
    const { message: { reply, headers }, names: [name = ""] } = call;
    const isCreation = headerIn(headers, RESPONSE_TYPE) === "create_response";
    const type = isCreation ? `${TYPE}stream_create_response` : call.type;
    const assignment = this.#disk.cluster.state.get(name);
    const replica = this.#replicas.get(name);
    if (replica?.group.isLeader || replica?.group.isLeaderless) {
      return this.#answer(reply, type, { ...NO_LIST, ...this.#infoOf(replica, assignment) });
    }
    if (this.#cluster.isLeaderless) {
      this.#bus.later(() => this.#answer(reply, type, { error: UNAVAILABLE }), LEADERLESS_MS);
    } else if (!this.#cluster.isLeader) return;
    else if (assignment === undefined) {
      this.#answer(reply, type, { ...NO_LIST, error: NOT_FOUND });
    } else if (!assignment.peers.some((peer) => this.#isOnline(peer))) {
      const error = { code: 500, err_code: 10118, description: "stream is offline" };
      this.#bus.later(() => this.#answer(reply, type, { error }), LEADERLESS_MS);
    }
  }

  #isOnline(peer: string): boolean {
    return peer === this.#bus.host.name || this.#bus.routes.has(peer);
  }

  #infoOf({ stream, group }: Replica, assignment: Assignment | undefined): object {
    if (!this.#isClustered) return stream.info;
    const { name } = this.#bus.host;
    const replicas = group.peers.filter((peer) => peer !== name).map((peer) => ({ name: peer }));
    const info = stream.info as { readonly state: object };
    const consumers = assignment?.consumers.size ?? 0;
    const state = { ...info.state, consumer_count: consumers };
    const leader = group.isLeader ? name : "";
    return { ...info, state, cluster: { name: "simulated", leader, replicas } };
  }

  #handOver(call: ApiCall): void {
    const replica = this.#leader(call);
    if (replica === undefined) return;
    const { message: { reply }, type } = call;
    if (replica === null) return this.#answer(reply, type, { error: NOT_FOUND });
    this.#answer(reply, type, { success: true });
    replica.group.handOver();
  }

  #deleteStream(call: ApiCall): void {
    const { message: { reply }, names: [name = ""], type } = call;
    if (!this.#responsesForCluster(call)) return;
    if (!this.#disk.cluster.state.has(name)) return this.#answer(reply, type, { error: NOT_FOUND });
    this.#cluster.propose({ kind: "no stream", name, reply });
  }

  #purge(call: ApiCall): void {
    const { message: { reply }, type } = call;
    const reject = (error: ApiError) => this.#answer(reply, type, { error, purged: 0 });
    const replica = this.#leader(call);
    if (replica === undefined) return;
    const asked = jsonIn<{ filter?: string; keep?: number; seq?: number }>(call.message, {});
    if (asked === undefined) return reject(INVALID_JSON);
    const { filter = ">", keep = 0, seq: before = 0 } = asked;
    if (keep > 0 && before > 0) return reject(BAD_REQUEST);
    if (replica === null) return reject(NOT_FOUND);
    if (replica.stream.config.deny_purge) {
      return reject({ code: 500, err_code: 10110, description: "stream purge not permitted" });
    }
    replica.group.propose({ kind: "purge", filter, keep, before, reply });
  }

  #getMessage(call: ApiCall): void {
    const { message: { reply }, type } = call;
    const replica = this.#leader(call);
    if (replica === undefined) return;
    if (call.message.data.length === 0) return this.#answer(reply, type, { error: BAD_REQUEST });
    const query = jsonIn<MessageQuery>(call.message);
    if (query === undefined) return this.#answer(reply, type, { error: INVALID_JSON });
    const { seq = 0, last_by_subj: last, next_by_subj: next } = query;
    if (seq > 0 && last || last && next || seq === 0 && !last && !next) {
      return this.#answer(reply, type, { error: BAD_REQUEST });
    }
    if (replica === null) return this.#answer(reply, type, { error: NOT_FOUND });
    const found = replica.stream.find(query);
    if (found === undefined) {
      const error = { code: 404, err_code: 10037, description: "no message found" };
      return this.#answer(reply, type, { error });
    }
    this.#answer(reply, type, {
      message: {
        subject: found.subject,
        seq: found.seq,
        ...(found.headers !== "" && { hdrs: base64(new TextEncoder().encode(found.headers)) }),
        ...(found.data.length > 0 && { data: base64(found.data) }),
        time: timeOf(found.atMs),
      },
    });
  }

  #deleteMessage(call: ApiCall): void {
    const { message: { reply }, type } = call;
    const replica = this.#leader(call);
    if (replica === undefined) return;
    if (call.message.data.length === 0) return this.#answer(reply, type, { error: BAD_REQUEST });
    const asked = jsonIn<{ readonly seq?: number }>(call.message);
    if (asked === undefined) return this.#answer(reply, type, { error: INVALID_JSON });
    if (replica === null) return this.#answer(reply, type, { error: NOT_FOUND });
    if (replica.stream.config.deny_delete) {
      const error = { code: 500, err_code: 10057, description: "message delete not permitted" };
      return this.#answer(reply, type, { error });
    }
    replica.group.propose({ kind: "remove", seq: asked.seq ?? 0, reply });
  }

  #createConsumer(call: ApiCall): void {
    const { message: { reply }, names: [stream = ""], type } = call;
    if (!this.#responsesForCluster(call)) return;
    const asked = jsonIn<{
      readonly stream_name?: string;
      readonly config: Partial<ConsumerConfig>;
    }>(call.message);
    if (asked === undefined) return this.#answer(reply, type, { error: INVALID_JSON });
    if (asked.stream_name !== stream) return this.#answer(reply, type, { error: MISMATCH });
    const assignment = this.#disk.cluster.state.get(stream);
    if (assignment === undefined) return this.#answer(reply, type, { error: NOT_FOUND });
    if (assignment.consumers.size >= MAX_CONSUMERS) {
      throw new RangeError(`Cannot simulate: at most ${MAX_CONSUMERS} consumers are modeled`);
    }
    const config = consumerConfig(asked.config, this.#newName());
    const { filter_subject: filter } = config;
    if (filter && !assignment.config.subjects.some((subject) => matches(subject, filter))) {
      const description = "consumer filter subject is not a valid subset of the interest subjects";
      return this.#answer(reply, type, { error: { code: 400, err_code: 10093, description } });
    }
    const online = assignment.peers.filter((peer) => this.#isOnline(peer));
    const peers = online.length > 0 ? online : assignment.peers;
    const peer = peers[Math.floor(this.#bus.runtime.random() * peers.length)]!;
    this.#cluster.propose({ kind: "consumer", stream, config, peer, reply });
  }

  #deleteConsumer(call: ApiCall): void {
    const { message: { reply }, names: [stream = "", name = ""], type } = call;
    if (!this.#responsesForCluster(call)) return;
    const assignment = this.#disk.cluster.state.get(stream);
    const error = assignment === undefined
      ? NOT_FOUND
      : assignment.consumers.has(name)
      ? undefined
      : NO_CONSUMER;
    if (error !== undefined) return this.#answer(reply, type, { error });
    this.#cluster.propose({ kind: "no consumer", stream, name, reply });
  }

  /** Creates the name of a consumer: eight letters and digits. */
  #newName(): string {
    let name = "";
    while (name.length < 8) {
      name += Math.floor(this.#bus.runtime.random() * 36).toString(36);
    }
    return name;
  }

  /** Applies a change of the cluster that all servers agreed on. */
  #apply(change: ClusterChange): void {
    const { state } = this.#disk.cluster;
    const isLeader = this.#cluster.isLeader;
    switch (change.kind) {
      case "stream": {
        const { config, reply } = change.assignment;
        const other = state.get(config.name);
        if (other === undefined) {
          state.set(config.name, change.assignment);
          this.#open(change.assignment);
        } else if (isLeader) this.#meet(config, other, reply, `${TYPE}stream_create_response`);
        return;
      }
      case "no stream":
        state.delete(change.name);
        this.#close(change.name);
        this.#disk.streams.delete(change.name);
        this.#ledger.forget(change.name);
        if (isLeader) {
          this.#answer(change.reply, `${TYPE}stream_delete_response`, { success: true });
        }
        return;
      case "consumer": {
        const { stream, config, peer, reply } = change;
        const assignment = state.get(stream);
        if (assignment === undefined) return;
        const consumers = new Map(assignment.consumers).set(config.name, { config, peer });
        state.set(stream, { ...assignment, consumers });
        if (peer !== this.#bus.host.name) return;
        const consumer = this.#openConsumer(stream, config);
        const { info } = consumer ?? {};
        if (info) this.#answer(reply, `${TYPE}consumer_create_response`, info);
        return;
      }
      case "no consumer": {
        const { stream, name, reply } = change;
        const assignment = state.get(stream);
        if (assignment === undefined) return;
        const consumers = new Map(assignment.consumers);
        consumers.delete(name);
        state.set(stream, { ...assignment, consumers });
        const local = this.#replicas.get(stream)?.stream.consumers;
        local?.get(name)?.close();
        local?.delete(name);
        if (isLeader) this.#answer(reply, `${TYPE}consumer_delete_response`, { success: true });
      }
    }
  }

  /** Opens the streams that the cluster has assigned to this server, and closes all others. */
  #reopen(): void {
    const { state } = this.#disk.cluster;
    for (const name of [...this.#disk.streams.keys()]) {
      const isOwn = state.get(name)?.peers.includes(this.#bus.host.name);
      if (isOwn) continue;
      this.#close(name);
      this.#disk.streams.delete(name);
    }
    for (const assignment of state.values()) this.#open(assignment);
  }

  #open(assignment: Assignment): void {
    const { config, createdMs, peers, reply, consumers } = assignment;
    const { name: self } = this.#bus.host;
    if (!peers.includes(self) || this.#replicas.has(config.name)) return;
    const disk = this.#disk.stream(config);
    const isNew = disk.lastIndex === 0;
    const stream = new Stream(this.#bus, config, createdMs, disk.state);
    const group: Group<StreamStore, StreamChange> = new Group<StreamStore, StreamChange>({
      runtime: this.#bus.runtime,
      self,
      peers,
      disk,
      isPreferred: isNew && peers[0] === self,
      nextUid: () => this.#ledger.nextUid(),
      send: (peer, packet) => this.#send(peer, config.name, packet),
      apply: (change, { uid }, index) => this.#change(replica, change, { uid, index }),
      led: () => {
        if (peers.length > 1) this.#bus.note(`leads ${config.name}`);
        this.#onElection(config.name, true);
        this.#ledger.check(config.name, disk, self);
        stream.lead((message) => this.#take(replica, message));
        if (isNew && isFirst(disk)) {
          const type = `${TYPE}stream_create_response`;
          const info = this.#infoOf(replica, assignment);
          this.#answer(reply, type, { ...info, did_create: true });
        }
      },
      followed: () => stream.follow(),
      replaced: () => stream.replace(disk.state),
    });
    const replica: Replica = { stream, group };
    this.#replicas.set(config.name, replica);
    for (const { config: consumer, peer } of consumers.values()) {
      if (peer === self) this.#openConsumer(config.name, consumer);
    }
    if (peers.length > 1 && isNew) this.#onElection(config.name, false);
    group.start();
  }

  #close(name: string): void {
    const replica = this.#replicas.get(name);
    this.#replicas.delete(name);
    replica?.group.close();
    replica?.stream.close();
  }

  #openConsumer(name: string, config: ConsumerConfig): Consumer | undefined {
    const stream = this.#replicas.get(name)?.stream;
    if (stream === undefined) return undefined;
    const consumer = new Consumer({
      bus: this.#bus,
      stream,
      config,
      onIdle: () => {
        const subject = `$JS.API.CONSUMER.DELETE.${name}.${config.name}`;
        this.#bus.publish(messageOf(subject));
      },
    });
    stream.consumers.get(config.name)?.close();
    stream.consumers.set(config.name, consumer);
    return consumer;
  }

  /** Handles a publication for a stream that this server leads. */
  #take({ stream, group }: Replica, message: NatsMessage): void {
    if (group.size > 1) {
      const outcome = stream.check(message, true);
      if (outcome !== undefined) return this.#reply(message, stream.answer(outcome));
    }
    group.propose({ kind: "put", message, atMs: this.#bus.runtime.now() });
  }

  #reply({ reply }: NatsMessage, answer: object | undefined): void {
    if (reply !== "" && answer !== undefined) this.#bus.publish(messageOf(reply, answer));
  }

  /** Applies a change of a stream that all replicas agreed on. */
  #change(
    { stream, group }: Replica,
    change: StreamChange,
    { uid, index }: { readonly uid: number; readonly index: number },
  ): void {
    const { store, config } = stream;
    const { isLeader } = group;
    if (change.kind === "put") {
      const { message, atMs } = change;
      const before = store.last(message.subject)?.seq ?? 0;
      const outcome = stream.put(message, { atMs, isChecked: group.size > 1 });
      if (isLeader) {
        if (outcome.kind === "stored") {
          const { seq } = outcome;
          const again = stream.republished(message, seq, before);
          if (again !== undefined) this.#bus.publish(again);
          const id = headerIn(message.headers, "Nats-Msg-Id") ?? "";
          const { subject, reply } = message;
          if (reply !== "") this.#ledger.add(config.name, { index, uid, subject, seq, id });
        }
        this.#reply(message, stream.answer(outcome));
      }
      return stream.signal();
    }
    if (change.kind === "remove") {
      const error = stream.removalError(change.seq);
      store.remove(change.seq);
      if (!isLeader) return;
      const type = `${TYPE}stream_msg_delete_response`;
      return this.#answer(change.reply, type, error === undefined ? { success: true } : { error });
    }
    const purged = store.purge(change.filter, change);
    const type = `${TYPE}stream_purge_response`;
    if (isLeader) this.#answer(change.reply, type, { success: true, purged });
  }
}

/** Checks whether a stream's log has only the entry of the first leader. */
function isFirst({ lastIndex }: StreamDisk): boolean {
  return lastIndex === 1;
}

function base64(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}
