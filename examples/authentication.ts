/**
 * Who is there: cookies, bearer tokens, tokens in band, refusals, and a token
 * that is renewed while the session goes on.
 *
 * ```sh
 * deno run -N examples/authentication.ts --once
 * ```
 *
 * Without `--once` the servers go on, on the ports 8000 and 8001.
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

interface User {
  readonly name: string;
  readonly role: "reader" | "editor";
}

/** In earnest, a table of sessions or a signed token. */
const TOKENS: ReadonlyMap<string, User> = new Map([
  ["ann-1", { name: "ann", role: "reader" }],
  ["ann-2", { name: "ann", role: "editor" }],
  ["bob-1", { name: "bob", role: "editor" }],
]);

const BANNED: ReadonlySet<string> = new Set(["mallory-1"]);

const isOnce = Deno.args.includes("--once");

// Cookies, headers and query tokens come with the request.
await using server = listen(8000);

// Pages can set no headers, and a token does not belong into a URL: here a
// client connects without one, and says it first. Nothing is read before it.
await using inBand = listen(8001, { acceptsTokenInBand: true });

if (isOnce) await demonstrate(server.url, inBand.url);
else await new Promise(() => {});

function listen(port: number, options: ServeOptions<User> = {}): Server<User> {
  return serve({
    ...options,
    port: isOnce ? 0 : port,

    // Runs before anything is upgraded. What it returns is `session.value`.
    authenticate({ request, token = cookieOf(request) }) {
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

function cookieOf(request: Request): string | undefined {
  return request.headers.get("cookie")?.match(/(?:^|; )session=([^;]+)/)?.[1];
}

async function demonstrate(url: string, inBandUrl: string): Promise<void> {
  // What clients that can set headers do; a page sends its cookies by itself.
  await tell("a bearer token", url, { headers: { authorization: "Bearer ann-1" } });
  await tell("a cookie", url, { headers: { cookie: "session=bob-1" } });
  await tell("a query token", `${url}?token=bob-1`);
  await tell("a token in band", inBandUrl, { token: "ann-1" });

  // Refusals are told by a close code: what the HTTP status would be, and 4000.
  await tell("an unknown token", `${url}?token=nobody-1`);
  await tell("a banned user", `${url}?token=mallory-1`);
  // Peers that are no Skein clients get the status itself.
  console.log("a plain upgrade without a token:", await plainUpgrade(url));

  // A token is renewed in place: the session and its subscriptions stay. Given as
  // a function, it is asked for anew when the client has to connect again.
  await using client = connect(inBandUrl, { token: () => "ann-1" });
  const session = await client.whenConnected();
  console.log("before:", await client.request("edit").catch(messageOf));
  await session.authenticate("ann-2");
  console.log("renewed:", await client.request("edit"));
  console.log("by another user's:", await session.authenticate("bob-1").catch(messageOf));
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
    console.log(`${what}: refused with`, error.info?.code, error.info?.reason);
  }
}

/** Asks for an upgrade as any WebSocket does, and gives the status of the answer. */
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
