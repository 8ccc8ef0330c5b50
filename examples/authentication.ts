/**
 * Authentication with cookies, bearer tokens, query tokens and tokens in the first message (in
 * band). The example also shows rejected requests, and renews a token during a session.
 *
 * ```sh
 * deno run -N examples/authentication.ts --once
 * ```
 *
 * Without `--once` the servers keep running, on ports 8000 and 8001, or on the port given by
 * `--port` and the next one.
 *
 * @module
 */
import {
  AuthenticationError,
  connect,
  dial,
  type DialOptions,
  RequestError,
  serve,
  type ServeOptions,
  type Server,
  SessionClosedError,
} from "../mod.ts"; // jsr:@skein/skein
import { ONCE, optionsOf, PORT } from "./shared/options.ts";

interface User {
  readonly name: string;
  readonly role: "reader" | "editor";
}

/** The known tokens. A real application uses a session table or signed tokens. */
const TOKENS: ReadonlyMap<string, User> = new Map([
  ["ann-1", { name: "ann", role: "reader" }],
  ["ann-2", { name: "ann", role: "editor" }],
  ["bob-1", { name: "bob", role: "editor" }],
]);

const BANNED: ReadonlySet<string> = new Set(["mallory-1"]);

const { port, once: isOnce } = optionsOf({
  run: "deno run -N examples/authentication.ts",
  about: "Authenticates with cookies, bearer tokens, query tokens and in-band tokens.",
}, {
  port: { ...PORT, max: 65_534, help: "port to listen on; the next port is used too" },
  once: ONCE,
});

// Cookies, headers and query tokens arrive with the request.
await using server = listen(port);

// Pages cannot set headers, and a token does not belong in a URL. A client of this server connects
// without a token and sends the token as its first message. The server reads no other message
// before the token.
await using inBand = listen(port + 1, { tokens: { inMessage: true } });

if (isOnce) await demonstrate(server.url, inBand.url);
else await new Promise(() => {});

function listen(port: number, options: ServeOptions<User> = {}): Server<User> {
  return serve({
    ...options,
    port: isOnce ? 0 : port,

    // Runs before the upgrade. The returned user becomes `session.value`.
    authenticate({ cookies, token = cookies.session }) {
      if (token !== undefined && BANNED.has(token)) {
        throw new AuthenticationError("Banned", { status: 403 });
      }
      const user = TOKENS.get(token ?? "");
      if (user === undefined) throw new AuthenticationError("Unknown token");
      return user;
    },
    userOf: (user) => user.name,

    onMessage(message, session) {
      const { name, role } = session.value;
      if (message.topic === "who am I") return message.reply(`${name}, ${role}`);
      if (role !== "editor") throw new RequestError("forbidden", `${name} may only read`);
      message.reply("edited");
    },
  });
}

async function demonstrate(url: string, inBandUrl: string): Promise<void> {
  // A client that can set headers sends the token in a header. A page sends its cookies
  // automatically.
  await tell("a bearer token", url, { headers: { authorization: "Bearer ann-1" } });
  await tell("a cookie", url, { headers: { cookie: "session=bob-1" } });
  await tell("a query token", `${url}?token=bob-1`);
  await tell("a token in band", inBandUrl, { token: "ann-1" });

  // Skein clients receive a rejection as a close code: 4000 plus the HTTP status.
  await tell("an unknown token", `${url}?token=nobody-1`);
  await tell("a banned user", `${url}?token=mallory-1`);
  // Other WebSocket clients receive the HTTP status itself.
  console.log("a plain upgrade without a token:", await plainUpgrade(url));

  // The new token replaces the old one in place: the session and its subscriptions stay. The client
  // calls the `token` function again for each reconnect.
  await using client = connect(inBandUrl, { token: () => "ann-1" });
  const session = await client.whenConnected();
  console.log("before:", await client.request("edit").catch(messageOf));
  await session.authenticate("ann-2");
  console.log("renewed:", await client.request("edit"));
  console.log("with another user's token:", await session.authenticate("bob-1").catch(messageOf));
}

function messageOf(error: Error): string {
  return error.message;
}

async function tell(what: string, url: string, options: DialOptions = {}): Promise<void> {
  try {
    await using session = await dial(url, options);
    console.log(`${what}:`, await session.request("who am I"));
  } catch (error) {
    if (!(error instanceof SessionClosedError)) throw error;
    console.log(`${what}: rejected with`, error.info?.code, error.info?.reason);
  }
}

/** Requests an upgrade as any WebSocket client does, and returns the response's status line. */
async function plainUpgrade(url: string): Promise<string> {
  const { hostname, port } = new URL(url);
  using connection = await Deno.connect({ hostname, port: Number(port) });
  const lines = [
    "GET / HTTP/1.1",
    `Host: ${hostname}:${port}`,
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
  ];
  await connection.write(new TextEncoder().encode(`${lines.join("\r\n")}\r\n\r\n`));
  const answer = new Uint8Array(1024);
  const length = await connection.read(answer) ?? 0;
  return new TextDecoder().decode(answer.subarray(0, length)).split("\r\n")[0]!;
}
