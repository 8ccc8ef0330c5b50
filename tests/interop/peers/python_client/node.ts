/** A node of a server on Redis. The arguments are the node's name and the Redis URL. */
import { AuthenticationError, RequestError, serve } from "@skein/skein";
import { RedisBroker } from "@skein/skein/redis";

const [name = "", url = ""] = Deno.args;

const server = serve({
  port: 0,
  hostname: "127.0.0.1",
  onListen() {},
  broker: new RedisBroker({ url }),
  history: { "chat:{room}": { size: 10_000 } },
  tokens: { inMessage: true },
  authenticate({ token }) {
    if (token === undefined) throw new AuthenticationError("No token");
    return token;
  },
  authorize: (_session, topic) => topic.startsWith("chat:"),
  async onMessage(message, session) {
    switch (message.topic) {
      case "node":
        return message.reply(name);
      case "echo":
        return message.reply(message.data);
      case "ask":
        return message.reply(await session.request("double", message.data));
      case "ask-rejected":
        return message.reply(await session.request("reject"));
      default:
        throw new RequestError("unknown-topic", "Unknown topic");
    }
  },
});

await server.nodes!.ready;
console.log(JSON.stringify({ url: server.url }));
