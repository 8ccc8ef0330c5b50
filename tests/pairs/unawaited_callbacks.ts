/**
 * The application's callbacks whose results the library doesn't use, each with a program that
 * causes a call. A new option that takes a function belongs in one of the two tables.
 *
 * @module
 */
import { FakeTime } from "@std/testing/time";
import { createServer, serve, type Session } from "../../mod.ts";
import { keptIn } from "../../client/store/mod.ts";
import { TestDisk } from "../../client/store/test_disk_fixture.ts";
import {
  LiveTrack,
  MoqClient,
  type MoqClientOptions,
  MoqSession,
  TrackMux,
} from "../../moq/mod.ts";
import { metrics } from "../../operations/mod.ts";
import { MemoryBroker, Nodes, Presence } from "../../pubsub/mod.ts";
import { recordSessions } from "../../session/mod.ts";
import { DurableStreamsHandler } from "../../streams/mod.ts";
import { type TestServer, testServer } from "../../testing/mod.ts";
import { memoryPair } from "../../transport/mod.ts";
import { recording } from "../peers/recording.ts";
import { soon, turns, until } from "../waiting.ts";

/** Parts with which a program causes a call. */
export interface Trial {
  /** The callback: an asynchronous function that fails. */
  readonly fail: () => Promise<never>;
  /** Resolves with the first call. */
  readonly called: Promise<void>;
  /** Receives errors, in place of the console. */
  readonly onError: (error: unknown) => void;
}

/** A callback whose result the library doesn't use. */
export interface UnawaitedCallback {
  /** The option, or the method that keeps the callback. */
  readonly option: string;
  /** The call that has the option, if several have it. */
  readonly of?: string;
  /** A part of the report. Without it, there is no one left to whom to report. */
  readonly reported?: string;
  /** Causes a call of the callback, and waits for it. */
  run(trial: Trial): Promise<void>;
}

/** The message of the callback's error. */
export const PLANNED = "planned failure";

const REPORTED = { reported: PLANNED } as const;

/** Opens a client, and waits for its session. */
async function withClient(
  options: Parameters<typeof testServer>[0],
  clientOptions: Parameters<TestServer["connect"]>[0],
  run: (session: Session, server: TestServer) => unknown,
): Promise<void> {
  await using server = testServer(options) as unknown as TestServer;
  await using client = server.connect(clientOptions);
  client.status.subscribe(() => {});
  await client.whenConnected();
  await until(() => server.manager.all().length === 1);
  await run(server.manager.all()[0]! as unknown as Session, server);
}

export const UNAWAITED: readonly UnawaitedCallback[] = [
  {
    option: "onGoAway",
    ...REPORTED,
    run: ({ fail, called, onError }) =>
      withClient({}, { onGoAway: fail, onError }, async (session) => {
        session.goAway({ retryAfterMs: 60_000, reason: "" });
        await called;
      }),
  },
  {
    option: "onError",
    ...REPORTED,
    run: ({ fail, called }) =>
      withClient({}, { onError: fail, onMessage: () => Promise.reject(1) }, async (session) => {
        session.send("a", 1);
        await called;
      }),
  },
  {
    option: "onMessageRejected",
    ...REPORTED,
    async run({ fail, called, onError }) {
      await using server = testServer({ onMessage: () => Promise.reject(1), onError() {} });
      await using client = server.connect({ onMessageRejected: fail, onError });
      client.send("unknown", 1);
      await called;
    },
  },
  {
    option: "onDropped",
    ...REPORTED,
    run: ({ fail, called, onError }) =>
      withClient(
        { session: { sendQueue: { maxMessages: 2, policy: "drop-oldest" } } },
        { onDropped: fail, onError, onMessage() {} },
        async (session, server) => {
          const link = server.network.linkOf([...server.clients][0]!);
          link.stall("to-client");
          for (let i = 0; i < 20; i++) {
            session.send("a", "x".repeat(100_000));
            await turns();
          }
          link.resume();
          await called;
        },
      ),
  },
  {
    option: "outbox.onDropped",
    ...REPORTED,
    async run({ fail, called, onError }) {
      using time = new FakeTime();
      const authorize = (_session: unknown, topic: string) => topic !== "shut";
      await using server = recording({ authorize }).server;
      const disk = new TestDisk();
      server.network.down();
      const page = server.connect({ store: keptIn(disk.open(), { user: null }) });
      page.status.subscribe(() => {});
      page.publish("shut", "a").catch(() => {});
      await page.flushed({ to: "store" });
      disk.kill();
      const closed = page.close();
      await time.tickAsync(2_000);
      await closed;
      server.network.up();
      const store = keptIn(disk.open(), { user: null });
      await using _next = server.connect({ store, outbox: { onDropped: fail }, onError });
      await called;
    },
  },
  {
    option: "life",
    of: "the end of the subscription",
    ...REPORTED,
    async run({ fail, called, onError }) {
      await using server = testServer();
      const client = server.connect({ life: { subscribe: () => fail as () => void }, onError });
      await client.close();
      await called;
    },
  },
  {
    option: "onSessionRejected",
    ...REPORTED,
    async run({ fail, called }) {
      await using server = testServer({ authenticate: () => null, onSessionRejected: fail });
      await using client = server.connect({ token: "bad" });
      client.status.subscribe(() => {});
      await called;
    },
  },
  {
    option: "onListen",
    ...REPORTED,
    async run({ fail, called }) {
      const options = { port: 0, hostname: "127.0.0.1", webTransport: false } as const;
      await using _server = serve({ ...options, onListen: fail });
      await called;
    },
  },
  {
    option: "clientAddress",
    reported: "clientAddress returned a promise",
    async run({ fail, called, onError }) {
      const onSessionRejected = ({ error }: { readonly error?: unknown }) => onError(error);
      await using server = testServer({ clientAddress: fail as never, onSessionRejected });
      await using client = server.connect();
      client.status.subscribe(() => {});
      await called;
      await until(() => client.status.current.name === "reconnecting");
    },
  },
  {
    option: "clientAddress",
    of: "DurableStreamsHandler",
    reported: "clientAddress returned a promise",
    async run({ fail, onError }) {
      await using handler = new DurableStreamsHandler({
        path: "/streams",
        broker: new MemoryBroker(),
        authorize: () => true,
        clientAddress: fail as never,
        onError,
      });
      await handler.fetch(new Request("http://localhost/streams/a"), {});
    },
  },
  {
    option: "allow",
    reported: "metrics.allow returned a promise",
    async run({ fail }) {
      await using server = createServer({ features: [metrics({ allow: fail as never })] });
      await server.fetch(new Request("http://localhost/metrics"), {});
    },
  },
  {
    option: "session.sendQueue.policy",
    run: ({ fail, called }) =>
      withClient({ session: { sendQueue: { policy: fail as never } } }, {}, async (session) => {
        session.send("a", 1);
        await called;
      }),
  },
  {
    option: "onReply",
    ...REPORTED,
    run: ({ fail, called, onError }) =>
      withClient({ onError }, {}, async (session, server) => {
        server.topics.subscribe(session, "a", { onReply: fail });
        await called;
      }),
  },
  {
    option: "Presence.subscribe",
    ...REPORTED,
    async run({ fail, called, onError }) {
      using presence = new Presence({ onError });
      using _listening = presence.subscribe(fail);
      await withClient({ authenticate: () => "ann" }, {}, (session) => {
        presence.enter(session);
        return called;
      });
    },
  },
  {
    option: "onError",
    of: "Presence",
    ...REPORTED,
    async run({ fail, called }) {
      using presence = new Presence({ onError: fail });
      using _listening = presence.subscribe(() => {
        throw new Error("Something else");
      });
      await withClient({ authenticate: () => "ann" }, {}, (session) => {
        presence.enter(session);
        return called;
      });
    },
  },
  {
    option: "Nodes.subscribe",
    ...REPORTED,
    async run({ fail, called, onError }) {
      const broker = new MemoryBroker();
      await using nodes = new Nodes({ broker, onError });
      nodes.subscribe(fail);
      await using _other = new Nodes({ broker });
      await called;
    },
  },
  {
    option: "onError",
    of: "Nodes",
    async run({ fail, called }) {
      const broker = new MemoryBroker();
      await using nodes = new Nodes({ broker, onError: fail });
      nodes.subscribe(() => {
        throw new Error("Something else");
      });
      await using _other = new Nodes({ broker });
      await called;
    },
  },
  {
    option: "write",
    ...REPORTED,
    run: ({ fail, called, onError }) =>
      withClient({ features: [recordSessions({ write: fail })], onError }, {}, () => called),
  },
  {
    option: "filter",
    reported: "received a promise",
    run({ fail, called, onError }) {
      const features = [recordSessions({ write() {}, filter: fail as never })];
      return withClient({ features, onError }, {}, () => called);
    },
  },
  {
    option: "onError",
    of: "DurableStreamsHandler",
    ...REPORTED,
    async run({ fail }) {
      await using handler = new DurableStreamsHandler({
        path: "/streams",
        broker: new MemoryBroker(),
        authorize() {
          throw new Error("Something else");
        },
        onError: fail,
      });
      await handler.fetch(new Request("http://localhost/streams/a"), {});
    },
  },
  {
    option: "onError",
    of: "MoqSession",
    run: ({ fail, called }) =>
      withTrack(new LiveTrack(), {
        onError: fail,
        authorize() {
          throw new Error("Something else");
        },
      }, () => called),
  },
  {
    option: "onDemand",
    run: ({ fail, called }) => withTrack(new LiveTrack({ onDemand: fail }), {}, () => called),
  },
  {
    option: "allowMigration",
    reported: "allowMigration returned a promise",
    run: (trial) =>
      withGoaway({ url: "https://a.example", allowMigration: trial.fail as never }, trial),
  },
  {
    option: "url",
    of: "MoqClient",
    reported: "url returned a promise",
    run: (trial) => withGoaway({ url: trial.fail as never }, trial),
  },
  {
    option: "muxOf",
    reported: "muxOf returned a promise",
    async run({ fail, onError }) {
      const pair = memoryPair({ protocol: "moq-lite-05" });
      const opening = MoqSession.open(pair.client, { side: "client" });
      await MoqSession.open(pair.server, { side: "server", muxOf: fail as never }).catch(onError);
      await opening.then((client) => client.closed, () => {});
    },
  },
];

/** The other options that take a function, by what happens to its result. */
export const OTHERS: Readonly<Record<string, readonly string[]>> = {
  "the library awaits it": [
    ...["authenticate", "authorize", "authorizeChange", "dial", "fetch", "migrate", "onClose"],
    ...["onInvalid", "onMessage", "onOpen", "onPublish", "onRecovery", "onSession", "onSetup"],
    ...["onStream", "parse", "quic.onConnection", "token", "tokens.expiresAt", "tokens.onRenewed"],
    ...["url", "userOf", "wait"],
  ],
  "it is a value that decides or that is used, which a promise can't be": [
    ...["isSuccessor", "onConflict", "random", "socket", "webTransport.engine", "wire.random"],
  ],
  "another file tests it": [
    // transport/quic/shared_port_test.ts
    "quic.onError",
    // moq/client/dial_test.ts, moq/track/track_reader_test.ts, moq/client/resumable_track_test.ts
    ...["onFallback", "onMissed", "onResumed"],
    // moq/live/live_track.ts creates the tracks of a relay
    "track.onDemand",
    // session/insight/watch_test.ts
    ...["handle", "handshake", "mount", "published", "received", "request", "send"].map((hook) =>
      `instrumentation.${hook}`
    ),
    ...["instrumentation.sessionClosed", "instrumentation.sessionOpened"],
    // tests/properties/worker_threads_test.ts
    "onWorkerEnd",
  ],
  "it must not throw": ["onWorn"],
};

/** Asks a client to leave for another URL. */
async function withGoaway(
  options: Partial<MoqClientOptions>,
  { called, onError }: Trial,
): Promise<void> {
  const pair = memoryPair({ protocol: "moq-lite-05" });
  const opening = MoqSession.open(pair.server, { side: "server" });
  await using _client = new MoqClient({
    dial: (_signal, { mux }) => MoqSession.open(pair.client, { side: "client", mux, onError }),
    ...options,
  });
  const server = await opening;
  void server.goaway({ uri: "https://b.example" });
  await called;
  await turns();
}

/** Subscribes to a live track of another session. */
async function withTrack(
  live: LiveTrack,
  options: Partial<Parameters<typeof MoqSession.open>[1]>,
  run: (client: MoqSession) => unknown,
): Promise<void> {
  const mux = new TrackMux();
  mux.publish("/live", (track) => live.serve(track));
  const pair = memoryPair({ protocol: "moq-lite-05" });
  const [server, client] = await Promise.all([
    MoqSession.open(pair.server, { ...options, side: "server", mux }),
    MoqSession.open(pair.client, { side: "client" }),
  ]);
  await client.subscribe("/live", "video").catch(() => {});
  await soon(Promise.resolve(run(client)));
  client.close();
  await server.closed;
}
