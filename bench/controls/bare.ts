/**
 * The bare control: the platform without a library. One frame per message, no limits, no checks, a
 * loop over a Set.
 *
 * @module
 */
import { portOf } from "../args.ts";

const topics = new Map<string, Set<WebSocket>>();

Deno.serve({ hostname: "127.0.0.1", port: portOf(Deno.args), onListen() {} }, (request) => {
  const { socket, response } = Deno.upgradeWebSocket(request, { idleTimeout: 0 });
  const mine: Set<WebSocket>[] = [];
  socket.onclose = () => mine.forEach((subscribers) => subscribers.delete(socket));
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.topic === "sub") {
      const subscribers = topics.get(message.data) ?? new Set();
      topics.set(message.data, subscribers.add(socket));
      mine.push(subscribers);
      socket.send('{"topic":"subok"}');
      return;
    }
    const text = JSON.stringify(message);
    if (message.topic === "echo") socket.send(text);
    else for (const subscriber of topics.get(message.topic) ?? []) subscriber.send(text);
  };
  return response;
});
