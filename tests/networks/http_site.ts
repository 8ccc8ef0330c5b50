/**
 * Nodes that share a broker in this process. A proxy in front of them blocks all transports except
 * HTTP.
 *
 * @module
 */
import type { ConnectOptions } from "../../client.ts";
import type { Client } from "../../client/client.ts";
import { connect } from "../../client/deno.ts";
import { MemoryBroker } from "../../pubsub/mod.ts";
import type { PresenceMember, PresenceNotice } from "../../session/wire/presence_notice.ts";
import { updateMembers } from "../../session/wire/member_list.ts";
import type { ServeOptions, Server } from "../../server.ts";
import { RoundRobin, type RoundRobinOptions } from "./round_robin.ts";
import { listen, portOf } from "../servers.ts";

/** Options for {@linkcode Site.open}. */
export interface SiteOptions extends RoundRobinOptions {
  /**
   * Number of nodes.
   *
   * @default {2}
   */
  readonly nodes?: number;
  /** Further options for all nodes. */
  readonly serving?: ServeOptions;
}

/** Nodes behind a proxy. */
export class Site implements AsyncDisposable {
  readonly servers: Server[];
  readonly proxy: RoundRobin;
  readonly #broker: MemoryBroker;

  private constructor(broker: MemoryBroker, servers: Server[], proxy: RoundRobin) {
    this.#broker = broker;
    this.servers = servers;
    this.proxy = proxy;
  }

  static async open(options: SiteOptions = {}): Promise<Site> {
    const { nodes = 2, serving, ...rest } = options;
    const broker = new MemoryBroker();
    const servers = Array.from({ length: nodes }, () =>
      listen({
        broker,
        webTransport: false,
        authorize: () => true,
        authenticate: ({ token }) => token ?? "nobody",
        tokens: { inMessage: true },
        history: { "room:{name}": { size: 10_000, ttlMs: 60_000, bytes: 10_000_000 } },
        rooms: ["room:{name}"],
        ...serving,
      }));
    await Promise.all(servers.map(({ nodes }) => nodes!.ready));
    return new Site(broker, servers, await RoundRobin.start(servers.map(portOf), rest));
  }

  /** The URL of the proxy, for clients. */
  get url(): string {
    return this.proxy.url.replace("http", "ws");
  }

  /** Connects a client, which falls back to HTTP. */
  connect(options: ConnectOptions = {}): Client {
    return connect(this.url, { backoff: { firstDelayMs: 50, maxDelayMs: 200 }, ...options });
  }

  nodeOf(session: string): Server | undefined {
    return this.servers.find(({ manager }) => manager.get(session) !== undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.proxy[Symbol.asyncDispose]();
    for (const server of this.servers) await server.close();
    await this.#broker.close();
  }
}

/** The number of requests with a given method to each node. */
export function countsOf({ passed }: RoundRobin, method: string): number[] {
  const counts: number[] = [];
  for (const { node, status, ...request } of passed) {
    if (request.method === method && status !== 0) counts[node] = (counts[node] ?? 0) + 1;
  }
  return counts;
}

/** Collects the messages that a client receives and the members of its rooms. */
export function hear(
  client: Client,
): { readonly heard: unknown[]; readonly members: ReadonlyMap<string, PresenceMember> } {
  const heard: unknown[] = [];
  const members = new Map<string, PresenceMember>();
  void (async () => {
    for await (const message of client) {
      if (message.topic === "ask") await message.reply(`answer to ${message.data}`);
      else if (!message.topic.startsWith("presence:")) heard.push(message.data);
      else updateMembers(members, message.data as PresenceNotice);
    }
  })();
  return { heard, members };
}
