/** tRPC subscriptions on its adapter for `ws`, on Node. */
import { createServer } from "node:http";
import process from "node:process";
import { stops, words } from "./words.mjs";

const [{ initTRPC }, { applyWSSHandler }, { WebSocketServer }] = await Promise.all(
  ["@trpc/server", "@trpc/server/adapters/ws", "ws"].map((name) => import(name)),
);
const t = initTRPC.create();
const router = t.router({ words: t.procedure.subscription(words) });
const server = createServer((_request, response) => response.end(JSON.stringify(stops)));
const wss = new WebSocketServer({ server, perMessageDeflate: false });
applyWSSHandler({ wss, router });
server.listen(Number(process.argv[2]), "127.0.0.1");
