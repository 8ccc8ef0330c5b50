/** Restarts of a machine with a file: the epoch tells exactly the ends that may have lost writes. */
import type {
  Appended,
  Broker,
  HistoryBounds,
  PublicationKey,
} from "../../../../../pubsub/broker.ts";
import { SimulatedDisk } from "../../../../../testing/simulation/sqlite/disk.ts";
import type { Audit } from "../audit.ts";

/** Lives of the process. */
const LIVES = 3;

/** Appends of one life. */
const APPENDS = 6;

/** Topics of the file, and the most topics of a small file. */
const [TOPICS, FEW_TOPICS] = [3, 2];

/**
 * Time behind the start of a machine in which each end counts as a loss, and in which no second start
 * is noticed, in milliseconds.
 */
const YOUNG_MS = 5_000;

/** Times between the start of a machine and that of the process, in milliseconds. */
const STARTS_MS = [0, 1_000, YOUNG_MS + 200, YOUNG_MS + 200];

const BOUNDS: HistoryBounds = { size: 1_000, ttlMs: 3_600_000, bytes: 1 << 20 };

/** Ends of a process: by itself, killed, or with its machine. */
const ENDS = ["close", "kill", "power"] as const;

/** A life of the process that has ended. */
interface Past {
  readonly synchronous: "full" | "normal";
  readonly end: typeof ENDS[number];
  readonly epoch: string;
  /** Payloads that a read has to find, by topic. */
  readonly acknowledged: ReadonlyMap<string, readonly string[]>;
  /** The newest key, and the topic. */
  readonly key: PublicationKey | undefined;
  readonly topic: string;
}

/**
 * Opens a file on a machine of its own life after life, and compares what is left of each life.
 *
 * @param audit The audit.
 */
export async function auditRestarts(audit: Audit): Promise<void> {
  const { engine: { openFile } } = audit;
  if (openFile === undefined) return;
  const host = audit.host("restarts");
  const disk = new SimulatedDisk(audit.simulation, host);
  const { random } = audit;
  const maxTopics = random() < 0.3 ? FEW_TOPICS : 100;
  const draw = (below: number) => Math.floor(random() * below);
  const file = new File(audit, random, maxTopics === 100);
  let startedMs = audit.nowMs;
  for (let life = 0; life < LIVES; life++) {
    const synchronous = draw(3) === 0 ? "full" : "normal";
    const broker = openFile(disk, "restarts.db", { synchronous, maxTopics });
    await file.compare(broker, disk.uptimeMs < YOUNG_MS);
    await file.append(broker);
    const end = ENDS[draw(ENDS.length)]!;
    file.end({ synchronous, end });
    if (end === "close") {
      await broker.close();
      continue;
    }
    host.kill({ power: end === "power" });
    if (end === "power") {
      await audit.pause(Math.max(0, startedMs + YOUNG_MS + 200 - audit.nowMs));
      startedMs = audit.nowMs;
    }
    host.start();
    const startsMs = end === "power" ? STARTS_MS[draw(STARTS_MS.length)]! : 0;
    while (disk.uptimeMs < startsMs) await audit.pause(startsMs / 4);
  }
  const broker = openFile(disk, "restarts.db", { maxTopics });
  await file.compare(broker, disk.uptimeMs < YOUNG_MS);
  await broker.close();
}

/** The content of a file, as the documentation promises. */
class File {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #keepsAll: boolean;
  /** Publications by topic, epoch and offset: no place stands for two. */
  readonly #places = new Map<string, string>();
  #acknowledged = new Map<string, string[]>();
  #past: Past | undefined;
  #epoch = "";
  #count = 0;
  #key: PublicationKey | undefined;
  #topic = "";

  constructor(audit: Audit, random: () => number, keepsAll: boolean) {
    this.#audit = audit;
    this.#random = random;
    this.#keepsAll = keepsAll;
  }

  /** Reads all topics, and compares with the life before. */
  async compare(broker: Broker, isYoung: boolean): Promise<void> {
    const past = this.#past;
    const ended = past && `${past.synchronous}, ${past.end}`;
    const isLost = past?.synchronous === "normal" && past.end === "power";
    const isUnsure = past?.synchronous === "normal" && past.end === "kill" && isYoung;
    this.#acknowledged = new Map();
    for (let i = 0; i < TOPICS; i++) {
      const topic = `t${i}`;
      const page = await broker.history!.read(topic, {
        bounds: BOUNDS,
        maxMessages: 1_000,
        maxBytes: 1 << 24,
      });
      this.#epoch = page.epoch;
      const payloads = page.publications.map(({ payload }) => `${payload}`);
      this.#acknowledged.set(topic, payloads);
      const before = past?.acknowledged.get(topic);
      if (before === undefined) continue;
      if (!isLost && this.#keepsAll) {
        const kept = payloads.slice(0, before.length);
        this.#expect(`publications of ${topic} after ${ended}`, before, kept);
      }
      for (const { payload, position } of page.publications) {
        if (isLost || isUnsure) continue;
        const known = this.#places.get(`${topic} ${page.epoch} ${position!.offset}`) ?? payload;
        this.#expect(`publication ${position!.offset} of ${topic}`, known, payload);
      }
    }
    if (past === undefined) return;
    const isNew = this.#epoch !== past.epoch;
    this.#expect(`new epoch after ${ended}, young: ${isYoung}`, isLost || isUnsure, isNew);
    if (isLost || past.key === undefined || !this.#keepsAll) return;
    const { position } = await broker.history!.append(
      { topic: past.topic, payload: "repeated" },
      { bounds: BOUNDS, key: past.key },
    );
    this.#expect(`offset of a repetition after ${ended}`, "none", position?.offset ?? "none");
  }

  /** Appends publications; the last one may be under way at the end. */
  async append(broker: Broker): Promise<void> {
    for (let i = 0; i < APPENDS; i++) {
      const topic = this.#topic = `t${Math.floor(this.#random() * TOPICS)}`;
      const number = ++this.#count;
      const payload = `${number}`;
      const key = { producer: "p", number };
      const appending = broker.history!.append({ topic, payload }, { bounds: BOUNDS, key });
      if (i === APPENDS - 1 && this.#random() < 0.5) {
        this.#key = undefined;
        appending.catch(() => {}); // The end of the process may come first.
        return;
      }
      this.#took(topic, payload, await appending);
      this.#key = key;
    }
  }

  /** Notes the end of the life. */
  end({ synchronous, end }: Pick<Past, "synchronous" | "end">): void {
    const [epoch, acknowledged, key, topic] = [
      this.#epoch,
      this.#acknowledged,
      this.#key,
      this.#topic,
    ];
    this.#past = { synchronous, end, epoch, acknowledged, key, topic };
  }

  #took(topic: string, payload: string, { position }: Appended): void {
    this.#expect(`position of ${payload} on ${topic}`, true, position !== undefined);
    if (position === undefined) return;
    const place = `${topic} ${position.epoch} ${position.offset}`;
    this.#expect(`publication at ${place}`, "none", this.#places.get(place) ?? "none");
    this.#places.set(place, payload);
    this.#acknowledged.get(topic)!.push(payload);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("history", `a file over restarts: ${what}`, expected, received);
  }
}
