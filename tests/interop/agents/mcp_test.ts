/** Tests the MCP adapter with the SDK's own client: faults, a second reader, stops, rights. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { delay } from "@std/async/delay";
import { Client } from "npm:@modelcontextprotocol/sdk@^1/client/index.js";
import { StreamableHTTPClientTransport } from "npm:@modelcontextprotocol/sdk@^1/client/streamableHttp.js";
import { until } from "../../waiting.ts";
import { AgentServer } from "./process.ts";

/** Time between two attempts of a client, in milliseconds. */
const RETRY_MS = 100;

/** A notification of the tool. */
interface Notification {
  readonly params?: { readonly data?: unknown };
}

/** An MCP client of a user. */
class Device implements AsyncDisposable {
  readonly client: Client;
  readonly transport: StreamableHTTPClientTransport;
  /** The words that the server has sent while it counted. */
  readonly words: unknown[] = [];
  /** The server restarts within this time. */
  readonly #retries = {
    initialReconnectionDelay: RETRY_MS,
    maxReconnectionDelay: RETRY_MS,
    reconnectionDelayGrowFactor: 1,
    maxRetries: 200,
  };

  private constructor(server: AgentServer, user: string, sessionId?: string) {
    this.client = new Client({ name: user, version: "1.0.0" });
    this.transport = new StreamableHTTPClientTransport(new URL(server.url("/mcp")), {
      requestInit: { headers: { authorization: `Bearer ${user}` } },
      reconnectionOptions: this.#retries,
      ...(sessionId !== undefined && { sessionId }),
    });
    this.client.fallbackNotificationHandler = ({ params }: Notification) => {
      this.words.push(params?.data);
      return Promise.resolve();
    };
  }

  static async connect(server: AgentServer, user: string, sessionId?: string): Promise<Device> {
    const device = new Device(server, user, sessionId);
    await device.client.connect(device.transport);
    return device;
  }

  /** Calls the tool; `onToken` receives the ids of events. */
  async count(to: number, onToken?: (token: string) => void): Promise<unknown> {
    const call = { name: "count", arguments: { to } };
    const result = await this.client.callTool(call, undefined, {
      ...(onToken && { onresumptiontoken: onToken }),
    });
    return (result.content as { text: string }[])[0]?.text;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Each stream that was cut waits with a timer of its own, and the SDK clears only the last one.
    this.#retries.maxRetries = 0;
    await this.client.close();
    await delay(RETRY_MS);
  }
}

const words = (to: number) => Array.from({ length: to }, (_, i) => `${i}`);

Deno.test("McpSessions replays what a client has missed while it was cut off", async () => {
  await using server = await AgentServer.start();
  await using device = await Device.connect(server, "ann");
  const call = device.count(120);
  await until(() => device.words.length > 10);
  server.cable.cut();
  await until(() => device.words.length > 60);
  server.cable.cut();
  assertEquals(await call, `ann: ${words(120).join(" ")}`);
  assertEquals(device.words, words(120));
});

Deno.test("McpSessions creates a session again after a kill; running calls fail at once", async () => {
  await using server = await AgentServer.start();
  await using device = await Device.connect(server, "ann");
  assertEquals(await device.count(3), "ann: 0 1 2");
  const session = device.transport.sessionId;
  for (const kills of [1, 2]) {
    device.words.length = 0;
    const call = device.count(100_000);
    const failure = assertRejects(() => call, Error, "The server was restarted during this call");
    await until(() => device.words.length > 5);
    await server.kill();
    await server.restart();
    await failure;
    // The words that were stored before the kill have arrived once, in order.
    assertEquals(device.words, words(device.words.length), `after ${kills} kills`);
    assertEquals(await device.count(2), "ann: 0 1");
    assertEquals(device.transport.sessionId, session);
  }
});

Deno.test("McpSessions stops a call", async () => {
  await using server = await AgentServer.start();
  await using device = await Device.connect(server, "ann");
  const stop = new AbortController();
  const call = device.client.callTool({ name: "count", arguments: { to: 1e6 } }, undefined, {
    signal: stop.signal,
  });
  const stopped = assertRejects(() => call, Error, "enough");
  await until(() => device.words.length > 5);
  stop.abort("enough");
  await stopped;
  // A call hears only its own words, once the model of the stopped one has ended.
  await until(async () => {
    const before = device.words.length;
    assertEquals(await device.count(3), "ann: 0 1 2");
    return device.words.length === before + 3;
  });
});

Deno.test("McpSessions deletes a session that its client ends", async () => {
  await using server = await AgentServer.start();
  await using device = await Device.connect(server, "ann");
  assertEquals(await device.count(3), "ann: 0 1 2");
  const { sessionId } = device.transport;
  await device.transport.terminateSession();
  const response = await fetch(server.url("/mcp"), {
    headers: {
      authorization: "Bearer ann",
      accept: "text/event-stream",
      "mcp-session-id": sessionId!,
    },
  });
  await response.body?.cancel();
  assertEquals(response.status, 404);
});

Deno.test("McpSessions: a guessed session or event reads nothing and starts nothing", async () => {
  await using server = await AgentServer.start();
  await using ann = await Device.connect(server, "ann");
  const tokens: string[] = [];
  await ann.count(3, (token) => tokens.push(token));
  const session = ann.transport.sessionId!;
  const get = async (user: string, headers: Record<string, string>) => {
    const response = await fetch(server.url("/mcp"), {
      headers: { authorization: `Bearer ${user}`, accept: "text/event-stream", ...headers },
    });
    const { status } = response;
    if (status === 200) {
      const reader = response.body!.getReader();
      const { value } = await reader.read();
      await reader.cancel();
      return new TextDecoder().decode(value);
    }
    await response.body?.cancel();
    return status;
  };
  const replay = { "last-event-id": tokens[0]! };
  assertEquals(await get("eve", { "mcp-session-id": session, ...replay }), 404);
  assertEquals(await get("ann", { "mcp-session-id": crypto.randomUUID(), ...replay }), 404);
  {
    // Her own session, with the id of an event of ann's.
    await using eve = await Device.connect(server, "eve");
    assertEquals(await get("eve", { "mcp-session-id": eve.transport.sessionId!, ...replay }), 500);
    // A client does not choose the id of its session.
    await using chosen = await Device.connect(server, "eve", crypto.randomUUID());
    await assertRejects(() => chosen.count(1), Error, "Session not found");
  }
  const own = await get("ann", { "mcp-session-id": session, ...replay });
  assert(String(own).includes("id: 1."), `${own}`);
  await server.kill();
  await server.restart();
  assertEquals(await get("eve", { "mcp-session-id": session, ...replay }), 404);
  assertEquals(await ann.count(2), "ann: 0 1");
});
