/**
 * The control on `ws`, on Node and on Deno. A message is encoded once.
 *
 * @module
 */
import process from "node:process";

const { WebSocketServer } = await import("Deno" in globalThis ? "npm:ws@8.23.0" : "ws");

const topics = new Map();
const port = Number(process.argv[process.argv.indexOf("--port") + 1]);
const server = new WebSocketServer({ host: "127.0.0.1", port, perMessageDeflate: false });

server.on("connection", (socket) => {
  const mine = [];
  socket.on("close", () => mine.forEach((subscribers) => subscribers.delete(socket)));
  socket.on("message", (bytes) => {
    const message = JSON.parse(bytes.toString());
    if (message.topic === "sub") {
      const subscribers = topics.get(message.data) ?? new Set();
      topics.set(message.data, subscribers.add(socket));
      mine.push(subscribers);
      return socket.send('{"topic":"subok"}');
    }
    const text = JSON.stringify(message);
    if (message.topic === "echo") socket.send(text);
    else for (const subscriber of topics.get(message.topic) ?? []) subscriber.send(text);
  });
});
