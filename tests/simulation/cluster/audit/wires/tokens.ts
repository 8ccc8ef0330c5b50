/** Tokens in band: first frames of pages that speak by hand, while the server checks the tokens. */
import { AuthenticationError, CloseCode } from "../../../../../errors.ts";
import { pause } from "../../../../../base/wait.ts";
import { AUTHENTICATE_TIMEOUT_MS } from "../../../../../server/authentication.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { SimulatedWebSocket } from "../../../../../testing/simulation/network/websocket.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, envelopesOf } from "../audit.ts";
import { range } from "../history.ts";
import { auditEntrances } from "./entrances.ts";

/** Name of a page without a token. */
const GUEST = "guest";

/** Shortest and longest check of a token, a slow one, and one that the server gives up, in milliseconds. */
const [CHECK_MS, SLOW_MS, ENDLESS_MS] = [[20, 200], 600, 60_000] as const;

/** Time for the way to the server and back, in milliseconds. */
const SLACK_MS = 500;

/** Longest token in bytes. */
const TOKEN_BYTES = 16_384;

/** Most messages of a page. */
const MESSAGES = 8;

/** Ends of pages, as `[code of the answer to the token, close code]`; `undefined` for none. */
type End = readonly [answer: string | undefined, code: number | undefined];

/** A session that goes on. */
const IN: End = [undefined, undefined];

/** A refusal without an answer to the token. */
const REFUSED: End = [undefined, CloseCode.unauthenticated];

/** The first frames of a page, and the end that these lead to. */
interface Kind {
  readonly name: string;
  /** Rule of docs/protocol.md. */
  readonly rule: string;
  readonly isAnnounced: boolean;
  readonly end: End;
  /** The way of the check: `good`, which is the default, `bad`, `barred`, `slow` or `endless`. */
  readonly token?: string;
  /** First frames; by default the token. */
  readonly frames?: (auth: string, messages: readonly string[]) => readonly string[];
  /** True if the messages come behind `hello`. */
  readonly isPolite?: boolean;
  /** True for a page that the server admits as a guest, false for one that it refuses. */
  readonly isGuest?: boolean;
}

/** All kinds. */
const KINDS: readonly Kind[] = [
  { name: "good", rule: "8.2", isAnnounced: true, end: IN, isPolite: true },
  { name: "bad", rule: "8.5", isAnnounced: true, end: ["unauthenticated", 4401], token: "bad" },
  { name: "barred", rule: "8.5", isAnnounced: true, end: ["forbidden", 4403], token: "barred" },
  {
    name: "other first frame",
    rule: "8.3",
    isAnnounced: true,
    end: REFUSED,
    frames: (_, [message = ""]) => [message],
  },
  {
    name: "further frame",
    rule: "8.3",
    isAnnounced: true,
    end: REFUSED,
    token: "slow",
    frames: (auth, [message = ""]) => [auth, message],
  },
  {
    name: "further envelope",
    rule: "8.3",
    isAnnounced: true,
    end: REFUSED,
    frames: (auth, [message = ""]) => [`${auth}\n${message}`],
  },
  {
    name: "long",
    rule: "8.1",
    isAnnounced: true,
    end: REFUSED,
    token: "good".padEnd(TOKEN_BYTES, "x"),
  },
  {
    name: "missing",
    rule: "8.6",
    isAnnounced: true,
    end: [undefined, CloseCode.timedOut],
    frames: () => [],
  },
  {
    name: "endless",
    rule: "8.6",
    isAnnounced: true,
    end: ["unavailable", CloseCode.draining],
    token: "endless",
  },
  { name: "unannounced", rule: "2.8", isAnnounced: false, isGuest: false, end: REFUSED },
  {
    name: "unannounced, of a guest",
    rule: "8.7",
    isAnnounced: false,
    isGuest: true,
    end: ["forbidden", undefined],
  },
];

/** The parts of an envelope of the server that a page uses. */
interface Heard {
  readonly hello?: unknown;
  readonly reply?: number;
  readonly error?: { readonly code: string };
}

/** A page with a token. */
class TokenPage {
  readonly kind: Kind;
  readonly user: string;
  readonly messages: readonly string[];
  readonly heard: Heard[] = [];
  readonly host: Host;
  code: number | undefined;
  readonly #socket: SimulatedWebSocket;

  constructor(audit: Audit, kind: Kind, server: string) {
    this.kind = kind;
    this.host = audit.host(`tokens-${kind.name.replaceAll(/\W+/g, "-")}`);
    this.user = `${kind.token ?? "good"} ${kind.name}`;
    const count = 1 + Math.floor(MESSAGES * audit.random());
    this.messages = range(1, count).map((n) => JSON.stringify({ topic: "work", data: n }));
    const protocols = kind.isAnnounced ? ["skein.1", "skein.auth"] : ["skein.1"];
    const socket = this.#socket = audit.network.sockets(this.host)(
      new URL(`wss://${server}/`),
      protocols,
    );
    const auth = JSON.stringify({ auth: this.user, id: 1 });
    const frames = kind.frames ?? (() => [auth]);
    socket.onopen = () => this.#send(frames(auth, this.messages));
    socket.onmessage = ({ data }) => {
      for (const envelope of envelopesOf<Heard>(data)) {
        this.heard.push(envelope);
        if (kind.isPolite && envelope.hello !== undefined) this.#send(this.messages);
      }
    };
    socket.onclose = ({ code }) => this.code = code;
  }

  /** The answer to the token, and the close code. */
  get end(): End {
    const answer = this.heard.find(({ reply }) => reply === 1);
    return [answer?.error?.code, this.code];
  }

  /** Ends the session. */
  close(): void {
    this.#socket.close(1_000);
  }

  #send(frames: readonly string[]): void {
    for (const frame of frames) this.#socket.send(frame);
  }
}

/** Time of the check of a token, in milliseconds. */
function checkMs(token: string, random: () => number): number {
  if (token.startsWith("endless")) return ENDLESS_MS;
  return token.startsWith("slow") ? SLOW_MS : between(random, ...CHECK_MS);
}

/**
 * Opens pages with tokens in band, all at once, and pages of other servers beside these.
 *
 * @param audit The audit.
 */
export async function auditTokens(audit: Audit): Promise<void> {
  await Promise.all([auditFirstFrames(audit), auditEntrances(audit)]);
}

async function auditFirstFrames(audit: Audit): Promise<void> {
  const host = audit.host("tokens");
  const handled = new Map<string, number[]>();
  const open = new Set<string>();
  const hasGuests = audit.random() < 0.6;
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    allowTokenMessage: true,
    limits: { maxSessionsPerAddress: KINDS.length },
    authenticate: async ({ token }) => {
      if (token === undefined && hasGuests) return GUEST;
      if (token === undefined) throw new AuthenticationError("A token is needed");
      await pause(host.runtime, checkMs(token, audit.random));
      if (token.startsWith("bad")) throw new AuthenticationError("Not this token");
      if (token.startsWith("barred")) throw new AuthenticationError("Not here", { status: 403 });
      return token;
    },
    userOf: (user) => user,
    onOpen: ({ user }) => void open.add(user),
    onClose: ({ user }) => void open.delete(user),
    onMessage: ({ data }, { user }) => {
      const numbers = handled.get(user);
      if (numbers === undefined) handled.set(user, [data as number]);
      else numbers.push(data as number);
    },
    onError() {},
    onRefusal() {},
  }));
  const kinds = KINDS.filter(({ isGuest = hasGuests }) => isGuest === hasGuests);
  const pages = kinds.map((kind) => new TokenPage(audit, kind, host.name));
  const isVanished = audit.random() < 0.5;
  const vanished = oneOf(audit.random, pages);
  if (isVanished) {
    await audit.pause(between(audit.random, 0, CHECK_MS[1]));
    audit.cut(vanished.host);
  }
  await audit.pause(AUTHENTICATE_TIMEOUT_MS + SLACK_MS);
  const examined = pages.filter((page) => !isVanished || page !== vanished);
  for (const { kind, user, messages, end } of examined) {
    const about = `a page whose token is ${kind.name} (${kind.rule})`;
    audit.examine("lives", `end of ${about}`, kind.end, end);
    const isIn = kind.end === IN;
    const expected = isIn ? range(1, messages.length) : [];
    audit.examine("lives", `messages of ${about}`, expected, handled.get(user) ?? []);
    audit.examine("lives", `session of ${about}`, isIn, open.has(user));
  }
  audit.examine("lives", "messages of guests", [], handled.get(GUEST) ?? []);
  for (const page of pages) page.close();
  await audit.until(() => server.manager.count === 0);
  await audit.pause(SLACK_MS);
  const { count, reserved, users, addresses } = server.manager.stats();
  audit.examine(
    "lives",
    "counts behind all pages",
    { open: 0, count: 0, reserved: 0, users: 0, addresses: 0 },
    { open: open.size, count, reserved, users, addresses },
  );
  await server.close();
}
