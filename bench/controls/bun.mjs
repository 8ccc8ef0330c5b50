/**
 * The control on Bun, with the topics of Bun's server. A message is encoded once.
 *
 * @module
 */
import process from "node:process";

const { Bun } = globalThis;
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[process.argv.indexOf("--port") + 1]),
  fetch(request) {
    return server.upgrade(request) ? undefined : new Response(null, { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    // The saturated generator reads everything; with the default, Bun would close its sockets
    // first.
    backpressureLimit: 64 * 1_048_576,
    message(socket, text) {
      const message = JSON.parse(text);
      if (message.topic === "sub") {
        socket.subscribe(message.data);
        return socket.send('{"topic":"subok"}');
      }
      const encoded = JSON.stringify(message);
      if (message.topic === "echo") socket.send(encoded);
      else server.publish(message.topic, encoded);
    },
  },
});
