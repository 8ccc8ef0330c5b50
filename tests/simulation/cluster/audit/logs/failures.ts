/** Writers of durable streams behind failures: full streams, an engine that is away, lost answers. */
import { pause } from "../../../../../base/wait.ts";
import { BrokerError } from "../../../../../errors.ts";
import type { Broker } from "../../../../../pubsub/broker.ts";
import type { AppendLogOptions, LogAppended } from "../../../../../pubsub/logs/log.ts";
import type { DurableStreams } from "../../../../../server/durable/streams.ts";
import type { DurableStreamWriter } from "../../../../../server/durable/writer.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { brokerWithLogs } from "./broker_with_logs.ts";
import { LogMachine, PLENTY, SEARCH_MS, SIGN_SHARE } from "./machine.ts";
import { type Watch, type WatchedEnd, Watchers } from "./watches.ts";

/** Shortest lease of a writer, the range of leases, and a lease that no scene loses, in milliseconds. */
const [LEASE_MS, LEASES_MS, LONG_LEASE_MS] = [1_500, 1_000, 15_000];

/** Longest time between two attempts of an append, in milliseconds. */
const RETRY_MS = 1_000;

/** Time for the calls of an engine, and for readers that try again, in milliseconds. */
const SLACK_MS = 1_200;

/** Time in which a reader that begins behind the end gets all, also many bytes, in milliseconds. */
const LATE_MS = 8_000;

/** Largest difference of two clocks that show whole milliseconds, in milliseconds. */
const TICK_MS = 2;

/** Time between two attempts to take a stream over, in milliseconds. */
const ATTEMPT_MS = 150;

/** Most bytes of a stream of the scenes with a full stream, and characters beyond these. */
const [FULL_BYTES, BEYOND] = [400, "x".repeat(400)] as const;

/** Most records that wait, and most of these once `ready` has resolved. */
const [MAX_WAITING, PACED] = [10_000, 64];

/** Most bytes that wait, and characters of a large record. */
const [MAX_WAITING_BYTES, LARGE] = [8_388_608, 60_000];

/** Bytes of records that surely fit in one page over HTTP, which has at most 1 MiB. */
const MAX_PAGE_BYTES = 1_000_000;

/** Records of a loop that waits for `ready`: small ones, or large ones. */
const PACED_RECORDS = { small: 150, large: 20 } as const;

/** Records of a writer whose answers get lost, and the longest time between two, in milliseconds. */
const [LOSSY_RECORDS, LOSSY_GAP_MS] = [10, 40];

/** Time in which a writer whose answers get lost has written all, in milliseconds. */
const LOSSY_MS = 9_000;

/** Scenes of one audit, beside two with a failed append. */
const SCENES = 3;

/** Readers of a stream at first. */
const READERS = 2;

/** Reasons for an append to fail. */
const CAUSES = ["full", "away", "unanswered", "unanswered late", "unanswered late"] as const;

/** Share of the lease for which the engine is away before it takes an append without an answer. */
const LATE_SHARE = [0.5, 0.9] as const;

/** Operations of a writer behind a failed append. */
const NEXT = [
  "abort",
  "abort",
  "close and abort",
  "append and abort",
  "disposal",
  "release",
  "release",
  "nothing",
  "nothing",
  "successor",
] as const;

/** Ends of a writer whose answers get lost. */
const ENDS = ["close", "abort", "disposal", "release"] as const;

/** Reason of a writer that was disposed of. */
const UNFINISHED = "The writer ended before the stream was complete";

/** Outcome of a call of the engine: as it is, without effect, or with the effect and no answer. */
type Fate = "fine" | "before" | "behind";

/** Decides the fate of a call, and the time until then, in milliseconds. */
type Rule = (name: string, options: AppendLogOptions) => {
  readonly fate?: Fate;
  readonly slowMs?: number;
};

/** A way to the engine, with a rule for the calls of each stream. */
class Way {
  /** Rule of each stream; all calls are fine without one. */
  readonly rules: Map<string, Rule | undefined> = new Map();
  /** Records of each stream that the engine has taken by this way, as JSON. */
  readonly taken: Map<string, string[]> = new Map();
  /** Latest time at which the writer of each stream showed a sign of life. */
  readonly signs: Map<string, number> = new Map();
  readonly #audit: Audit;

  constructor(audit: Audit) {
    this.#audit = audit;
  }

  broker({ runtime }: Host, broker: Broker): Broker {
    return brokerWithLogs(broker, (name, own) => async (...values) => {
      const [id, options] = values as [string, AppendLogOptions];
      const { fate = "fine", slowMs = 0 } = this.rules.get(id)?.(String(name), options) ?? {};
      if (slowMs > 0) await pause(runtime, slowMs);
      if (fate === "before") throw new BrokerError("Cannot call the logs: the engine is away");
      const fromMs = this.#audit.nowMs;
      const result = await own(...values);
      if (name === "append" && (result as LogAppended).kind === "appended") {
        const taken = this.taken.get(id) ?? [];
        this.taken.set(id, [...taken, ...options.records as string[]]);
        if (options.writer !== undefined) this.signs.set(id, fromMs);
      }
      if (fate === "behind") throw new BrokerError("Cannot call the logs: no answer");
      return result;
    });
  }

  /** Returns the records of a stream that the engine has. */
  recordsOf(id: string): string[] {
    return (this.taken.get(id) ?? []).map((record) => JSON.parse(record));
  }
}

/** A machine with its way to the engine. */
interface Site {
  readonly machine: LogMachine;
  readonly way: Way;
  readonly node: DurableStreams;
  readonly watchers: Watchers;
  readonly close: () => Promise<void>;
}

/**
 * Plays scenes of writers that fail, each on a stream of its own.
 *
 * @param audit The audit.
 */
export async function auditFailures(audit: Audit): Promise<void> {
  const random = audit.chanceOf("failures");
  const ways = new Map<Host, Way>();
  const brokerOf = (host: Host) => {
    const way = ways.get(host) ?? new Way(audit);
    ways.set(host, way);
    return way.broker(host, audit.broker(host));
  };
  const siteOf = (machine: LogMachine, maxStreamBytes: number): Site => {
    const parts = machine.streams({ bounds: { ...PLENTY, maxStreamBytes } });
    return {
      machine,
      way: ways.get(machine.host)!,
      node: parts.node,
      watchers: new Watchers(machine, parts, random),
      close: () => machine.run(() => parts.streams.close()),
    };
  };
  const scenes = [failing, lossy, quiet, crowded, closing];
  while (scenes.length > SCENES) scenes.splice(Math.floor(scenes.length * random()), 1);
  scenes.push(failing, failing);
  const names = ["failures-near", "failures-far"];
  await LogMachine.use(audit, names, async ([near, far]) => {
    const small = siteOf(near!, FULL_BYTES);
    const writing = siteOf(near!, PLENTY.maxStreamBytes);
    const reading = siteOf(far!, PLENTY.maxStreamBytes);
    await Promise.all(scenes.map((scene, i) => {
      const site = scene === failing ? small : writing;
      return scene(new Scene(audit, { near: site, far: reading, random }, `audited-failures-${i}`));
    }));
    await audit.until(() => reading.watchers.waiting === 0, SLACK_MS);
    audit.examine("durable", "readers over HTTP at the end", 0, reading.watchers.waiting);
    for (const { node, machine: { host } } of [small, writing, reading]) {
      const active = [...node.activity().keys()];
      audit.examine("durable", `streams in use on ${host.name} at the end`, [], active);
    }
    for (const site of [small, writing, reading]) await site.close();
  }, brokerOf);
}

/** The stream of one scene, with readers on the far machine. */
class Scene {
  readonly audit: Audit;
  readonly near: Site;
  readonly far: Site;
  readonly id: string;
  readonly random: () => number;
  readonly leaseMs: number;
  /** Records whose append resolved, and all records in the order of the appends. */
  readonly sure: string[] = [];
  readonly all: string[] = [];
  readonly #watches: Watch[] = [];
  #createdMs = 0;

  constructor(
    audit: Audit,
    { near, far, random }: {
      readonly near: Site;
      readonly far: Site;
      readonly random: () => number;
    },
    id: string,
  ) {
    this.audit = audit;
    this.near = near;
    this.far = far;
    this.random = random;
    this.id = id;
    this.leaseMs = Math.round(LEASE_MS + LEASES_MS * random());
  }

  /** Creates the stream, with readers. */
  async create(leaseMs: number = this.leaseMs): Promise<DurableStreamWriter<string>> {
    const { near: { machine, node }, id } = this;
    this.#createdMs = this.audit.nowMs;
    const writer = await machine.run(() => node.createLeased<string>(id, { leaseMs }));
    for (let i = 0; i < READERS; i++) this.watch();
    return writer;
  }

  /** True if the lease of the writer may have lapsed. */
  get canBeLost(): boolean {
    const signMs = this.near.way.signs.get(this.id) ?? this.#createdMs;
    return this.audit.nowMs - signMs > this.leaseMs - TICK_MS;
  }

  /** Lets one more reader follow the stream, from the beginning. */
  watch(): void {
    this.#watches.push(this.far.watchers.follow(this.id));
  }

  /** Sets the fate of the calls of the writer's machine. */
  set rule(rule: Rule | undefined) {
    this.near.way.rules.set(this.id, rule);
  }

  /** Sets the fate of the calls of the readers' machine. */
  set farRule(rule: Rule | undefined) {
    this.far.way.rules.set(this.id, rule);
  }

  chance(share: number): boolean {
    return this.random() < share;
  }

  /** Runs a call as the program of the writer. */
  run<T>(act: () => T | Promise<T>): Promise<T> {
    return this.near.machine.run(act);
  }

  /** Appends the next record, or a given one, and notes the outcome. */
  append(writer: DurableStreamWriter<string>, text?: string): Promise<string> {
    const record = text ?? `r${this.all.length}`;
    this.all.push(record);
    return outcomeOf(writer.append(record)).then((outcome) => {
      if (outcome === "fulfilled") this.sure.push(record);
      return outcome;
    });
  }

  /** Appends records one after the other, or at once. */
  async appendSome(writer: DurableStreamWriter<string>, count: number): Promise<void> {
    const outcomes: Promise<string>[] = [];
    for (let left = count; left > 0; left--) {
      outcomes.push(this.run(() => this.append(writer)));
      if (this.chance(0.6)) await outcomes.at(-1);
    }
    const fulfilled = outcomes.map(() => "fulfilled");
    this.expect("appends", fulfilled, await Promise.all(outcomes));
  }

  /** Reads the end of the stream, if there is one by now, and the newest offset. */
  async state(): Promise<{ readonly end: WatchedEnd | undefined; readonly offset: string }> {
    const { far: { machine, node }, id } = this;
    const info = await machine.run(() => node.info(id));
    if (info === undefined) return { end: { code: "missing" }, offset: "none" };
    const { isEnded, error, code, offset } = info;
    if (!isEnded) return { end: undefined, offset };
    if (error === undefined) return { end: { code: "complete" }, offset };
    const isLost = error === "writer-lost";
    return { end: { code: isLost ? error : code ?? "aborted", reason: error }, offset };
  }

  /** Expects that the engine has a prefix of the records, with all whose append resolved. */
  expectKept(): void {
    const kept = this.near.way.recordsOf(this.id);
    this.expect("records in order", this.all.slice(0, kept.length), kept);
    const missing = this.sure.filter((record) => !kept.includes(record));
    this.expect("records that are missing", [], missing);
  }

  /** Expects the records that the engine took, and an end, of all readers and of late ones. */
  async expectAll(end: WatchedEnd, withinMs: number, records?: string[]): Promise<void> {
    const { audit, far: { watchers }, id } = this;
    this.expectKept();
    const expected = records ?? this.near.way.recordsOf(id);
    await audit.until(() => this.#watches.every((watch) => watch.end !== undefined), withinMs);
    this.farRule = undefined;
    const { end: told } = await this.state();
    this.expect("end", { reason: end.code, ...end }, { reason: told?.code, ...told });
    const late = watchers.follow(id);
    await audit.until(() => late.end !== undefined, LATE_MS);
    for (const watch of [...this.#watches, late]) {
      const of = `of a reader by ${watch.face}`;
      this.expect(`end ${of}`, Watchers.textOf(watch, end), watch.end ?? "none in time");
      this.expect(`records ${of}`, expected, watch.records);
    }
    await this.#expectAtOnce(expected, end);
  }

  /** Expects the records, and the end, of one loop and of one request, now that there is the end. */
  async #expectAtOnce(expected: readonly string[], end: WatchedEnd): Promise<void> {
    const { far: { machine, node, watchers }, id } = this;
    const offsets = ["-1"];
    const read: string[] = [];
    await machine.run(async () => {
      for await (const { data, offset } of node.read<string>(id)) {
        read.push(data);
        offsets.push(offset);
      }
    });
    this.expect("records at once", expected, read);
    if (expected.join("").length > MAX_PAGE_BYTES) return;
    // One request gets all records behind any offset.
    const place = Math.floor(offsets.length * this.random());
    const page = await machine.run(() => watchers.page(id, offsets[place]!));
    const reason = end.code === "complete" ? "complete" : end.reason ?? end.code;
    this.expect("page", { records: expected.slice(place), end: reason }, page);
  }

  /** Deletes the stream. */
  async end(): Promise<void> {
    this.rule = this.farRule = undefined;
    await this.far.machine.run(() => this.far.node.delete(this.id));
  }

  expect(what: string, expected: unknown, received: unknown): void {
    this.audit.examine("durable", `${what} of ${this.id}`, expected, received);
  }
}

/** A failed append fails the writer: readers get what was kept, and the end that the writer tells. */
async function failing(scene: Scene): Promise<void> {
  const { audit, random } = scene;
  const writer = await scene.create();
  await scene.appendSome(writer, Math.floor(4 * random()));
  const cause = oneOf(random, CAUSES);
  const code = cause === "full" ? "full" : "BrokerError";
  let attempts = 0;
  const fromMs = audit.nowMs;
  // An append that is taken late renews the lease: what follows the failure has an effect.
  const takenMs = fromMs + scene.leaseMs * between(random, ...LATE_SHARE);
  const isTaken = () =>
    cause === "unanswered" && attempts++ === 0 ||
    cause === "unanswered late" && audit.nowMs >= takenMs;
  if (cause !== "full") {
    scene.rule = (name) => name === "append" ? { fate: isTaken() ? "behind" : "before" } : {};
  }
  const outcomes = await scene.run(async () => {
    const appends = [scene.append(writer, cause === "full" ? BEYOND : undefined)];
    if (scene.chance(0.5)) await null;
    for (let left = Math.floor(3 * random()); left > 0; left--) appends.push(scene.append(writer));
    // A close that waits for the records fails with these, and an abort has effect later. But if the
    // answer got lost, the engine may have taken the end with the records.
    const isClosed = (cause === "full" || cause === "away") && scene.chance(0.4);
    if (isClosed) appends.push(outcomeOf(writer.close()));
    const withinMs = scene.leaseMs + 2 * RETRY_MS + SLACK_MS;
    return await audit.inTime(Promise.all(appends), withinMs, ["none in time"]);
  });
  scene.expect(`appends behind a failure (${cause})`, outcomes.map(() => code), outcomes);
  const failedMs = audit.nowMs - fromMs;
  const isInTime = cause === "full" || failedMs >= scene.leaseMs - SLACK_MS;
  scene.expect("time of attempts", true, isInTime);
  const { aborted, reason } = writer.signal;
  const failed = await outcomeOf(Promise.reject(reason));
  scene.expect("signal of a failed writer", [true, code], [aborted, failed]);
  const ready = await outcomeOf(writer.ready);
  scene.expect("wait of a failed writer", "fulfilled", ready);
  if (scene.chance(0.3)) await audit.pause(scene.leaseMs * random());
  await goOn(scene, writer, code);
  await scene.end();
}

/** Makes drawn calls behind a failure, and expects the end that these lead to. */
async function goOn(
  scene: Scene,
  writer: DurableStreamWriter<string>,
  code: string,
): Promise<void> {
  const { random, leaseMs } = scene;
  const next = oneOf(random, NEXT);
  const own: WatchedEnd = scene.chance(0.6)
    ? { code: "tired", reason: "given up" }
    : { code: "aborted", reason: "given up" };
  const abort = () =>
    writer.abort(own.reason!, { ...(own.code !== "aborted" && { code: own.code }) });
  // The call that ends the stream may lose its answer as well, or get none at first.
  const fates: Fate[] = oneOf(random, [[], ["behind"], ["before"], ["before", "behind"]]);
  scene.rule = (name) => name === "append" ? { fate: fates.shift() ?? "fine" } : {};
  const lostMs = leaseMs + SEARCH_MS + SLACK_MS;
  const behind = (calls: readonly (() => Promise<unknown>)[]) =>
    scene.run(() => Promise.all(calls.map((call) => outcomeOf(call()))));
  const toldMs = 2 * RETRY_MS + SLACK_MS;
  const acts = {
    "abort": { calls: [abort], outcomes: ["fulfilled"] },
    "close and abort": { calls: [() => writer.close()], outcomes: [code] },
    "append and abort": {
      calls: [() => writer.append("late"), abort],
      outcomes: [code, "fulfilled"],
    },
    "disposal": { calls: [() => writer[Symbol.asyncDispose]()], outcomes: ["fulfilled"] },
  };
  if (next === "nothing" || next === "release") {
    if (next === "release") {
      scene.expect("release behind a failure", [code], await behind([() => writer.release()]));
    }
    await scene.expectAll({ code: "writer-lost" }, lostMs);
    return;
  }
  if (next === "successor") return await succeed(scene, writer);
  const { calls, outcomes } = acts[next];
  scene.expect(`${next} behind a failure`, outcomes, await behind(calls));
  if (next === "close and abort") {
    if (scene.chance(0.3)) {
      scene.expect("close again", [code], await behind([() => writer.close()]));
    }
    scene.expect("abort behind a close", ["fulfilled"], await behind([abort]));
  }
  if (scene.chance(0.3)) {
    const again = await behind([() => writer.abort("again", { code: "late" })]);
    scene.expect("abort again", ["fulfilled"], again);
  }
  const told = next === "disposal" ? { code: "aborted", reason: UNFINISHED } : own;
  const { end } = await scene.state();
  // The calls have no effect once the lease has lapsed.
  const isLost = scene.canBeLost && (end === undefined || end.code === "writer-lost");
  if (!isLost) scene.expect("end at once", told, end ?? "none");
  scene.expect("append behind the end", [code], await behind([() => writer.append("late")]));
  await scene.expectAll(isLost ? { code: "writer-lost" } : told, isLost ? lostMs : toldMs);
}

/** Another program takes the stream over from a failed writer, whose abort has no effect then. */
async function succeed(scene: Scene, writer: DurableStreamWriter<string>): Promise<void> {
  const { audit, far: { machine, node }, id, leaseMs } = scene;
  scene.rule = undefined;
  const endMs = audit.nowMs + leaseMs + SLACK_MS;
  let successor: DurableStreamWriter<string> | undefined;
  let outcome = "held";
  while (outcome === "held" && audit.nowMs < endMs) {
    await audit.pause(ATTEMPT_MS);
    const opening = machine.run(() => node.openLeased<string>(id, LONG_LEASE_MS));
    outcome = await outcomeOf(opening.then((opened) => successor = opened));
  }
  const isTaken = outcome === "fulfilled";
  scene.expect("takeover from a failed writer", isTaken ? outcome : "ended", outcome);
  const kept = scene.near.way.recordsOf(id);
  if (successor !== undefined) {
    const { offset } = await scene.state();
    scene.expect("offset of a successor", offset, successor.offset);
    for (const record of ["s0", "s1"]) {
      kept.push(record);
      const appending = machine.run(() => successor!.append(record));
      scene.expect("append of a successor", "fulfilled", await outcomeOf(appending));
    }
  }
  const late = scene.chance(0.5)
    ? scene.run(() => writer.abort("late"))
    : scene.run(() => writer[Symbol.asyncDispose]());
  scene.expect("abort of a writer that lost the stream", "fulfilled", await outcomeOf(late));
  if (successor === undefined) return await scene.expectAll({ code: "writer-lost" }, SLACK_MS);
  kept.push("s2");
  const appending = machine.run(() => successor!.append("s2"));
  scene.expect("append of a successor", "fulfilled", await outcomeOf(appending));
  const closing = outcomeOf(machine.run(() => successor!.close()));
  scene.expect("close of a successor", "fulfilled", await closing);
  await scene.expectAll({ code: "complete" }, SLACK_MS, kept);
}

/** A writer whose answers get lost, and readers whose reads fail: each record comes once. */
async function lossy(scene: Scene): Promise<void> {
  const { audit, random } = scene;
  const writer = await scene.create(LONG_LEASE_MS);
  const fate = (): Fate => scene.chance(0.45) ? scene.chance(0.5) ? "before" : "behind" : "fine";
  const slowMs = () => scene.chance(0.3) ? 30 * random() : 0;
  scene.rule = (name, options) => {
    // A release has no producer, and is not made again.
    const isAgain = name === "append" && options.producer !== undefined;
    return isAgain ? { fate: fate(), slowMs: slowMs() } : {};
  };
  scene.farRule = (name) => name === "read" ? { fate: fate(), slowMs: slowMs() } : {};
  const outcomes: Promise<string>[] = [];
  for (let left = LOSSY_RECORDS; left > 0; left--) {
    outcomes.push(scene.run(() => scene.append(writer)));
    await audit.pause(scene.chance(0.3) ? 0 : LOSSY_GAP_MS * random());
    if (scene.chance(0.1)) scene.watch();
  }
  const end = oneOf(random, ENDS);
  const acts = {
    close: () => writer.close(),
    abort: () => writer.abort("given up", { code: "tired" }),
    disposal: () => writer[Symbol.asyncDispose](),
    release: () => writer.release(),
  };
  outcomes.push(outcomeOf(scene.run(acts[end])));
  const received = await audit.inTime(Promise.all(outcomes), LOSSY_MS, ["none in time"]);
  scene.expect(`appends and ${end} without answers`, ["fulfilled"], [...new Set(received)]);
  scene.rule = scene.farRule = undefined;
  const { offset } = await scene.state();
  scene.expect("offset of a writer", offset, writer.offset);
  const kept = scene.near.way.recordsOf(scene.id);
  scene.expect("records that are kept", scene.all.length, kept.length);
  if (end !== "release") {
    const ends: Record<typeof end, WatchedEnd> = {
      close: { code: "complete" },
      abort: { code: "tired", reason: "given up" },
      disposal: { code: "aborted", reason: UNFINISHED },
    };
    await scene.expectAll(ends[end], SLACK_MS);
  } else {
    const { far: { machine, node }, id } = scene;
    const next = await machine.run(() => node.openLeased<string>(id, LONG_LEASE_MS));
    scene.expect("close of the next writer", "fulfilled", await outcomeOf(next.close()));
    await scene.expectAll({ code: "complete" }, SLACK_MS);
  }
  await scene.end();
}

/** A writer with nothing to append keeps the lease, and hears of a wish, though calls fail. */
async function quiet(scene: Scene): Promise<void> {
  const { audit, random, far: { machine, node }, id, leaseMs } = scene;
  const writer = await scene.create();
  await scene.appendSome(writer, Math.floor(3 * random()));
  let hasFailed = false;
  let areReadsAway = false;
  scene.rule = (name, { records }) => {
    if (name === "read" && areReadsAway) return { fate: "before" };
    if (name !== "append" || records.length > 0) return {};
    // Never twice in a row: the lease would lapse.
    hasFailed = !hasFailed && scene.chance(0.6);
    return { fate: hasFailed ? "before" : "fine" };
  };
  const attempts = 3 + Math.floor(3 * random());
  const wishAt = Math.floor(attempts * random());
  for (let i = 0; i < attempts; i++) {
    await audit.pause(leaseMs * between(random, 0.3, 0.8));
    const opening = outcomeOf(machine.run(() => node.open(id)));
    scene.expect("takeover from a quiet writer", "held", await opening);
    if (i !== wishAt) continue;
    areReadsAway = scene.chance(0.7);
    await machine.run(() => node.cancel(id, "enough"));
    if (areReadsAway) await audit.pause(leaseMs * SIGN_SHARE * random());
    areReadsAway = false;
    // Another renewal follows a failed one.
    await audit.until(() => writer.signal.aborted, leaseMs + SLACK_MS);
    const { reason } = writer.signal;
    scene.expect("wish", ["cancelled", "enough"], [reason?.failure?.code, reason?.message]);
  }
  await scene.appendSome(writer, 2);
  scene.expect("close", "fulfilled", await outcomeOf(scene.run(() => writer.close())));
  await scene.expectAll({ code: "complete" }, SLACK_MS);
  await scene.end();
}

/** An engine that is slow, and then away: a loop keeps the pace, and a full queue refuses more. */
async function crowded(scene: Scene): Promise<void> {
  const { audit, random, leaseMs } = scene;
  const writer = await scene.create();
  const isLarge = scene.chance(0.4);
  const count = isLarge ? PACED_RECORDS.large : PACED_RECORDS.small;
  const text = isLarge ? "x".repeat(LARGE) : "x";
  scene.rule = (name) => name === "append" ? { slowMs: 10 * random() } : {};
  await scene.run(async () => {
    let most = 0;
    const appends: Promise<string>[] = [];
    for (let i = 0; i < count; i++) {
      await writer.ready;
      most = Math.max(most, writer.waiting);
      appends.push(scene.append(writer, `${i}${text}`));
    }
    scene.expect(`${most} records that wait, at most ${PACED}`, true, most <= PACED);
    scene.expect("appends at a pace", ["fulfilled"], [...new Set(await Promise.all(appends))]);
  });
  let isAway = true;
  scene.rule = (name) => name === "append" && isAway ? { fate: "before" } : {};
  const most = isLarge ? Math.floor(MAX_WAITING_BYTES / (LARGE + 2)) : MAX_WAITING;
  const outcomes = await scene.run(() => {
    const all = Array.from({ length: most + 1 }, () => outcomeOf(writer.append(text)));
    scene.expect("records that wait", most, writer.waiting);
    return audit.inTime(Promise.all(all), leaseMs + 2 * RETRY_MS + SLACK_MS, ["none in time"]);
  });
  const { length } = outcomes.filter((outcome) => outcome === "BrokerError");
  scene.expect("records that fail", most, length);
  scene.expect("record beyond a full queue", "QueueFullError", outcomes.at(-1));
  isAway = false;
  const aborting = outcomeOf(scene.run(() => writer.abort("given up", { code: "tired" })));
  scene.expect("abort behind a full queue", "fulfilled", await aborting);
  const { end } = await scene.state();
  const isLost = end === undefined || end.code === "writer-lost";
  const told: WatchedEnd = isLost ? { code: "writer-lost" } : { code: "tired", reason: "given up" };
  await scene.expectAll(told, SEARCH_MS + SLACK_MS);
  await scene.end();
}

/** A server that closes tells the readers of its writers, at once or by the lapse of the lease. */
async function closing(scene: Scene): Promise<void> {
  const { audit, random, near: { machine }, id, leaseMs } = scene;
  const parts = machine.streams();
  const own = { ...scene.near, node: parts.node };
  const other = new Scene(audit, { near: own, far: scene.far, random }, id);
  const writer = await other.create(leaseMs);
  await other.appendSome(writer, Math.floor(3 * random()));
  const isAway = random() < 0.5;
  let calls = 0;
  other.rule = (name, { writer: lease }) => {
    // Searches of the machine have no lease, and go on.
    if (name !== "append" || lease === undefined) return {};
    calls++;
    return { fate: isAway ? "before" : random() < 0.3 ? "behind" : "fine" };
  };
  const appends: Promise<string>[] = [];
  const close = machine.run(async () => {
    for (let left = Math.floor(4 * random()); left > 0; left--) appends.push(other.append(writer));
    if (random() < 0.5) await null;
    await parts.node.close();
    await parts.streams.close();
    return "closed";
  });
  const closed = await audit.inTime(close, 2_000 + SLACK_MS, "not closed in time");
  other.expect("close of a node", "closed", closed);
  await audit.inTime(Promise.all(appends), RETRY_MS + SLACK_MS, undefined);
  const before = calls;
  await audit.pause(2 * RETRY_MS);
  other.expect("calls of a closed node", before, calls);
  other.expect("writers of a closed node", [], [...parts.node.activity().keys()]);
  if (!isAway) {
    const { end } = await other.state();
    other.expect("end at once", "writer-lost", end?.code);
  }
  await other.expectAll({ code: "writer-lost" }, leaseMs + SEARCH_MS + SLACK_MS);
  await other.end();
}
