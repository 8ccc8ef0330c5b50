/**
 * A node of socket.io with the Redis adapter, on Node and on Deno.
 *
 * @module
 */
import { createServer } from "node:http";
import process from "node:process";

const isDeno = "Deno" in globalThis;
const { Server } = await import(isDeno ? "npm:socket.io@4.8.4" : "socket.io");
const { createAdapter } = await import(
  isDeno ? "npm:@socket.io/redis-adapter@8.3.0" : "@socket.io/redis-adapter"
);
const { Redis } = await import(isDeno ? "npm:ioredis@5.8.2" : "ioredis");

const valueOf = (name) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? undefined : process.argv[at + 1];
};
const http = createServer();
const io = new Server(http, { transports: ["websocket"], perMessageDeflate: false });
const url = valueOf("--redis");
if (url !== undefined) io.adapter(createAdapter(new Redis(url), new Redis(url)));

io.on("connection", (socket) => {
  socket.on("sub", (topic) => {
    socket.join(topic);
    socket.emit("subok");
  });
  socket.on("pub", (topic, data) => io.to(topic).emit(topic, data));
});
http.listen(Number(valueOf("--port")), "127.0.0.1");
