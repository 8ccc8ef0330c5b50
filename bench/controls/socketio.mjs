/**
 * The control on socket.io, with rooms and the default engine, on Node and on Deno. Only WebSocket
 * is measured, not polling.
 *
 * @module
 */
import { createServer } from "node:http";
import process from "node:process";

const { Server } = await import("Deno" in globalThis ? "npm:socket.io@4.8.4" : "socket.io");

const http = createServer();
const io = new Server(http, { transports: ["websocket"], perMessageDeflate: false });

io.on("connection", (socket) => {
  socket.on("sub", (topic) => {
    socket.join(topic);
    socket.emit("subok");
  });
  socket.on("pub", (topic, data) => io.to(topic).emit(topic, data));
  socket.on("echo", (data) => socket.emit("echo", data));
});
http.listen(Number(process.argv[process.argv.indexOf("--port") + 1]), "127.0.0.1");
