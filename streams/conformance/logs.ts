/** Tests of the rules that every broker with logs follows. */
import type {
  AppendLogOptions,
  BrokerLogs,
  CreateLogOptions,
  LogConfig,
  LogPage,
  LogRecord,
} from "../logs/log.ts";
import { type Broker, countedBytes } from "../../pubsub/broker.ts";
import { type CarriedRecords, MAX_CARRIED_BYTES, readCarried } from "../logs/announcement.ts";
import {
  logTopic,
  MAX_LOG_ID_BYTES,
  type OwnedKind,
  requestLog,
  RESPONSE_PREFIX,
} from "../logs/log_names.ts";
import { logsOf } from "../logs/logs_of.ts";
import type { RetainedLog } from "../logs/rules.ts";
import {
  isTaken,
  same,
  type Test,
  type TestKit,
  undisturbed,
} from "../../pubsub/conformance/kit.ts";

/** A bound that tests do not reach by accident. */
const PLENTY = 67_108_864;

const TEXT: LogConfig = { contentType: "text/plain" };

/** Tests that run with one broker, and between two. */
export const LOGS: Record<string, Test> = {
  "keeps records of a log, in order and with their types": withLogs(async ({ id }, near, far) => {
    const { info } = await created(near, id, { records: ["first", bytesOf(0, 255)] });
    same([info.first, info.start, info.tail], [0, 0, 2], "the positions of a new log");
    same(info.bytes, 7, "the bytes of a new log");
    const result = await append(far, id, ["", "\uFEFFü\u2028\u0000", bytesOf()]);
    same(result.kind === "appended" && result.info.tail, 5, "the tail");
    const page = await read(near, id);
    same(
      page.records.map(shown),
      ["first", "0,255/", "", "\uFEFFü\u2028\u0000", "/"],
      "the records",
    );
    same(page.info.tail, 5, "the tail of the page");
    same(page.info.contentType, "text/plain", "the content type");
    same(page.info.end, undefined, "the end of an open log");
  }),

  "reads pages within bounds, from any position": withLogs(async ({ id }, near, far) => {
    const records = Array.from({ length: 100 }, (_, i) => `${i}`.padStart(10, "0"));
    await created(near, id, {});
    for (let i = 0; i < 100; i += 10) await append(near, id, records.slice(i, i + 10));
    const pageOf = async (after: number, maxRecords: number, maxBytes: number) =>
      (await read(far, id, { after, maxRecords, maxBytes })).records.map(Number);
    same(await pageOf(0, 3, PLENTY), [0, 1, 2], "a page of three records");
    same(await pageOf(95, 100, PLENTY), [95, 96, 97, 98, 99], "the last page");
    same(await pageOf(17, 100, 35), [17, 18, 19], "a page of 35 bytes");
    same(await pageOf(42, 100, 1), [42], "a page of a record that is larger than the page");
    same(await pageOf(100, 100, PLENTY), [], "the page at the tail");
    same(await pageOf(101, 100, PLENTY), [], "the page beyond the tail");
    same(await pageOf(0, 0, PLENTY), [], "a page without records");
    same(await pageOf(0, 1_000, PLENTY), records.map(Number), "all records");
  }),

  "creates a log once": withLogs(async ({ id }, near, far) => {
    const tries = Array.from(
      { length: 8 },
      (_, i) => (i % 2 === 0 ? near : far).create(id, creation({ identity: `identity${i}` })),
    );
    const results = await Promise.all(tries);
    const kinds = results.map(({ kind }) => kind).sort();
    same(kinds, ["created", ...Array(7).fill("exists")], "the results of concurrent calls");
    const identities = results.map((one) => "info" in one ? one.info.identity : undefined);
    same(new Set(identities).size, 1, "the number of identities");
    same(await near.read(`${id} other`, reading()), undefined, "another log");
  }),

  "keeps the settings of the creation": withLogs(async ({ id }, near, far) => {
    const expiresAt = Date.now() + 3_600_000;
    const config = { contentType: "application/json; charset=utf-8", ttlMs: 60_000, expiresAt };
    const end = { error: "stopped", code: "quota" };
    await created(near, id, { config, end, records: ["{}"] });
    const { info } = await read(far, id);
    same(
      [info.contentType, info.ttlMs, info.expiresAt],
      [config.contentType, 60_000, expiresAt],
      "the configuration",
    );
    same(info.end, end, "the end");
  }),

  "applies appends completely, and in one order": withLogs(async ({ id }, near, far) => {
    await created(near, id, {});
    const groups = Array.from({ length: 20 }, (_, i) => [`${i}a`, `${i}b`, `${i}c`]);
    const results = await Promise.all(
      groups.map((group, i) => append(i % 2 === 0 ? near : far, id, group)),
    );
    same(results.map(({ kind }) => kind), Array(20).fill("appended"), "the results");
    const { records } = await read(near, id);
    const firsts = records.filter((_, i) => i % 3 === 0).map((record) => parseInt(`${record}`));
    same(records, firsts.flatMap((i) => groups[i]!), "the records");
    same([...firsts].sort((a, b) => a - b), groups.map((_, i) => i), "the appends");
    const tails = results.map((one) => one.kind === "appended" ? one.info.tail : 0);
    same(tails.sort((a, b) => a - b), groups.map((_, i) => 3 * (i + 1)), "the tails");
  }),

  "lets a node append while another one appends without a pause": withLogs(
    async ({ id }, near, far) => {
      await created(near, id, {});
      await besides(
        async () => same((await append(near, id, ["near"])).kind, "appended", "a fast append"),
        async () => same((await append(far, id, ["far"])).kind, "appended", "a slow append"),
      );
      const { records } = await read(near, id);
      same(records.filter((record) => record === "far").length, 20, "appends of the other node");
    },
  ),

  "ends a log together with its last records": withLogs(async ({ id }, near, far) => {
    await created(near, id, { records: ["a"] });
    const ended = await append(near, id, ["b"], { end: {} });
    same(ended.kind === "appended" && ended.info.end, {}, "the end");
    const page = await read(far, id);
    same([page.records, page.info.end], [["a", "b"], {}], "the records and the end");
    same((await append(far, id, ["c"])).kind, "ended", "a later append");
    same((await append(far, id, [], { end: {} })).kind, "repeated", "a second end");
    same((await append(far, id, ["c"], { end: {} })).kind, "ended", "a second end with a record");
    same((await read(near, id)).info.tail, 2, "the tail");
  }),

  "accepts each append of a producer once": withLogs(async ({ id }, near, far) => {
    await created(near, id, {});
    const send = async (logs: BrokerLogs, epoch: number, seq: number, options = {}) => {
      const producer = { id: "p __proto__", epoch, seq };
      return await append(logs, id, [`${epoch}.${seq}`], { producer, ...options });
    };
    same(await send(near, 0, 1), { kind: "skipped", expected: 0 }, "a first number above 0");
    same((await send(near, 0, 0)).kind, "appended", "the first number");
    same((await send(far, 0, 1)).kind, "appended", "the second number");
    const repeated = await send(near, 0, 0);
    same(repeated.kind === "repeated" && repeated.seq, 1, "the newest number of a repetition");
    same(await send(near, 0, 3), { kind: "skipped", expected: 2 }, "a number that is too high");
    same((await send(far, 2, 1)).kind, "unstarted", "an epoch that starts with 1");
    same((await send(far, 2, 0)).kind, "appended", "a new epoch");
    same(await send(near, 1, 0), { kind: "stale", epoch: 2 }, "an old epoch");
    same((await send(near, 2, 1, { end: {} })).kind, "appended", "the end");
    same((await send(far, 2, 1, { end: {} })).kind, "repeated", "the repeated end");
    same((await send(far, 2, 2)).kind, "ended", "an append after the end");
    same((await read(far, id)).records, ["0.0", "0.1", "2.0", "2.1"], "the records");
  }),

  "accepts one of several concurrent appends with the same number": withLogs(
    async ({ id }, near, far) => {
      await created(near, id, {});
      const producer = { id: "p", epoch: 0, seq: 0 };
      const results = await Promise.all(
        Array.from(
          { length: 8 },
          (_, i) => append(i % 2 === 0 ? near : far, id, ["once"], { producer }),
        ),
      );
      const kinds = results.map(({ kind }) => kind).sort();
      same(kinds, ["appended", ...Array(7).fill("repeated")], "the results");
      same((await read(near, id)).records, ["once"], "the records");
    },
  ),

  "accepts growing sequences": withLogs(async ({ id }, near, far) => {
    await created(near, id, {});
    same((await append(near, id, ["a"], { sequence: "09" })).kind, "appended", "the first");
    const rejected = await append(far, id, ["b"], { sequence: "09" });
    same(rejected, { kind: "out-of-sequence", sequence: "09" }, "the same sequence again");
    const smaller = await append(far, id, ["b"], { sequence: "0" });
    same(smaller.kind, "out-of-sequence", "a shorter one");
    same((await append(far, id, ["c"])).kind, "appended", "an append without a sequence");
    same((await append(far, id, ["d"], { sequence: "1" })).kind, "appended", "a greater one");
    same((await read(near, id)).records, ["a", "c", "d"], "the records");
  }),

  "bounds the bytes of a log, and the number of logs": withLogs(async ({ id }, near) => {
    await created(near, id, { records: ["12345"] });
    const bounded = { maxBytes: countedBytes(8, 3) };
    const two = await append(near, id, ["67", "8"], bounded);
    same(two.kind === "appended" && two.info.bytes, 8, "the bytes of a log up to the bound");
    same((await append(near, id, [""], bounded)).kind, "full", "beyond the bound");
    same((await append(near, id, [], { ...bounded, end: {} })).kind, "appended", "the end");
    const none = await near.create(`${id} second`, { ...creation({}), maxLogs: 0 });
    same(none.kind, "too-many", "a log beyond the bound");
    same(await near.read(`${id} second`, reading()), undefined, "the log beyond the bound");
  }),

  "bounds responses, their requests and other logs separately": withLogs(
    async ({ id }, near, far) => {
      const [one, two] = [1, 2].map((n) => `${RESPONSE_PREFIX}${id} ${n}`) as [string, string];
      const kindOf = async (name: string, maxLogs: number) =>
        (await near.create(name, creation({ maxLogs }))).kind;
      await created(near, id, {});
      same((await created(near, one, { maxLogs: 1 })).count, 1, "the number of responses");
      same(await kindOf(two, 1), "too-many", "a response beyond the bound");
      same(await kindOf(requestLog(one), 1), "created", "a request");
      same(await kindOf(requestLog(two), 1), "too-many", "a request beyond the bound");
      same(await kindOf(`${id} second`, 1_000_000), "created", "another log");
      await near.delete(one);
      await until(async () => await kindOf(two, 1) === "created", "room after a deletion");
      for (const name of [two, requestLog(one)]) await far.delete(name);
    },
  ),

  "lists responses with their owners and ends": withLogs(async ({ id }, near, far) => {
    const names = Array.from({ length: 12 }, (_, n) => `${RESPONSE_PREFIX}${id}:${n}:"é"`);
    const owned = { ...TEXT, owner: "u.Ann_1 a1.at-2" };
    await created(near, id, { config: owned, end: {} });
    for (const [n, name] of names.entries()) {
      const end = n === 3 && { end: { error: "stopped" } };
      await created(near, name, n === 0 ? {} : { config: owned, ...end });
    }
    await append(near, names[1]!, ["a"]);
    await append(far, names[2]!, ["a"], { end: {} });
    await near.retain(names[4]!, "fork", { identity: "identity0", maxForks: 1 });
    await near.delete(names[4]!);
    await near.delete(names[5]!);
    const found = await listed(far, "answer");
    const own = names.map((name) => found.get(name));
    same(found.has(id), false, "another log in the list");
    const owners = own.map((one) => one === undefined ? "gone" : one.owner ?? "none");
    const { owner } = owned;
    const rest = Array(6).fill(owner);
    same(owners, ["none", owner, owner, owner, "gone", "gone", ...rest], "the owners");
    const ended = own.map((one) => one?.endedAt !== undefined);
    same(ended, names.map((_, n) => n === 2 || n === 3), "the ended responses");
    const now = Date.now();
    const isNow = [2, 3].every((n) => Math.abs(own[n]!.endedAt! - now) < 60_000);
    same(isNow, true, "the times of the ends");
    await near.release(names[4]!, "fork");
    for (const name of names) await near.delete(name);
  }),

  "lists streams with their owners": withLogs(async ({ id }, near, far) => {
    const owned = { ...TEXT, owner: "u.Ann_1 a1.at-2" };
    const response = RESPONSE_PREFIX + id;
    const streams = Array.from({ length: 7 }, (_, n) => `${id}/é${n}`);
    for (const name of [response, requestLog(response), ...streams]) {
      await created(near, name, { config: owned });
    }
    await append(near, streams[1]!, ["a"]);
    await append(far, streams[2]!, ["a"], { end: {} });
    await near.delete(streams[3]!);
    const found = await listed(far, "stream");
    const own = streams.map((name) => found.get(name)?.owner);
    const { owner } = owned;
    same(own, streams.map((_, n) => n === 3 ? undefined : owner), "the owners");
    same([found.has(response), found.has(requestLog(response))], [false, false], "other kinds");
    for (const name of [response, requestLog(response), ...streams]) await near.delete(name);
  }),

  "drops the oldest records only by retention": withLogs(async ({ id }, near, far) => {
    await created(near, id, {});
    const keep = { records: 3, bytes: countedBytes(10, 3) };
    for (const record of ["a", "b", "c", "d"]) await append(near, id, [record], { keep });
    const { info } = await read(far, id, { after: 1 });
    same([info.first, info.start, info.tail, info.bytes], [0, 1, 4, 3], "the state");
    await append(near, id, ["123456789"], { keep });
    const page = await read(far, id, { after: 3 });
    same([page.info.start, page.records], [3, ["d", "123456789"]], "the kept records");
    same((await read(far, id, { after: 2 })).records, [], "the page before the kept records");
  }),

  "deletes a log, whose id can be used again": withLogs(async ({ id }, near, far) => {
    await created(near, id, { identity: "identity1", records: ["old"] });
    same(await far.delete(id), { kind: "removed" }, "the deletion");
    same(await near.read(id, reading()), undefined, "the deleted log");
    same((await append(near, id, ["late"])).kind, "missing", "an append to the deleted log");
    same(await far.delete(id), { kind: "missing" }, "a second deletion");
    await created(far, id, { identity: "identity2" });
    const late = await append(near, id, ["late"], { identity: "identity1" });
    same(late.kind, "missing", "an append to the earlier log");
    same((await read(near, id)).records, [], "the records of the new log");
  }),

  "keeps a deleted log for its forks": withLogs(async ({ id }, near, far) => {
    const source = `${id} source`;
    const { info } = await created(near, source, { records: ["a", "b"] });
    const fork = `${id} fork`;
    const { identity } = info;
    const options = { identity, maxForks: 2 };
    const other = { ...options, identity: "identity9" };
    same(await near.retain(source, fork, other), "missing", "a source of another identity");
    same(await near.retain(source, fork, options), "retained", "the first call");
    same(await far.retain(source, fork, options), "retained", "the same call again");
    same(await near.retain(source, `${fork} 2`, options), "retained", "another fork");
    const origin = { id: source, identity, position: 1, fork, lineage: [] };
    const config = { ...TEXT, origin };
    const forked = await created(near, fork, { config, identity: "identity2", records: ["own"] });
    same([forked.info.first, forked.info.tail], [1, 2], "the positions of a fork");
    same((await read(far, fork, { after: 1 })).records, ["own"], "the fork's own records");
    same((await read(far, fork)).info.origin, origin, "the origin");
    same(await far.delete(source), { kind: "kept" }, "the deletion of a source");
    same(await far.delete(source), { kind: "deleted" }, "a second deletion");
    same((await append(near, source, ["c"])).kind, "deleted", "an append to a deleted source");
    const kept = await read(near, source);
    same([kept.info.isDeleted, kept.records], [true, ["a", "b"]], "the kept records");
    const again = await near.create(source, creation({}));
    same(again.kind === "exists" && again.info.isDeleted, true, "the creation of a kept log");
    const late = { identity, maxForks: 3 };
    same(await near.retain(source, `${fork} 3`, late), "missing", "a fork of a deleted log");
    same(await near.release(source, `${fork} 2`), undefined, "the end of the first fork");
    same((await read(far, source)).info.isDeleted, true, "the log with one fork");
    same(await far.delete(fork), { kind: "removed", origin }, "the deletion of the last fork");
    same(await far.release(source, fork), undefined, "the end of the last fork");
    same(await near.read(source, reading()), undefined, "the log without forks");
  }),

  "bounds the forks of a log": withLogs(
    async ({ id }, near, far) => {
      const { info: { identity } } = await created(near, id, { records: ["a"] });
      const options = { identity, maxForks: 8 };
      const retain = (fork: number) =>
        (fork % 2 === 0 ? near : far).retain(id, `${id} ${fork}`, options);
      const results = await Promise.all(Array.from({ length: 12 }, (_, i) => retain(i)));
      const kept = results.flatMap((result, fork) => result === "retained" ? [fork] : []);
      same(kept.length, 8, "the number of forks");
      same(results.filter((one) => one === "too-many").length, 4, "the fork beyond the bound");
      same(await retain(kept[0]!), "retained", "a fork that is already registered");
      // Releasing a fork makes room for another.
      for (let next = 12; next < 24; next++) {
        same(await far.release(id, `${id} ${kept.shift()}`), undefined, "the end of a fork");
        same(await retain(next), "retained", "a fork in place of another");
        same(await retain(99), "too-many", "one fork too many");
        kept.push(next);
      }
      same((await append(near, id, ["b"])).kind, "appended", "an append to the source");
      same(await near.delete(id), { kind: "kept" }, "the deletion of the source");
      for (const fork of kept) await far.release(id, `${id} ${fork}`);
      same(await near.read(id, reading()), undefined, "the source without forks");
    },
  ),

  "expires unused logs": withLogs(async ({ id }, near, far) => {
    const config = { ...TEXT, ttlMs: 1_000 };
    await created(near, `${id} used`, { config });
    await created(near, `${id} idle`, { config });
    await created(near, `${id} late`, { config: { ...TEXT, expiresAt: Date.now() + 1_000 } });
    await created(near, `${id} ever`, {});
    const begin = performance.now();
    const isExpired = async (node: BrokerLogs) =>
      await node.read(`${id} idle`, reading()) === "expired";
    // The nodes may disagree about the time for a moment.
    while (!await isExpired(far) || !await isExpired(near)) {
      if (performance.now() - begin > 30_000) throw new Error("Expected the log to expire");
      await far.read(`${id} used`, { ...reading(), renews: true });
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await until(async () => await far.read(`${id} late`, reading()) === "expired", "the late log");
    same((await read(near, `${id} ever`)).info.tail, 0, "the log without a time to live");
    same((await append(near, `${id} idle`, ["x"])).kind, "expired", "an append to an expired log");
    const kinds = [
      (await near.create(`${id} idle`, creation({}))).kind,
      (await near.delete(`${id} ever`, { ifExpired: true })).kind,
      (await near.delete(`${id} idle`, { ifExpired: true })).kind,
      (await near.create(`${id} idle`, creation({}))).kind,
    ];
    same(kinds, ["expired", "alive", "removed", "created"], "the results");
  }),

  "expires a log at the earlier of its two times, however often it is used": withLogs(
    async ({ id }, near, far) => {
      const expiresAt = Date.now() + 1_500;
      const late = expiresAt + 600_000;
      await created(near, `${id} used`, { config: { ...TEXT, ttlMs: 1_000, expiresAt } });
      await created(near, `${id} idle`, { config: { ...TEXT, ttlMs: 1_000, expiresAt: late } });
      await created(near, `${id} lasting`, {
        config: { ...TEXT, ttlMs: 600_000, expiresAt: late },
      });
      let uses = 0;
      await until(async () => {
        if (uses++ % 4 === 0) await append(near, `${id} used`, [`${uses}`]);
        return await far.read(`${id} used`, { ...reading(), renews: true }) === "expired";
      }, "the end of a log that is used");
      await until(
        async () => await far.read(`${id} idle`, reading()) === "expired",
        "the end of a log that is not used",
      );
      same((await read(far, `${id} lasting`)).records, [], "a log whose times are far away");
    },
  ),

  "lists logs that are overdue": withLogs(async ({ id }, near, far) => {
    const ids = ["a", "b", "c"].map((name) => `${id} ${name}`);
    await created(near, ids[0]!, { config: { ...TEXT, ttlMs: 500 } });
    await created(near, ids[1]!, { writer: { holder: "w", ttlMs: 500 } });
    await created(near, ids[2]!, { writer: { holder: "w", ttlMs: 60_000 } });
    const own = async () => {
      const all = await far.overdue({ limit: 10_000 });
      return all.filter((one) => one.startsWith(id)).sort();
    };
    same((await own()).includes(ids[2]!), false, "the log with a writer");
    await until(async () => (await own()).length === 2, "the overdue logs");
    same(await own(), ids.slice(0, 2), "the overdue logs");
    same((await far.overdue({ limit: 1 })).length, 1, "the length of a bounded list");
    // The nodes may disagree about the time for a moment.
    await until(
      async () => (await near.delete(ids[0]!, { ifExpired: true })).kind === "removed",
      "the deletion of the expired log",
    );
    const lost = { end: { error: "writer-lost" }, ifWriterLost: true } as const;
    await until(
      async () => (await append(near, ids[1]!, [], lost)).kind === "appended",
      "the end of the log without a writer",
    );
    same(await own(), [], "the overdue logs after handling them");
    same((await read(near, ids[1]!)).info.end, { error: "writer-lost" }, "the end");
  }),

  "keeps a log and its lease as long as promised, on every node": withLogs(
    async ({ id }, near, far) => {
      const writer = { holder: "one", ttlMs: 10_000 };
      await created(near, id, { writer, config: { ...TEXT, ttlMs: 10_000 } });
      same(
        (await far.overdue({ limit: 10_000 })).includes(id),
        false,
        "whether the log is overdue",
      );
      same((await read(far, id)).info.tail, 0, "the tail of the log");
      const taken = { end: { error: "writer-lost" }, ifWriterLost: true as const };
      await append(far, id, [], taken);
      const other = { writer: { holder: "two", ttlMs: 10_000 } };
      same((await append(far, id, ["x"], other)).kind, "fenced", "another writer");
      same((await append(near, id, ["1"], { writer })).kind, "appended", "the holder");
    },
  ),

  "fences writers that have lost the lease": withLogs(async ({ id }, near, far) => {
    const lease = (holder: string, ttlMs = 60_000) => ({ writer: { holder, ttlMs } });
    await created(near, id, lease("one"));
    same((await append(near, id, ["1"], lease("one"))).kind, "appended", "the holder");
    same((await append(far, id, ["x"], lease("two"))).kind, "fenced", "another writer");
    same((await append(near, id, [], lease("one", 500))).kind, "appended", "a shorter lease");
    const taking = { writer: { holder: "two", ttlMs: 60_000, takes: true as const } };
    await until(
      async () => (await append(far, id, ["2"], taking)).kind === "appended",
      "the lease",
    );
    same((await append(near, id, ["x"], lease("one"))).kind, "fenced", "the former holder");
    const lost = { end: { error: "writer-lost" }, ifWriterLost: true as const };
    same((await append(near, id, [], lost)).kind, "held", "the end of a log with a lease");
    same((await append(near, id, ["3"])).kind, "appended", "an append without a lease");
    same((await read(far, id)).records, ["1", "2", "3"], "the records");
    same((await append(far, id, [], lease("two", 0))).kind, "appended", "the end of a lease");
    same((await far.overdue({ limit: 10_000 })).includes(id), true, "a log without a lease");
    same((await append(far, id, [], lease("two"))).kind, "fenced", "the holder without a lease");
    const next = { writer: { holder: "three", ttlMs: 60_000, takes: true as const } };
    // Each node checks the lapse against its own reading of the broker's clock.
    await until(
      async () => (await append(near, id, ["4"], next)).kind === "appended",
      "the next writer",
    );
  }),

  "keeps a released log open for the next writer": withLogs(async ({ id }, near, far) => {
    const lease = (holder: string, ttlMs = 60_000) => ({ holder, ttlMs });
    const taking = (holder: string) => ({ writer: { ...lease(holder), takes: true as const } });
    const lost = { end: { error: "writer-lost" }, ifWriterLost: true as const };
    const isOverdue = async () => (await far.overdue({ limit: 10_000 })).includes(id);
    await created(near, id, { writer: lease("one") });
    const strange = { writer: { ...lease("two"), releases: true as const } };
    same((await append(far, id, [], strange)).kind, "fenced", "the release by another writer");
    const releasing = { writer: { ...lease("one"), releases: true as const } };
    same((await append(near, id, ["1"], releasing)).kind, "appended", "the release");
    same(await isOverdue(), false, "the search after a release");
    same((await append(far, id, [], lost)).kind, "held", "the end of a released log");
    for (const holder of ["one", "two"]) {
      const { kind } = await append(near, id, ["x"], { writer: lease(holder) });
      same(kind, "fenced", `an append of the writer "${holder}" that does not take over`);
    }
    same((await append(near, id, ["x"], releasing)).kind, "fenced", "a second release");
    same((await append(far, id, ["2"], taking("two"))).kind, "appended", "the next writer");
    same((await append(near, id, ["x"], taking("three"))).kind, "fenced", "a second writer");
    const briefly = { writer: { ...lease("two", 500), releases: true as const } };
    same((await append(far, id, [], briefly)).kind, "appended", "the second release");
    await until(isOverdue, "a released log without a writer");
    same((await append(near, id, [], lost)).kind, "appended", "the end");
    same((await read(far, id)).records, ["1", "2"], "the records");
  }),

  "keeps the first cancellation": withLogs(async ({ id }, near, far) => {
    await created(near, id, {});
    same((await append(far, id, [], { cancel: "enough" })).kind, "appended", "the cancellation");
    same((await append(far, id, [], { cancel: "again" })).kind, "appended", "a second one");
    const result = await append(near, id, ["last"]);
    same(result.kind === "appended" && result.info.cancelled, "enough", "the writer's result");
  }),

  "keeps a log whatever texts its state has": withLogs(async ({ id }, near, far) => {
    const half = 'é "\n\0\ud83d';
    const config = { contentType: `text/plain; name=${half}` };
    await created(near, id, { config });
    same((await append(far, id, [], { cancel: half })).kind, "appended", "the cancellation");
    same((await append(near, id, ["last"])).kind, "appended", "an append");
    const ending = { end: { error: half, code: half } };
    same((await append(near, id, [], ending)).kind, "appended", "the end");
    const { info, records } = await read(far, id);
    same(records, ["last"], "the records");
    // A broker may replace half of a surrogate pair.
    const texts = [info.contentType, info.cancelled, info.end?.error, info.end?.code];
    const whole = half.toWellFormed();
    same(
      texts.map((text) => text?.toWellFormed()),
      [`text/plain; name=${whole}`, whole, whole, whole],
      "the texts",
    );
  }),

  "announces every change to all nodes": withLogs(async (kit, near, far) => {
    const { id } = kit;
    const topic = logTopic(id);
    const received = await Promise.all(
      [kit.near, kit.far].map((broker) => kit.listen(broker, topic)),
    );
    const { identity } = creation({});
    const carries = (tail: number, ...records: LogRecord[]) => ({
      identity,
      start: 0,
      tail,
      records,
    });
    const bytes = new Uint8Array([0, 255]);
    const changes: [change: () => Promise<unknown>, carried?: CarriedRecords][] = [
      [() => created(near, id, {})],
      [() => append(far, id, ["a"]), carries(1, "a")],
      [() => append(near, id, ["é\n", bytes, ""]), carries(4, "é\n", bytes, "")],
      [() => append(far, id, ["x".repeat(MAX_CARRIED_BYTES)])],
      [() => append(far, id, [], { cancel: "enough" })],
      [() => append(near, id, ["b"], { end: {} })],
      [() => far.delete(id)],
    ];
    for (const [change, carried] of changes) {
      const counts = received.map(({ publications }) => publications.length);
      await change();
      await until(
        () => received.every(({ publications }, i) => publications.length > counts[i]!),
        "the announcement",
      );
      for (const { payloads } of received) {
        // A broker need not carry records.
        const payload = payloads.at(-1)!;
        if (payload !== "") same(readCarried(payload), carried, "the carried records");
      }
    }
  }),

  "announces changes to a node that has made no call yet": withLogs(async (kit, near, far) => {
    const { id } = kit;
    const received = await kit.listen(kit.far, logTopic(id));
    await created(near, id, {});
    for (const [i, record] of ["a", "b"].entries()) {
      await append(near, id, [record]);
      await until(() => received.publications.length === i + 2, "the announcement");
    }
    same(kit.far.stats.interruptions, 0, "the number of outages");
    same((await read(far, id)).records, ["a", "b"], "the records");
  }),

  "keeps other logs working next to ids of all sizes": withLogs(async (kit, near, far) => {
    await undisturbed(kit, async () => {
      const longest = `${kit.id} ü`.padEnd(MAX_LOG_ID_BYTES - 1, "x");
      await created(near, longest, { records: ["long"] });
      same((await read(far, longest)).records, ["long"], "the records of the longest id");
      for (const id of [`${kit.id}/a b*c>d.e:f`, `${kit.id}${"ü".repeat(4_096)}`]) {
        await isTaken(async () => {
          await near.create(id, creation({}));
          same((await read(far, id)).info.tail, 0, "the tail");
        });
      }
    });
  }),
};

/** Creates a test that fails for brokers without logs. */
function withLogs(
  test: (bench: TestKit, near: BrokerLogs, far: BrokerLogs) => Promise<void>,
): Test {
  return async (bench) => await test(bench, requireLogs(bench.near), requireLogs(bench.far));
}

/**
 * Returns the logs of a broker.
 *
 * @throws {Error} If the broker has none.
 */
export function requireLogs(broker: Broker): BrokerLogs {
  const logs = logsOf(broker);
  if (logs === undefined) throw new Error(`Expected the ${broker.name} broker to have logs`);
  return logs;
}

function creation(options: Partial<CreateLogOptions>): CreateLogOptions {
  return { config: TEXT, identity: "identity0", records: [], maxLogs: 1_000_000, ...options };
}

async function created(logs: BrokerLogs, id: string, options: Partial<CreateLogOptions>) {
  const result = await logs.create(id, creation(options));
  if (result.kind !== "created") throw new Error(`Expected a new log, received ${result.kind}`);
  return result;
}

async function append(
  logs: BrokerLogs,
  id: string,
  records: readonly LogRecord[],
  options: Partial<AppendLogOptions> = {},
) {
  return await logs.append(id, { records, maxBytes: PLENTY, ...options });
}

/** Lists all logs of a kind, by their ids. */
async function listed(logs: BrokerLogs, kind: OwnedKind): Promise<Map<string, RetainedLog>> {
  const found = new Map<string, RetainedLog>();
  let [pages, after] = [0, undefined as string | undefined];
  do {
    const page = await logs.list(kind, { limit: 5, after });
    for (const one of page.logs) found.set(one.id, one);
    [pages, after] = [pages + 1, page.next];
  } while (after !== undefined && pages < 1_000);
  return found;
}

function reading() {
  return { after: 0, maxRecords: 1_000, maxBytes: PLENTY, renews: false };
}

async function read(
  logs: BrokerLogs,
  id: string,
  options: Partial<ReturnType<typeof reading>> = {},
): Promise<LogPage> {
  const page = await logs.read(id, { ...reading(), ...options });
  if (typeof page !== "object") throw new Error(`Expected a log, received ${page}`);
  return page;
}

/** Waits for a condition that depends on time or the broker. */
export async function until(holds: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const begin = performance.now();
  while (!await holds()) {
    if (performance.now() - begin > 30_000) throw new Error(`Expected ${what} within 30 s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Repeats the first call without a pause until the second one was repeated 20 times. */
export async function besides(
  always: () => Promise<void>,
  slow: () => Promise<void>,
): Promise<void> {
  let left = 20;
  const repeat = async () => {
    while (left > 0) await always();
  };
  const count = async () => {
    try {
      for (; left > 0; left--) await slow();
    } finally {
      left = 0;
    }
  };
  await Promise.all([repeat(), count()]);
}

function bytesOf(...bytes: number[]): Uint8Array {
  return new Uint8Array(bytes);
}

/** Formats a record, with a slash after bytes. */
function shown(record: LogRecord): string {
  return typeof record === "string" ? record : `${record.join()}/`;
}
