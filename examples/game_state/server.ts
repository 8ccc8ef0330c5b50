/**
 * A game in a page, over a simulated network whose loss and delay you can adjust. States are sent
 * in datagrams, because only the newest state counts. The page interpolates each player between two
 * states.
 *
 * ```sh
 * deno run -A --unstable-net examples/game_state/server.ts          # then open http://localhost:8004
 * deno run -A --unstable-net examples/game_state/server.ts --port 9004
 * deno run -N examples/game_state/server.ts --once                  # plays a short game, and ends
 * ```
 *
 * Without `--unstable-net` the page uses WebSocket, which delivers datagrams reliably: states are
 * lost only if you set a loss. `examples/game_state.ts` shows the same game in a terminal.
 *
 * @module
 */
import * as z from "zod";
import {
  AuthenticationError,
  defineContract,
  dial,
  serve,
  type Server,
  type Session,
} from "../../mod.ts"; // jsr:@skein/skein
import { ONCE, optionsOf, PORT } from "../shared/options.ts";
import { CLIENT, readPage, servePage } from "../shared/site.ts";
import { FIELD, networkSchema, states, World } from "./world.ts";

const contract = defineContract({
  toServer: {
    steer: z.tuple([z.number().min(0).max(FIELD.width), z.number().min(0).max(FIELD.height)]),
  },
  toClient: {
    game: z.object({
      me: z.string(),
      field: z.object({ width: z.number(), height: z.number() }),
      tickMs: z.number(),
    }),
  },
  requests: { network: { input: networkSchema, output: z.null() } },
});

const NAME = /^[a-z]{1,12}\d{0,4}$/;

const FILES = ["index.html", "game.css", "game.js", "states.js"];

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { port, once } = optionsOf({
    run: "deno run -A --unstable-net examples/game_state/server.ts",
    about: "Serves a game that sends its states in datagrams, with a network of adjustable loss.",
  }, { port: { ...PORT, default: 8004 }, once: ONCE });
  if (once) return await playOnce();
  const page = await readPage(new URL("page/", import.meta.url), FILES, CLIENT);
  serveGame(new World(100), {
    port,
    fetch: (request) => servePage(page, request),
    onListen: ({ port }) => console.log(`Game at http://localhost:${port} (press Ctrl-C to stop)`),
  });
}

function serveGame(
  world: World,
  options: {
    readonly port: number;
    readonly fetch?: (request: Request) => Response;
    readonly onListen: (address: { readonly port: number }) => void;
  },
): Server<string, typeof contract> {
  return serve({
    ...options,
    hostname: "127.0.0.1",
    path: "/session",
    contract,
    // A game among friends: a player may use any name.
    authenticate({ request }) {
      const name = new URL(request.url).searchParams.get("name") ?? "";
      if (!NAME.test(name)) {
        throw new AuthenticationError("A name has up to 12 lowercase letters", { status: 400 });
      }
      return name;
    },
    // Not awaited: messages wait until `onOpen` is done.
    onOpen: (session) => void world.welcome(session as Session).catch(console.error),
    onMessage(message, session) {
      if (message.pattern === "steer") world.steer(session as Session, message.data);
      else {
        world.dial(session as Session, message.data);
        message.reply(null);
      }
    },
  });
}

/** Plays on a good network, then on one that loses every state. */
async function playOnce(): Promise<void> {
  using world = new World(20);
  await using server = serveGame(world, { port: 0, onListen() {} });
  await using session = await dial(`${server.url}session?name=ann`, {
    contract,
    transports: ["websocket"],
  });
  await using datagrams = await session.structuredDatagrams({ registry: states });
  const numbers: number[] = [];
  const { promise: isEnough, resolve: enough } = Promise.withResolvers<void>();
  void (async () => {
    for await (const { data } of datagrams) if (numbers.push(data.sequence) === 10) enough();
  })();
  for await (const { data } of session) {
    if ("me" in data) console.log(`${data.me} is on the field`);
    break;
  }
  await isEnough;
  const isWhole = numbers.every((number, i) => number === numbers[0]! + i);
  console.log(`at 0 %: states, ${isWhole ? "none" : "some"} missing`);
  await session.request("network", { lossPercent: 100, delayMs: 0 });
  // Earlier states may still be in flight.
  const { sequence } = world;
  await pause(300);
  const isLost = !numbers.some((number) => number > sequence);
  console.log(`at 100 %: ${isLost ? "no states" : "states"}`);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
