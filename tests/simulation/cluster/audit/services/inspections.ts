/** Inspectors of two nodes: what a page is shown agrees with the sessions, topics and rooms of both. */
import type { Session } from "../../../../../session/session.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { between, oneOf, shuffled } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { Page } from "../users/page.ts";
import { type UserNode, UserNodes } from "../users/user_nodes.ts";

/** Least and most pages. */
const PAGES = [3, 5] as const;

/** Users of the pages: some have several. */
const USERS = ["ann", "anna", "Ben", "eve"] as const;

/** Topics to which pages subscribe: without a history, with one, and rooms. */
const TOPICS = ["talk:one", "talk:two", "log:one", "room:one", "room:two"] as const;

/** Most messages of each page, and most publications on each topic. */
const [MESSAGES, PUBLICATIONS] = [4, 5] as const;

/** Most rounds of changes. */
const ROUNDS = 2;

/** Time in which pages are shown the same answer again, and all changes have arrived, in milliseconds. */
const FRESH_MS = 600;

/** Columns of sessions that a page may sort by, with their values. */
const COLUMNS: Readonly<Record<string, (session: Session) => string | number>> = {
  user: ({ user }) => user,
  transport: ({ transport }) => transport,
  state: ({ state }) => state,
  received: ({ stats }) => stats.receivedMessages,
  sent: ({ stats }) => stats.sentMessages,
  streams: ({ stats }) => stats.activeStreams,
};

/** A value that no page is shown. */
const SECRET = "open-sesame";

/** A list of the inspector. */
export interface List {
  readonly rows: readonly Readonly<Record<string, unknown>>[];
  readonly matched: number;
  readonly total: number;
  readonly missing: readonly unknown[];
}

/** The envelopes of a session behind a number. */
export interface Traffic {
  readonly answer: {
    readonly state: string;
    readonly next: number;
    readonly missed: number;
    readonly entries: readonly Readonly<Record<string, unknown>>[];
  };
}

/** A page, with the topics to which it is subscribed. */
interface OpenPage {
  readonly user: string;
  readonly node: UserNode;
  readonly page: Page;
  readonly topics: Set<string>;
}

/** Two nodes with inspectors, and pages. */
class Inspections {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #nodes: UserNodes;
  readonly #showsPayloads: boolean;
  readonly #published = new Map<string, number>();
  /** Ids of sessions whose envelopes were read. */
  readonly #followed = new Set<string>();
  #pages: OpenPage[] = [];
  #count = 0;

  constructor(audit: Audit, random: () => number) {
    this.#audit = audit;
    this.#random = random;
    this.#showsPayloads = random() < 0.7;
    this.#nodes = new UserNodes(audit, "inspections", {
      inspector: { authorize: () => true, payloads: this.#showsPayloads },
      rooms: ["room:{name}"],
      history: { "log:{name}": {} },
    });
  }

  async run(): Promise<void> {
    const random = this.#random;
    await this.#nodes.ready();
    const rounds = Math.ceil(ROUNDS * random());
    for (let round = 0; round < rounds; round++) {
      for (const one of this.#pages) if (random() < 0.4) this.#leave(one);
      const count = Math.floor(between(random, PAGES[0], PAGES[1] + 1));
      while (this.#pages.length < count) await this.#enter();
      await this.#audit.pause(FRESH_MS);
      this.#act();
      await this.#audit.pause(FRESH_MS);
      const asked = oneOf(random, this.#nodes.all);
      await this.#lookAtSessions(asked);
      await this.#lookAtTopics(asked);
      await this.#lookAtRooms(asked);
      await this.#lookAtNodes(asked);
      await this.#followOne(asked);
    }
    for (const { page } of this.#pages) page.close();
    await this.#nodes.close();
  }

  async #enter(): Promise<void> {
    const random = this.#random;
    const [user, node] = [oneOf<string>(random, USERS), oneOf(random, this.#nodes.all)];
    const page = new Page(this.#audit, user, `inspections-${this.#count++}`, node);
    await this.#audit.until(() => page.isIn);
    const topics = new Set<string>(TOPICS.filter(() => random() < 0.5));
    for (const topic of topics) page.ask({ subscribe: topic });
    this.#pages.push({ user, node, page, topics });
  }

  #leave(one: OpenPage): void {
    this.#pages = this.#pages.filter((other) => other !== one);
    one.page.close();
  }

  /** Sends messages of pages, and publishes on topics. */
  #act(): void {
    const random = this.#random;
    for (const { page } of this.#pages) {
      for (let left = Math.floor((MESSAGES + 1) * random()); left > 0; left--) {
        page.send({ topic: "note", data: left });
      }
    }
    for (const topic of TOPICS) {
      if (topic.startsWith("room:")) continue;
      const { server } = oneOf(random, this.#nodes.all);
      const count = Math.floor((PUBLICATIONS + 1) * random());
      for (let n = 0; n < count; n++) {
        if (topic.startsWith("log:")) void server.topics.append(topic, { n, token: SECRET });
        else server.publish(topic, n);
      }
      this.#published.set(topic, (this.#published.get(topic) ?? 0) + count);
    }
  }

  /** Lists sessions by a drawn column, in part. */
  async #lookAtSessions(asked: UserNode): Promise<void> {
    const random = this.#random;
    const sort = oneOf(random, Object.keys(COLUMNS));
    const order = oneOf(random, ["ascending", "descending"]);
    const query = oneOf(random, ["", "", "ann", "BEN", "e websocket", "connected anna", "nobody"]);
    const only = random() < 0.3 ? oneOf(random, this.#nodes.all) : undefined;
    const params = { sort, order, query, ...(only && { node: only.server.nodes!.id }) };
    const what = `sessions by ${sort}, ${order}, with "${query}"${only ? " of one node" : ""}`;
    const all = (only ? [only] : this.#nodes.all).flatMap(({ server }) =>
      server.manager.all().map((session) => ({
        session: session as unknown as Session,
        node: server.nodes!.id,
      }))
    );
    const words = query.toLowerCase().split(" ");
    const found = all.filter(({ session: { user, id, transport, state } }) =>
      words.every((word) => `${user} ${id} ${transport} ${state}`.toLowerCase().includes(word))
    );
    const rowOf = ({ session, node }: typeof all[number]) => [
      session.id,
      node,
      ...Object.values(COLUMNS).map((read) => read(session)),
    ];
    const list = await this.#ask<List>(asked, "sessions", params);
    const names = ["id", "node", ...Object.keys(COLUMNS)];
    const rows = list.rows.map((row) => names.map((name) => row[name]));
    const byId = (a: readonly unknown[], b: readonly unknown[]) => `${a[0]}` < `${b[0]}` ? -1 : 1;
    this.#expect(what, found.map(rowOf).toSorted(byId), rows.toSorted(byId));
    const counts = [found.length, all.length, []];
    this.#expect(`numbers of ${what}`, counts, [list.matched, list.total, list.missing]);
    const sign = order === "ascending" ? 1 : -1;
    const values = found.map(({ session }) => COLUMNS[sort]!(session))
      .sort((a, b) => a === b ? 0 : a < b ? -sign : sign);
    this.#expect(`order of ${what}`, values, list.rows.map((row) => row[sort]));
    const issues = await this.#ask<List>(asked, "sessions", { issues: "only" });
    this.#expect("sessions with issues", [0, 0], [issues.rows.length, issues.matched]);
  }

  /** Lists topics of both nodes as one, and reads the history of one. */
  async #lookAtTopics(asked: UserNode): Promise<void> {
    const query = oneOf(this.#random, ["", "ONE", "talk", "log"]);
    const fits = (topic: string) => topic.includes(query.toLowerCase());
    const names = TOPICS.filter((topic) => fits(topic) && this.#subscribers(topic).length > 0);
    const expected = names.map((topic) => {
      const subscribers = this.#subscribers(topic);
      return [
        topic,
        subscribers.length,
        new Set(subscribers.map(({ node }) => node)).size,
        topic.startsWith("log:") ? this.#published.get(topic) : "none",
      ];
    });
    const { rows } = await this.#ask<List>(asked, "topics", {
      query,
      sort: "topic",
      order: "ascending",
    });
    const received = rows.map((
      { topic, subscribers, nodes, offset = "none" },
    ) => [topic, subscribers, nodes, offset]);
    this.#expect(`topics with "${query}"`, expected.toSorted(), received);
    const { history } = await this.#ask<{ readonly history: Readonly<Record<string, unknown>> }>(
      asked,
      "topic",
      { id: "log:one" },
    );
    // A page may be shown a history of some seconds ago.
    await this.#audit.pause(5_000);
    const count = this.#published.get("log:one") ?? 0;
    const { messages, head } = history;
    this.#expect("publications of a history", [count, count], [messages, head]);
    this.#expect("secrets in a history", false, JSON.stringify(history).includes(SECRET));
  }

  /** Lists rooms of both nodes as one, and the members of one. */
  async #lookAtRooms(asked: UserNode): Promise<void> {
    const rooms = TOPICS.filter((topic) => topic.startsWith("room:"));
    const expected = rooms.flatMap((room) => {
      const members = this.#subscribers(room);
      const users = new Set(members.map(({ user }) => user)).size;
      const nodes = new Set(members.map(({ node }) => node)).size;
      return members.length === 0 ? [] : [[room, users, members.length, nodes]];
    });
    const { rows } = await this.#ask<List>(asked, "rooms", { sort: "room", order: "ascending" });
    const received = rows.map(({ room, users, sessions, nodes }) => [room, users, sessions, nodes]);
    this.#expect("rooms", expected, received);
    const room = oneOf(this.#random, rooms);
    const { members } = await this.#ask<
      { readonly members: readonly { readonly user: string; readonly connections: number }[] }
    >(asked, "room", { id: room });
    const connections = new Map<string, number>();
    for (const { user } of this.#subscribers(room)) {
      connections.set(user, (connections.get(user) ?? 0) + 1);
    }
    const shown = members.map(({ user, connections }) => [user, connections]);
    this.#expect(`members of ${room}`, [...connections].toSorted(), shown.toSorted());
  }

  /** Compares the figures of each node. */
  async #lookAtNodes(asked: UserNode): Promise<void> {
    const { nodes, payloads } = await this.#ask<{
      readonly payloads: boolean;
      readonly nodes: readonly {
        readonly node: { readonly id: string; readonly isSelf: boolean };
        readonly answer: {
          readonly stats: { readonly count: number };
          readonly online: number;
          readonly issues: object;
        };
      }[];
    }>(asked, "overview", {});
    this.#expect("payloads of an overview", this.#showsPayloads, payloads);
    const others = this.#nodes.all.filter((node) => node !== asked);
    const online = new Set(this.#pages.map(({ user }) => user)).size;
    const expected = [asked, ...others].map((node) => [
      node.server.nodes!.id,
      node === asked,
      this.#pages.filter((page) => page.node === node).length,
      online,
      { errors: 0, warnings: 0, sessions: 0 },
    ]);
    const received = nodes.map(({ node: { id, isSelf }, answer }) => [
      id,
      isSelf,
      answer.stats.count,
      answer.online,
      answer.issues,
    ]);
    this.#expect("nodes of an overview", expected, received);
  }

  /** Reads the details of one session, and its envelopes as they come. */
  async #followOne(asked: UserNode): Promise<void> {
    const random = this.#random;
    const { user, node, page, topics } = oneOf(random, this.#pages);
    const sessions = node.server.manager.sessionsOf(user);
    const isAlone = sessions.length === 1;
    // Sessions of one user at one node cannot be told apart here.
    if (!isAlone) return;
    const params = { node: node.server.nodes!.id, id: sessions[0]!.id };
    const details = await this.#ask<{
      readonly answer: { readonly topics: readonly string[]; readonly rooms: readonly string[] };
    }>(asked, "session", params);
    const isRoom = (topic: string) => topic.startsWith("room:");
    const received = [details.answer.topics.toSorted(), details.answer.rooms.toSorted()];
    const expected = [[...topics].toSorted(), [...topics].filter(isRoom).toSorted()];
    this.#expect(`topics and rooms of ${user}`, expected, received);
    let next = 0;
    const read = async () => {
      const { answer } = await this.#ask<Traffic>(asked, "traffic", {
        ...params,
        after: `${next}`,
      });
      next = answer.next;
      return answer;
    };
    const first = await read();
    // A page that comes back soon is shown what was recorded meanwhile.
    const isNew = !this.#followed.has(params.id);
    this.#followed.add(params.id);
    const shownAtFirst = isNew ? first.entries.length : 0;
    this.#expect("traffic at first", ["following", 0], [first.state, shownAtFirst]);
    const kinds = shuffled(random, ["note", "talk:none", "secret"]);
    let n = next;
    for (const kind of kinds) {
      const envelope = { topic: kind, data: kind === "secret" ? { token: SECRET } : "é" };
      page.send(envelope);
      await this.#audit.pause(FRESH_MS / 6);
      const { entries, missed } = await read();
      const { length } = new TextEncoder().encode(JSON.stringify(envelope));
      const shown = entries.map((
        { n, direction, topic, kind, bytes },
      ) => [n, direction, topic, kind, bytes]);
      const due = [[++n, "in", kind, "topic", length]];
      this.#expect(`envelope of a ${kind}`, [due, 0], [shown, missed]);
      const text = `${entries[0]?.["text"]}`;
      this.#expect(`secret in a ${kind}`, false, text.includes(SECRET));
      this.#expect(`text of a ${kind}`, this.#showsPayloads, text !== "");
    }
    const id = page.ask({ auth: user });
    // The answer follows the decisions about all topics, up to a second later.
    await this.#audit.until(() => page.answerTo(id) !== undefined);
    await this.#audit.pause(FRESH_MS / 6);
    const entries = (await read()).entries.filter(({ kind }) => !/^p[io]ng$/.test(`${kind}`));
    const isShown = entries.some(({ text }) => `${text}`.includes(`"${user}"`));
    this.#expect("kinds of a renewal", ["auth", "reply"], entries.map(({ kind }) => kind));
    this.#expect("token of a renewal", false, isShown);
  }

  #subscribers(topic: string): OpenPage[] {
    return this.#pages.filter(({ topics }) => topics.has(topic));
  }

  #ask<T>({ host }: UserNode, name: string, params: Readonly<Record<string, string>>): Promise<T> {
    const viewer = this.#audit.host("inspections-viewer");
    return askInspector(this.#audit, { viewer, host }, name, params);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("figures", `${what} in an inspector`, expected, received);
  }
}

/**
 * Asks an inspector as a page does.
 *
 * @param audit The audit.
 * @param hosts The machine of the page, and that of the node.
 * @param name Name of the data.
 * @param params Parameters of the question.
 * @returns The answer.
 */
export async function askInspector<T>(
  audit: Audit,
  { viewer, host }: { readonly viewer: Host; readonly host: Host },
  name: string,
  params: Readonly<Record<string, string>>,
): Promise<T> {
  const url = `https://${host.name}/inspector/data/${name}?${new URLSearchParams(params)}`;
  const response = await audit.fetch(viewer, url, { headers: { "skein-inspector": "1" } });
  return await response.json();
}

/**
 * Looks at the lists, figures and envelopes that the inspectors of two nodes show.
 *
 * @param audit The audit.
 */
export async function auditInspections(audit: Audit): Promise<void> {
  await new Inspections(audit, audit.chanceOf("inspections")).run();
}
