/** Requests of the HTTP transport from pages of other origins, and with malformed headers. */
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { Audit } from "../audit.ts";
import { shuffled } from "../../chance.ts";
import { type Answer, ask } from "../services/backend.ts";
import { openedOf } from "./hand_connection.ts";

/** A page that may open sessions, and one that may not. */
const [PAGE, FOREIGN] = ["https://page.example", "https://foreign.example"] as const;

/** Most characters of the id of a connection. */
const ID_LENGTH = 128;

/** The URL of a session, asked for by a poll so that the answer ends. */
const OPENING = { outside: "/?protocol=skein.1", headers: { "skein-poll": "1" } } as const;

/** Headers of an answer to a page that may read it. */
const SHARED = {
  "access-control-allow-origin": PAGE,
  "access-control-allow-credentials": "true",
  "access-control-expose-headers": "skein-transport, skein-number, retry-after",
} as const;

/** Headers of an answer to another page. */
const KEPT = {
  "access-control-allow-origin": null,
  "access-control-allow-credentials": null,
  "access-control-expose-headers": null,
} as const;

/** A request, with status and headers of the answer. */
interface Case {
  readonly method?: string;
  readonly outside?: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly status: number;
  readonly answer?: Readonly<Record<string, string | null>>;
}

/** Headers of a request for a connection that no node has. */
const UNKNOWN = { "skein-session": "none", "skein-secret": "x", "last-event-id": "1" } as const;

const WANTS_POST = {
  "access-control-request-method": "POST",
  "access-control-request-headers": "skein-transport",
} as const;

/** All requests. */
const CASES: readonly Case[] = [
  { ...OPENING, status: 200, answer: KEPT },
  { ...OPENING, headers: { ...OPENING.headers, origin: PAGE }, status: 200, answer: SHARED },
  { ...OPENING, headers: { ...OPENING.headers, origin: FOREIGN }, status: 403, answer: KEPT },
  { headers: { "skein-poll": "1" }, status: 400 },
  { outside: "/?protocol=skein.12", headers: { "skein-poll": "1" }, status: 400 },
  {
    method: "OPTIONS",
    headers: { ...WANTS_POST, origin: PAGE },
    status: 204,
    answer: {
      ...SHARED,
      "access-control-allow-methods": "GET, POST, DELETE",
      "access-control-allow-headers":
        "authorization, skein-transport, skein-session, skein-secret, skein-number, skein-poll, " +
        "skein-close, last-event-id",
    },
  },
  {
    method: "OPTIONS",
    headers: { ...WANTS_POST, origin: FOREIGN },
    status: 403,
    answer: { ...KEPT, "access-control-allow-methods": null },
  },
  { method: "PUT", headers: UNKNOWN, status: 405, answer: { allow: "GET, POST, DELETE, OPTIONS" } },
  ...(["GET", "DELETE"] as const).flatMap((method) => [
    { method, headers: { ...UNKNOWN, origin: PAGE }, status: 410, answer: SHARED },
    { method, headers: { ...UNKNOWN, origin: FOREIGN }, status: 403, answer: KEPT },
    { method, headers: { ...UNKNOWN, "skein-session": "x".repeat(ID_LENGTH) }, status: 410 },
    { method, headers: { ...UNKNOWN, "skein-session": "x".repeat(ID_LENGTH + 1) }, status: 400 },
  ]),
];

/** Headers of requests for a connection that is there, with the status. */
const OF_CONNECTION: readonly Case[] = [
  ...["", "-1", "1.5", "0x1", "9007199254740992"].map((number) => ({
    headers: { "skein-poll": "1", "last-event-id": number },
    status: 400,
  })),
  ...["x", "1000", "2999", "5000", "3000 %zz"].map((close) => ({
    method: "DELETE",
    headers: { "skein-close": close },
    status: 400,
  })),
];

/**
 * Sends requests of pages to a server.
 *
 * @param audit The audit.
 */
export async function auditForeignPages(audit: Audit): Promise<void> {
  const random = audit.chanceOf("foreign-pages");
  const closes: [code: number, reason: string][] = [];
  const node = new SimulatedServer<string>(audit.network, audit.host("foreign-pages"), () => ({
    origins: [PAGE],
    onClose: (_, { code, reason }) => void closes.push([code, reason]),
    onRefusal() {},
  }));
  const send = ({ method = "GET", outside = "/", headers }: Omit<Case, "status">) => {
    // A page asks first, and sends the mark in the request that follows.
    const mark = method === "OPTIONS" ? undefined : { "skein-transport": "http" };
    return ask(node, { method, outside, headers: { ...mark, ...headers } });
  };
  const examine = async (one: Case, more: Readonly<Record<string, string>> = {}) => {
    const { method = "GET", outside = "/", headers, status, answer = {} } = one;
    const what = `${method} ${outside} with ${JSON.stringify(headers).slice(0, 160)}`;
    const received = await send({ ...one, headers: { ...more, ...headers } });
    audit.examine("carriers", `status of ${what}`, status, received.status);
    for (const [name, value] of Object.entries(answer)) {
      audit.examine("carriers", `${name} of ${what}`, value, received.headers.get(name));
    }
  };
  for (const one of shuffled(random, CASES)) await examine(one);
  const own = headersOf(await send(OPENING));
  for (const one of shuffled(random, OF_CONNECTION)) await examine(one, own);
  audit.examine("carriers", "closes behind malformed requests", [], closes);
  const code = 3_000 + Math.floor(2_000 * random());
  const reason = `${code} % é`;
  const end = { "skein-close": `${code} ${encodeURIComponent(reason)}` };
  await examine({ method: "DELETE", headers: end, status: 204 }, own);
  await audit.until(() => closes.length > 0);
  audit.examine("carriers", "close by a DELETE", [[code, reason]], closes);
  await node.server.close();
}

/** Reads the headers of a connection from its first event. */
function headersOf({ body }: Answer): Record<string, string> {
  const { session, secret } = openedOf(`${body}`);
  return { "skein-session": session, "skein-secret": secret };
}
