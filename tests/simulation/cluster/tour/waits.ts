/** Waits that end exactly at their timeout or signal. */
import type { Client } from "../../../../client/client.ts";
import { internals } from "../../../../session/session.ts";
import type { Tour } from "./tour.ts";

/** Duration of a handler that holds a request, in milliseconds. */
const LONG_MS = 20_000;

/** Time until a message reaches the other side, in milliseconds. */
const TRIP_MS = 200;

/** Time until the event loop has settled a promise, in milliseconds. */
const TURN_MS = 5;

/** Limit of the outbox of a guest that never connects. */
const OUTBOX = 5;

/** Examines waits on both sides of a session, and waits of a client that cannot connect. */
export async function visitWaits(tour: Tour): Promise<void> {
  await Promise.all([visitRequests(tour), visitResponses(tour), visitUnconnected(tour)]);
}

async function visitRequests(tour: Tour): Promise<void> {
  const node = tour.node(0);
  const host = tour.host("waits");
  const onClient = tour.holds;
  const client = tour.guest(host, "waits", node, {
    requests: { hold: (request: never) => onClient.handle(request, host.runtime) } as never,
  });
  tour.examine("waits", "connecting", "connected", await tour.outcome(client));
  const session = node.server.manager.sessionsOf("guest-waits")[0];
  if (session === undefined) return;
  const ends: readonly (readonly [string, (id: string, options: object) => Promise<unknown>])[] = [
    ["a client", (id, options) => client.request("hold", { id, ms: LONG_MS }, options)],
    ["a node", (id, options) => session.request("hold", { id, ms: LONG_MS }, options)],
  ];
  for (const [end, ask] of ends) {
    for (const kind of ["timeoutMs", "signal"] as const) {
      const id = `${end} ${kind}`;
      const controller = new AbortController();
      const asked = ask(id, kind === "signal" ? { signal: controller.signal } : { timeoutMs: 700 });
      if (kind === "signal") {
        void tour.pause(300).then(() => controller.abort(new DOMException("Enough", "AbortError")));
      }
      const isHeld = await tour.until(() => tour.holds.open.has(id), 250);
      tour.examine("waits", `request of ${id} at the handler`, "true", isHeld);
      // The wait started before the node received the request.
      await tour.settles("waits", `request of ${id}`, asked, {
        as: kind === "signal" ? "AbortError" : "TimeoutError",
        fromMs: (kind === "signal" ? 300 : 700) - 250,
        toMs: (kind === "signal" ? 300 : 700) + TURN_MS,
      });
      // By rule 6.8, the request must be cancelled on the other side.
      const isTold = await tour.until(() => !tour.holds.open.has(id), TRIP_MS);
      tour.examine("waits", `end of the handler of ${id}`, "true", isTold);
    }
  }
  const timeout = client.request("hold", { id: "exact", ms: LONG_MS }, { timeoutMs: 1_000 });
  await tour.settles("waits", "request with a time", timeout, {
    as: "TimeoutError",
    fromMs: 995,
    toMs: 1_000 + TURN_MS,
  });
  for (
    const [end, { openRequests }] of [
      ["a client", client.session![internals].sending],
      ["a node", session[internals].sending],
    ] as const
  ) tour.examine("waits", `requests of ${end} afterwards`, "0", openRequests);
}

/** Examines a streaming response whose next item never arrives. */
async function visitResponses(tour: Tour): Promise<void> {
  if (!tour.settings.has("answers")) return;
  const client = tour.guest(tour.host("stream"), "stream", tour.node(1));
  await tour.outcome(client);
  const read = async (options: object) => {
    for await (const _item of client.requestStream("stall", {}, options)) { /* The first comes. */ }
  };
  await tour.settles("waits", "answer without a next item", read({ itemTimeoutMs: 1_000 }), {
    as: "TimeoutError",
    fromMs: 995,
    toMs: 1_000 + TRIP_MS,
  });
  const controller = new AbortController();
  void tour.pause(500).then(() => controller.abort(new DOMException("Enough", "AbortError")));
  await tour.settles("waits", "answer with a signal", read({ signal: controller.signal }), {
    as: "AbortError",
    fromMs: 495,
    toMs: 500 + TURN_MS,
  });
}

/** Examines a client whose connection attempts receive no reply. */
async function visitUnconnected(tour: Tour): Promise<void> {
  const node = tour.node(2);
  const host = tour.host("alone");
  tour.network.change(host, node.host, { handshake: "hangs" });
  const client = tour.guest(host, "alone", node, {
    connectTimeoutMs: 4_000,
    outbox: { maxMessages: OUTBOX },
  });
  const startMs = tour.nowMs;
  const waits: Readonly<Record<string, (options: object) => Promise<unknown>>> = {
    whenConnected: (options) => client.whenConnected(options),
    request: (options) => client.request("echo", {}, options),
    publish: (options) => client.publish("talk:guest", {}, options),
    presence: (options) => client.presence("room:guest", {}, options),
  };
  await Promise.all(
    Object.entries(waits).flatMap(([name, wait]) => {
      const controller = new AbortController();
      void tour.pause(400).then(() => controller.abort(new DOMException("Enough", "AbortError")));
      const { signal } = controller;
      return [
        tour.settles("waits", `${name} without a session, with a time`, wait({ timeoutMs: 800 }), {
          as: "TimeoutError",
          fromMs: 795,
          toMs: 800 + TURN_MS,
        }),
        tour.settles("waits", `${name} without a session, with a signal`, wait({ signal }), {
          as: "AbortError",
          fromMs: 395,
          toMs: 400 + TURN_MS,
        }),
      ];
    }),
  );
  let sent = 0;
  try {
    while (sent <= OUTBOX) {
      client.send("page", sent);
      sent++;
    }
  } catch { /* The outbox is full. */ }
  tour.examine("limits", "messages in an outbox", `${OUTBOX}`, sent);
  const flushed = client.flushed({ timeoutMs: 500 });
  await tour.settles("waits", "flushed without a session, with a time", flushed, {
    as: "TimeoutError",
    fromMs: 495,
    toMs: 500 + TURN_MS,
  });
  await tour.until(() => client.status.current.name === "reconnecting", 5_000);
  const tookMs = tour.nowMs - startMs;
  const isInTime = tookMs >= 3_990 && tookMs <= 4_100;
  tour.examine(
    "waits",
    "attempt to connect without an answer",
    "over after 4000 ms",
    isInTime ? "over after 4000 ms" : `over after ${Math.round(tookMs)} ms`,
  );
  await visitClose(tour, client);
}

/** Examines whether closing a client ends its waits. */
async function visitClose(tour: Tour, client: Client): Promise<void> {
  const waits = [client.whenConnected(), client.request("echo", {})];
  const examined = waits.map((wait) =>
    tour.settles("waits", "wait of a client that closes", wait, {
      as: "SessionClosedError",
      fromMs: 0,
      toMs: TURN_MS,
    })
  );
  await Promise.all([...examined, client.close()]);
}
