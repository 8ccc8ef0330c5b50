/** Writers of durable streams under a lease: quiet ones, lost ones, and those that hand over. */
import { pause } from "../../../../../base/wait.ts";
import type { DurableStreamWriter } from "../../../../../server/durable/writer.ts";
import { oneOf } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { range } from "../../../../properties/outcomes.ts";
import { auditFailures } from "./failures.ts";
import { LogMachine, SEARCH_MS, SIGN_SHARE } from "./machine.ts";

/** Shortest lease of a writer, and the range of leases, in milliseconds. */
const [LEASE_MS, LEASES_MS] = [2_000, 1_500];

/** Time for which a released stream waits for the next writer, in milliseconds. */
const RELEASED_MS = 5_000;

/** Time for the calls of an engine, in milliseconds. */
const SLACK_MS = 700;

/** Time between two attempts to take a stream over, in milliseconds. */
const ATTEMPT_MS = 150;

/** Records of a writer whose connections are cut, and the longest time between two, in milliseconds. */
const [CUT_RECORDS, CUT_GAP_MS] = [8, 25];

/** Lease of a writer whose connections are cut, in milliseconds: longer than the way back. */
const CUT_LEASE_MS = 15_000;

/** Time within which a connection is there again, in milliseconds. */
const BEGUN_MS = 1_000;

/** Time in which a writer whose connections are cut has appended all, in milliseconds. */
const BACK_MS = 9_000;

/** Fewest records of a burst, and the range: one append of the engine takes 1,000. */
const [BURST, BURST_RANGE] = [800, 1_600];

/** Time in which the engine takes a burst, and readers get the records, in milliseconds. */
const BURST_MS = 3_000;

/** Share of the lease between two calls of other programs, at least, and the range. */
const [BUSY_SHARE, BUSY_RANGE] = [0.08, 0.12];

/** Scenes of one audit, drawn from all, beside the writers that come late. */
const SCENES = 4;

/** Most machines of one scene that lose the stream one after the other. */
const MAX_FORMER = 2;

/** Operations of a writer that may have lost the stream. */
const LATE = [
  "append",
  "close",
  "close",
  "append and close",
  "appends",
  "abort",
  "abort",
  "disposal",
  "append and abort",
  "release",
  "renewal",
] as const;

/** Ways in which a burst of records ends. */
const BURST_ENDS = ["close", "close", "abort", "release"] as const;

/** Steps of promises after which an append is under way. */
const STEPS = 3;

/** Ways in which other programs stop a writer. */
const STOPS = ["cancelled", "deleted", "created again", "ended", "ended"] as const;

/** A program of a machine that reads and writes streams. */
class Program {
  readonly machine: LogMachine;
  readonly streams: ReturnType<LogMachine["streams"]>["streams"];
  readonly node: ReturnType<LogMachine["streams"]>["node"];

  constructor(machine: LogMachine) {
    const { node, streams } = machine.streams();
    this.machine = machine;
    this.streams = streams;
    this.node = node;
  }

  /** Reads a stream to its end. */
  follow(id: string): Followed {
    const followed: Followed = { records: [], outcome: undefined };
    const read = async () => {
      for await (const { data } of this.node.follow<number>(id)) followed.records.push(data);
    };
    void outcomeOf(this.machine.run(read)).then((outcome) => followed.outcome = outcome);
    return followed;
  }

  close(): Promise<void> {
    return this.machine.run(() => this.streams.close());
  }
}

/** Time of the last sign of a writer, and the silence at whose length the lease is over. */
interface Lapse {
  readonly lostMs: number;
  readonly fromMs: number;
  readonly toMs: number;
}

/** A reader, with the records so far, and the end. */
interface Followed {
  readonly records: number[];
  outcome: string | undefined;
}

/**
 * Plays scenes of writers, each on a stream of its own.
 *
 * @param audit The audit.
 */
export async function auditWriters(audit: Audit): Promise<void> {
  const { random } = audit;
  const scenes = [quiet, lost, burst, released, cut, stopped, stopped];
  while (scenes.length > SCENES) scenes.splice(Math.floor(scenes.length * random()), 1);
  scenes.push(overtaken);
  const failing = auditFailures(audit);
  await LogMachine.use(audit, ["writers-near", "writers-far"], async ([near, far]) => {
    const programs = [new Program(near!), new Program(far!)] as const;
    const play = (scene: typeof quiet, i: number) =>
      scene(new Stage(audit, programs, { id: `audited-${scene.name}-${i}`, random }));
    await Promise.all(scenes.map(play));
    for (const { node, machine } of programs) {
      const active = [...node.activity().keys()];
      audit.examine("durable", `streams in use on ${machine.host.name} at the end`, [], active);
    }
    await Promise.all(programs.map((program) => program.close()));
  });
  await failing;
}

/** The parts of one scene. */
class Stage {
  readonly audit: Audit;
  readonly near: Program;
  readonly far: Program;
  readonly id: string;
  readonly leaseMs: number;
  readonly random: () => number;

  constructor(
    audit: Audit,
    [near, far]: readonly [Program, Program],
    { id, random }: { readonly id: string; readonly random: () => number },
  ) {
    this.audit = audit;
    this.near = near;
    this.far = far;
    this.id = id;
    this.random = random;
    this.leaseMs = LEASE_MS + LEASES_MS * random();
  }

  /** Creates the stream of the scene. */
  create(
    { machine, node }: Program = this.near,
    options: { readonly ttlMs?: number } = {},
    leaseMs: number = this.leaseMs,
  ): Promise<DurableStreamWriter<number>> {
    return machine.run(() => node.createLeased<number>(this.id, { ...options, leaseMs }));
  }

  /** Opens the stream at the far machine, or at another one. */
  open({ machine, node }: Program = this.far): Promise<DurableStreamWriter<number>> {
    return machine.run(() => node.openLeased<number>(this.id, this.leaseMs));
  }

  /** Starts a machine with a program of its own; `undefined` if the engine does not answer. */
  async start(name: string): Promise<Program | undefined> {
    const machine = await LogMachine.start(this.audit, name);
    if (machine === undefined) return void this.expect("machine of a writer", "ready", "not ready");
    return new Program(machine);
  }

  /** Times within which the lease of a writer that is lost now is over. */
  lapse(): Lapse {
    const { leaseMs, audit: { nowMs: lostMs } } = this;
    return {
      lostMs,
      fromMs: leaseMs * (1 - SIGN_SHARE) - SLACK_MS,
      toMs: leaseMs + SLACK_MS,
    };
  }

  /** Takes the stream over from a lost writer; `undefined` if a search was first. */
  async takeOver(
    { lostMs, fromMs, toMs }: Lapse,
    by?: Program,
  ): Promise<DurableStreamWriter<number> | undefined> {
    const silentMs = () => this.audit.nowMs - lostMs;
    const times = `after ${Math.round(fromMs)} to ${Math.round(toMs)} ms`;
    let next: DurableStreamWriter<number> | undefined;
    let outcome = "held";
    while (outcome === "held" && silentMs() <= toMs) {
      await this.audit.pause(ATTEMPT_MS);
      outcome = await outcomeOf(this.open(by).then((writer) => next = writer));
    }
    const isInTime = silentMs() >= fromMs && silentMs() <= toMs + ATTEMPT_MS;
    const received = isInTime && (outcome === "fulfilled" || outcome === "ended") ? times : "";
    const when = `${outcome} after ${Math.round(silentMs())} ms`;
    this.expect("takeover from a lost writer", times, received || when);
    return next;
  }

  /** Appends a record without a lease, or cancels the stream, which stays open. */
  async disturb(record: () => string): Promise<void> {
    const { machine, node, streams } = this.far;
    if (this.random() < 0.1) {
      await machine.run(() => node.cancel(this.id, "enough"));
      return;
    }
    const { kind } = await machine.run(() => streams.append(this.id, { records: [record()] }));
    this.expect("append of another program", "appended", kind);
  }

  /** Deletes the stream. */
  async end(): Promise<void> {
    await this.far.machine.run(() => this.far.node.delete(this.id));
  }

  expect(what: string, expected: unknown, received: unknown): void {
    this.audit.examine("durable", `${what} of ${this.id}`, expected, received);
  }

  /** Lets a writer without the stream go on: the writer is refused, and readers notice nothing. */
  async expectRefusal(
    machine: LogMachine,
    writer: DurableStreamWriter<number>,
    code: string,
  ): Promise<void> {
    const late = oneOf(this.random, LATE);
    let expected: unknown = code;
    const outcome = await machine.run(async (): Promise<unknown> => {
      switch (late) {
        case "append":
          return await outcomeOf(writer.append(-1));
        case "close":
          return await outcomeOf(writer.close());
        case "append and close": {
          expected = [code, code];
          return await Promise.all([writer.append(-1), writer.close()].map(outcomeOf));
        }
        case "appends": {
          // The second one waits for the first one.
          expected = [code, code];
          const first = writer.append(-1);
          for (let step = 0; step < STEPS; step++) await Promise.resolve();
          return await Promise.all([first, writer.append(-1)].map(outcomeOf));
        }
        case "abort":
          // Without effect for a writer that is lost.
          expected = "fulfilled";
          return await outcomeOf(writer.abort("too late"));
        case "disposal":
          expected = "fulfilled";
          return await outcomeOf(writer[Symbol.asyncDispose]());
        case "append and abort":
          expected = [code, "fulfilled"];
          return await Promise.all([writer.append(-1), writer.abort("too late")].map(outcomeOf));
        case "release":
          return await outcomeOf(writer.release());
        case "renewal":
          return code;
      }
    });
    this.expect(`${late} of a writer without the stream`, expected, outcome);
    if (late === "release" || late === "abort" || late === "disposal") return;
    const withinMs = late === "renewal" ? this.leaseMs * SIGN_SHARE + SLACK_MS : 0;
    await this.audit.until(() => writer.signal.aborted, withinMs);
    const { reason } = writer.signal;
    this.expect(`signal of a writer behind ${late}`, code, reason?.failure?.code);
    for (const next of [() => writer.append(-1), () => writer.close()]) {
      this.expect(`next call of a writer behind ${late}`, code, await outcomeOf(next()));
    }
  }

  /** Expects the records from 0 on, and an end. */
  async expectAll(
    followed: Followed,
    count: number,
    { outcome = "fulfilled", withinMs = SLACK_MS }: {
      readonly outcome?: string;
      readonly withinMs?: number;
    } = {},
  ): Promise<void> {
    await this.audit.until(() => followed.outcome !== undefined, withinMs);
    this.expect("end for a reader", outcome, followed.outcome ?? "none in time");
    this.expect("records for a reader", range(0, count - 1), followed.records);
  }
}

/** A writer with little to append keeps the lease for as long as the writer lives. */
async function quiet(stage: Stage): Promise<void> {
  const { audit, random, leaseMs } = stage;
  const writer = await stage.create();
  const followed = stage.far.follow(stage.id);
  let count = 0;
  for (let left = Math.floor(3 * random()); left > 0; left--) {
    stage.expect("append", "fulfilled", await outcomeOf(writer.append(count++)));
    await audit.pause(0.4 * leaseMs * random());
  }
  const isBusy = random() < 0.6;
  for (const endMs = audit.nowMs + 3.2 * leaseMs; audit.nowMs < endMs;) {
    const share = isBusy ? BUSY_SHARE + BUSY_RANGE * random() : 0.5 + 0.5 * random();
    await audit.pause(leaseMs * share);
    // Calls of other programs neither renew the lease nor keep the writer from that.
    if (isBusy) await stage.disturb(() => `${count++}`);
    if (isBusy && random() < 0.7) continue;
    stage.expect("takeover from a quiet writer", "held", await outcomeOf(stage.open()));
  }
  stage.expect("append after a silence", "fulfilled", await outcomeOf(writer.append(count++)));
  stage.expect("close", "fulfilled", await outcomeOf(writer.close()));
  await stage.expectAll(followed, count);
  await stage.end();
}

/** A writer whose machine ends, or stands still, loses the stream once the lease is over. */
async function lost(stage: Stage): Promise<void> {
  const { audit, random, leaseMs, id, far } = stage;
  const program = await stage.start(id);
  if (program === undefined) return;
  const { machine } = program;
  const [isFrozen, isTaken, isClosed] = [random() < 0.7, random() < 0.6, random() < 0.5];
  const writer = await stage.create(
    program,
    random() < 0.5 ? { ttlMs: 60_000 } : {},
  );
  const followed = far.follow(id);
  let count = 1 + Math.floor(2 * random());
  for (let record = 0; record < count; record++) await writer.append(record);
  await audit.pause(leaseMs * 1.5 * random());
  if (isFrozen) machine.host.freeze();
  else machine.end();
  const lapse = stage.lapse();
  const next = isTaken ? await stage.takeOver(lapse) : undefined;
  if (next !== undefined) {
    await next.append(count++);
    if (isFrozen && !isClosed) await comesBack("fenced");
    stage.expect("append of the next writer", "fulfilled", await outcomeOf(next.append(count++)));
    stage.expect("close of the next writer", "fulfilled", await outcomeOf(next.close()));
    await stage.expectAll(followed, count);
    if (isFrozen && isClosed) {
      await comesBack("ended");
      await stage.expectAll(far.follow(id), count);
    }
  } else {
    const { lostMs, fromMs, toMs } = lapse;
    const withinMs = lostMs + toMs + SEARCH_MS + SLACK_MS - audit.nowMs;
    await stage.expectAll(followed, count, { outcome: "writer-lost", withinMs });
    stage.expect("end not before the lease is over", true, audit.nowMs - lostMs >= fromMs);
    if (isFrozen) {
      await comesBack("writer-lost");
      await stage.expectAll(far.follow(id), count, { outcome: "writer-lost" });
    }
  }
  machine.end();
  await stage.end();

  /** The former writer is refused, and told. */
  async function comesBack(code: string): Promise<void> {
    machine.host.thaw();
    await stage.expectRefusal(machine, writer, code);
  }
}

/** Writers lose the stream one after the other, and come back late: only the newest one writes. */
async function overtaken(stage: Stage): Promise<void> {
  const { random, id, far } = stage;
  const count = 1 + Math.floor(MAX_FORMER * random());
  const names = Array.from({ length: count }, (_, i) => `${id}-${i}`);
  const started = await Promise.all(names.map((name) => stage.start(name)));
  const programs = started.filter((program) => program !== undefined);
  if (programs.length < count) return;
  const former: (readonly [Program, DurableStreamWriter<number>])[] = [];
  let records = 0;
  let newest: DurableStreamWriter<number> | undefined = await stage.create(programs[0]);
  const followed = far.follow(id);
  const append = async () =>
    stage.expect("append in time", "fulfilled", await outcomeOf(newest!.append(records++)));
  for (const program of programs) {
    for (let left = 1 + Math.floor(2 * random()); left > 0; left--) await append();
    former.push([program, newest]);
    program.machine.host.freeze();
    newest = await stage.takeOver(stage.lapse(), programs[former.length]);
    if (newest === undefined) break;
  }
  while (former.length > 0) {
    const [[program, writer]] = former.splice(Math.floor(former.length * random()), 1) as [
      typeof former[number],
    ];
    const { machine } = program;
    if (newest !== undefined) await append();
    machine.host.thaw();
    await stage.expectRefusal(machine, writer, newest === undefined ? "writer-lost" : "fenced");
    if (newest !== undefined && random() < 0.4) {
      // The machine of the late writer becomes that of the newest one.
      stage.expect("release", "fulfilled", await outcomeOf(newest.release()));
      newest = await stage.open(program);
      await append();
    }
  }
  if (newest === undefined) await stage.expectAll(followed, records, { outcome: "writer-lost" });
  else {
    await append();
    stage.expect("close of the newest writer", "fulfilled", await outcomeOf(newest.close()));
    await stage.expectAll(followed, records);
    for (const program of programs) await stage.expectAll(program.follow(id), records);
  }
  for (const { machine } of programs) machine.end();
  await stage.end();
}

/** Records that come faster than the engine takes them are all there before the end. */
async function burst(stage: Stage): Promise<void> {
  const { audit, random, far, id } = stage;
  const writer = await stage.create();
  const followed = far.follow(id);
  let count = BURST + Math.floor(BURST_RANGE * random());
  const end = oneOf(random, BURST_ENDS);
  const calls = range(0, count - 1).map((record) => writer.append(record));
  calls.push(end === "abort" ? writer.abort("enough") : writer[end]());
  const outcomes = await audit.inTime(Promise.all(calls.map(outcomeOf)), BURST_MS, undefined);
  stage.expect(`appends and ${end} of a burst`, ["fulfilled"], [...new Set(outcomes)]);
  if (end === "release") {
    const next = await stage.open();
    stage.expect("append behind a burst", "fulfilled", await outcomeOf(next.append(count++)));
    stage.expect("close behind a burst", "fulfilled", await outcomeOf(next.close()));
  }
  const outcome = end === "abort" ? "aborted" : "fulfilled";
  await stage.expectAll(followed, count, { outcome, withinMs: BURST_MS });
  await stage.end();
}

/** A writer that leaves the stream may have a successor for a time, in which no search ends it. */
async function released(stage: Stage): Promise<void> {
  const { audit, random, far } = stage;
  const writer = await stage.create();
  const followed = far.follow(stage.id);
  let count = 0;
  for (let left = Math.floor(3 * random()); left > 0; left--) void writer.append(count++);
  const releaseMs = audit.nowMs;
  stage.expect("release", "fulfilled", await outcomeOf(writer.release()));
  stage.expect("append behind a release", "ended", await outcomeOf(writer.append(-1)));
  if (random() < 0.2) {
    const withinMs = RELEASED_MS + SEARCH_MS + SLACK_MS;
    await stage.expectAll(followed, count, { outcome: "writer-lost", withinMs });
    const isInTime = audit.nowMs - releaseMs >= RELEASED_MS - SLACK_MS;
    stage.expect("end not before the wait for the next writer", true, isInTime);
    return await stage.end();
  }
  await audit.pause((RELEASED_MS - SLACK_MS) * random());
  const opening = stage.open();
  stage.expect("takeover of a released stream", "fulfilled", await outcomeOf(opening));
  const next = await opening;
  stage.expect("append of the next writer", "fulfilled", await outcomeOf(next.append(count++)));
  const reason = random() < 0.5 ? { code: "tired" } : {};
  stage.expect("abort", "fulfilled", await outcomeOf(next.abort("given up", reason)));
  await stage.expectAll(followed, count, { outcome: reason.code ?? "aborted" });
  await stage.end();
}

/** A writer whose connections are cut again and again appends each record once, in order. */
async function cut(stage: Stage): Promise<void> {
  const { audit, random, id } = stage;
  const program = await stage.start(id);
  if (program === undefined) return;
  const { machine } = program;
  const writer = await stage.create(program, {}, CUT_LEASE_MS);
  const followed = stage.far.follow(id);
  for (let record = 0; record < CUT_RECORDS; record++) {
    void machine.run(() => writer.append(record));
    await audit.pause(CUT_GAP_MS * random());
    if (random() < 0.4) audit.cut(machine.host);
  }
  const isQuiet = random() < 0.4;
  for (const endMs = audit.nowMs + 1.2 * CUT_LEASE_MS; isQuiet && audit.nowMs < endMs;) {
    // A renewal that an interruption takes has others behind it, before the lease is over.
    // A connection that is cut as it begins takes five seconds, and so two renewals with it.
    await audit.pause(BEGUN_MS + CUT_LEASE_MS * 0.25 * random());
    if (random() < 0.3) audit.cut(machine.host);
    stage.expect("takeover behind an interruption", "held", await outcomeOf(stage.open()));
  }
  const closing = outcomeOf(machine.run(() => writer.close()));
  await stage.expectAll(followed, CUT_RECORDS, { withinMs: BACK_MS });
  const closed = await audit.inTime(closing, BACK_MS, "none in time");
  stage.expect("close", "fulfilled", closed);
  machine.end();
  await stage.end();
}

/** Another program stops a writer, or takes the stream away: the writer learns of that soon. */
async function stopped(stage: Stage): Promise<void> {
  const { audit, random, far: { machine, node, streams }, id, near } = stage;
  const stop = oneOf(random, STOPS);
  const writer = await stage.create();
  await writer.append(0);
  await pause(near.machine.host.runtime, 100 * random());
  if (stop === "cancelled") {
    await machine.run(() => node.cancel(id, "enough"));
    await machine.run(() => node.cancel(id, "again"));
    await audit.until(() => writer.signal.aborted, SLACK_MS);
    const { reason } = writer.signal;
    stage.expect("reason", ["cancelled", "enough"], [reason?.failure?.code, reason?.message]);
    stage.expect("append behind a stop", "fulfilled", await outcomeOf(writer.append(1)));
    stage.expect("close behind a stop", "fulfilled", await outcomeOf(writer.close()));
    return await stage.end();
  }
  if (stop === "ended") await machine.run(() => streams.append(id, { records: [], end: {} }));
  else if (stop === "deleted") await stage.end();
  else {
    // Without a lease, as by a program over HTTP.
    await machine.run(async () => {
      await node.delete(id);
      await streams.create(id, { contentType: "application/json" });
    });
  }
  // The news may not be there yet.
  if (random() < 0.5) {
    await audit.until(() => writer.signal.aborted, SLACK_MS);
    stage.expect("signal of a writer without the stream", true, writer.signal.aborted);
  }
  await stage.expectRefusal(near.machine, writer, stop === "ended" ? "ended" : "gone");
  if (stop === "deleted") return;
  if (stop === "created again") {
    const { kind } = await machine.run(() => streams.append(id, { records: ["0"], end: {} }));
    stage.expect("end of another stream", "appended", kind);
  }
  await stage.expectAll(stage.far.follow(id), 1);
  await stage.end();
}
