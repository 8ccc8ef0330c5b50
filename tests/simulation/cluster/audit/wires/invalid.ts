/** Invalid messages of a page: few in each minute end no session, the bound within one minute does. */
import { CloseCode } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { range } from "../history.ts";

/** Name of the machines. */
const NAME = "invalid";

/** Time in which invalid messages are counted, in milliseconds: docs/guide/limits.md. */
const WINDOW_MS = 60_000;

/** Time beyond that, in milliseconds. */
const BEYOND_MS = 1_000;

/** Fewest and most invalid messages that end a session. */
const [FEWEST, MOST] = [4, 8] as const;

/** Requests of the page at once, all of which wait. */
const REQUESTS = 2;

/** Phases before the end of the session. */
const PHASES = 3;

/** Longest time of a message, in milliseconds. */
const TRIP_MS = 2_000;

/** Messages that each count as invalid; a new number stands in each request. */
const INVALID: readonly ((id: number) => string)[] = [
  () => "{",
  () => "[]",
  () => '{"topic":7,"data":0}',
  (id) => `{"topic":"hold","data":0,"id":${id}}`,
];

/**
 * Sends invalid messages to a server whose clock goes on in between.
 *
 * @param audit The audit.
 */
export async function auditInvalid(audit: Audit): Promise<void> {
  const random = audit.chanceOf(NAME);
  const host = audit.host(NAME);
  const most = FEWEST + Math.floor((MOST - FEWEST + 1) * random());
  const gate = Promise.withResolvers<void>();
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    session: { maxInvalidMessages: most, maxRequests: REQUESTS, concurrency: REQUESTS },
    requests: { hold: () => gate.promise },
    onError() {},
  }));
  const protocols = random() < 0.5 ? ["skein.1"] : [];
  const url = new URL(`wss://${host.name}/`);
  const socket = audit.network.sockets(audit.host(`${NAME}-page`))(url, protocols);
  let code: number | undefined;
  socket.onclose = (event) => code = event.code;
  await audit.until(() => server.manager.count === 1 && socket.readyState === 1);
  const [session] = server.manager.all();
  for (const id of range(1, REQUESTS)) socket.send(`{"topic":"hold","data":0,"id":${id}}`);
  let id = REQUESTS;
  let sent = 0;
  const told: string[] = [];
  const send = async (count: number) => {
    for (let i = 0; i < count; i++) socket.send(oneOf(random, INVALID)(++id));
    sent += count;
    await audit.until(() => session?.stats.invalidMessages === sent, TRIP_MS);
  };
  const examine = (what: string) => {
    told.push(what);
    const about = `session with ${told.join(", ")} invalid messages, ${most} at most in a minute`;
    const received = [session?.state, session?.stats.invalidMessages, code];
    audit.examine("limits", about, ["connected", sent, undefined], received);
  };
  for (let phase = 0; phase < PHASES; phase++) {
    // In a new window, and at the pace of two fewer than the bound.
    host.jumpClock(WINDOW_MS + BEYOND_MS);
    if (random() < 0.5) {
      await send(most - 1);
      examine(`${most - 1} at once`);
      continue;
    }
    const betweenMs = Math.ceil(WINDOW_MS / (most - 2)) + BEYOND_MS;
    for (let n = 0; n < 2 * most; n++) {
      await send(1);
      host.jumpClock(betweenMs);
    }
    examine(`${2 * most} in ${betweenMs} ms each`);
  }
  host.jumpClock(WINDOW_MS + BEYOND_MS);
  await send(most - 1);
  examine(`${most - 1} at once`);
  await send(1);
  await audit.until(() => code !== undefined, TRIP_MS);
  audit.examine("limits", `close with ${most} invalid messages`, CloseCode.malformed, code);
  gate.resolve();
  await server.close();
}
