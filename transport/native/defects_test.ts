import { assert, assertEquals } from "@std/assert";
import { delay } from "@std/async/delay";
import {
  bytesOf,
  capsuleFrame,
  headersFrame,
  RawPeer,
  type RawStream,
} from "../../tests/peers/raw_http3.ts";
import { devCertificate } from "../certificate/dev_certificate.ts";
import { NATIVE_SERVER_DEFECTS, type NativeServerDefect, nativeServerDefects } from "./defects.ts";
import { listenWebTransport } from "../h3/server.ts";

/**
 * The time within which a runtime with a fix succeeds, in milliseconds. At worst, a slow machine
 * looks like a runtime without the fix.
 */
const SOON_MS = 100;

/** The time after which a runtime without a fix has failed, in milliseconds. */
const LATEST_MS = 20_000;

const BIDIRECTIONAL = 0x41;
const UNIDIRECTIONAL = 0x54;
const QPACK_ENCODER = 0x02;
const SESSION_ID = 0;
const CLOSE_CAPSULE = 0x2843;

/** The members of a session in Deno 2.9.6. A new member may expose the request. */
const MEMBERS: readonly string[] = [
  "anticipatedConcurrentIncomingBidirectionalStreams",
  "anticipatedConcurrentIncomingUnidirectionalStreams",
  "close",
  "closed",
  "congestionControl",
  "constructor",
  "createBidirectionalStream",
  "createSendGroup",
  "createUnidirectionalStream",
  "datagrams",
  "getStats",
  "incomingBidirectionalStreams",
  "incomingUnidirectionalStreams",
  "ready",
  "reliability",
  "url",
];

const certificate = devCertificate({ cacheFolder: null });

/** A session of the runtime without workarounds, and a peer that reads and writes bytes. */
interface Ends {
  readonly native: WebTransport;
  readonly peer: RawPeer;
  /** The CONNECT stream, at the peer. */
  readonly request: RawStream;
  /** The status that the peer received. */
  readonly status: number;
  /** Protects an object from garbage collection, which also ends a stream. */
  keep<T>(item: T): T;
  /** Opens another connection of the runtime, without a request. */
  another(): Promise<{ readonly conn: Deno.QuicConn; readonly peer: RawPeer }>;
  /** Returns whether a promise settles as soon as on a runtime with a fix. */
  settles(promise: Promise<unknown>): Promise<boolean>;
}

async function withEnds<T>(body: (ends: Ends) => Promise<T>): Promise<T> {
  const endpoint = new Deno.QuicEndpoint({ hostname: "127.0.0.1" });
  const { cert, key, hashes } = certificate;
  const listener = endpoint.listen({
    cert,
    key,
    alpnProtocols: ["h3"],
    maxConcurrentBidirectionalStreams: 4,
  });
  const kept: unknown[] = [];
  const another = async () => {
    const accepting = listener.incoming().then((incoming) => incoming.accept());
    const peer = await RawPeer.dial(endpoint.addr.port, { hashes });
    await peer.control();
    return { conn: await accepting, peer };
  };
  const { conn, peer } = await another();
  try {
    const upgrading = Deno.upgradeWebTransport(conn);
    const request = await peer.request();
    const status = await request.status();
    await peer.nextUni(); // The control stream of the runtime.
    const native = await upgrading;
    native.closed.catch(() => {});
    const keep = <T>(item: T): T => {
      kept.push(item);
      return item;
    };
    const settles = (promise: Promise<unknown>) => settlesWithin(promise, SOON_MS);
    return await body({ native, peer, request, status, keep, settles, another });
  } finally {
    await peer[Symbol.asyncDispose]();
    await conn.closed.catch(() => {});
    listener.stop();
    endpoint.close();
    kept.length = 0;
  }
}

/** Returns whether a promise settles in time. If not, it may still settle later. */
async function settlesWithin(promise: Promise<unknown>, withinMs: number): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<false>();
  const timer = setTimeout(resolve, withinMs, false);
  const settled = await Promise.race([promise.then(() => true, () => true), late]);
  clearTimeout(timer);
  return settled;
}

/** Opens a stream at the runtime's end, sends a byte, and waits until the peer has read it. */
async function openFrom({ native, peer, keep }: Ends) {
  const writer = keep((await native.createUnidirectionalStream()).getWriter());
  writer.closed.catch(() => {});
  await writer.write(Uint8Array.of(1));
  const receive = await peer.nextUni();
  await receive.readAtLeast(bytesOf(UNIDIRECTIONAL, SESSION_ID, 1).length);
  return { writer, receive };
}

/** The probe for each defect. It resolves with `true` if the runtime has the defect. */
const PROBES: Readonly<Record<NativeServerDefect, (ends: Ends) => Promise<boolean>>> = {
  async "no-stream-end"(ends) {
    const { writer, receive } = await openFrom(ends);
    await writer.close();
    return !await ends.settles(receive.read());
  },
  async "no-stream-reset"(ends) {
    const { writer, receive } = await openFrom(ends);
    await writer.abort();
    return !await ends.settles(receive.read());
  },
  async "no-stop-sending"({ native, peer, keep, settles }) {
    const send = await peer.uni(UNIDIRECTIONAL, SESSION_ID, 1);
    const { value } = await native.incomingUnidirectionalStreams.getReader().read();
    await keep(value!).cancel();
    const failing = Promise.withResolvers<void>();
    const timer = setInterval(() => void send.write(1).catch(failing.resolve), SOON_MS / 20);
    const fails = await settles(failing.promise);
    clearInterval(timer);
    return !fails;
  },
  async "idle-streams-stay"(ends) {
    const { writer } = await openFrom(ends);
    ends.peer.close();
    await ends.native.closed.catch(() => {});
    return !await ends.settles(writer.closed);
  },
  async "stream-limit"({ native, peer, keep, settles }) {
    const incoming = native.incomingBidirectionalStreams.getReader();
    for (let i = 0; i < 8; i++) {
      const opening = peer.conn.createBidirectionalStream({ waitUntilAvailable: true });
      if (!await settles(opening)) return true;
      const near = keep(await opening).writable.getWriter();
      await near.write(bytesOf(BIDIRECTIONAL, SESSION_ID, 1));
      await near.close();
      const { readable, writable } = keep((await incoming.read()).value!);
      await writable.close();
      for await (const _ of readable) { /* To its end. */ }
    }
    return false;
  },
  async "foreign-stream-stall"({ native, peer, settles }) {
    const reading = native.incomingUnidirectionalStreams.getReader().read();
    await peer.uni(QPACK_ENCODER);
    await peer.uni(UNIDIRECTIONAL, SESSION_ID, 1);
    return !await settles(reading);
  },
  async "close-unseen"({ native, request, settles }) {
    await request.send.write(capsuleFrame(CLOSE_CAPSULE, Uint8Array.of(0, 0, 0x10, 0xe1)));
    await request.send.end();
    return !await settles(native.closed);
  },
  async "close-code-lost"({ native, peer }) {
    native.close({ closeCode: 4321, reason: "moved" });
    const { closeCode } = await peer.ending;
    return closeCode === 4321;
  },
  "no-request"({ native }) {
    const members = [
      ...Object.keys(native),
      ...Object.getOwnPropertyNames(Object.getPrototypeOf(native)),
    ];
    return Promise.resolve(members.every((name) => MEMBERS.includes(name)));
  },
  "no-rejection"({ status }) {
    // Only the upgrade was called; there was no earlier call.
    return Promise.resolve(status === 200);
  },
  async "request-leak"(ends) {
    // Garbage collection may hide a leak once, but not five times.
    for (let i = 0; i < 5; i++) {
      const own = await leftBy(ends, false);
      if (await leftBy(ends, true) > own) return true;
    }
    return false;
  },
  async "one-datagram"({ native, peer, settles }) {
    for (const i of [1, 2, 3]) await peer.conn.sendDatagram(bytesOf(SESSION_ID, i));
    await delay(SOON_MS / 2); // By now the datagrams have arrived or are lost.
    const reader = native.datagrams.readable.getReader();
    await reader.read();
    return !await settles(reader.read());
  },
  async "empty-datagram-fatal"({ native, peer }) {
    const fatal = Promise.withResolvers<void>();
    const onRejection = (event: Event) => {
      event.preventDefault();
      fatal.resolve();
    };
    addEventListener("unhandledrejection", onRejection);
    native.datagrams.readable.getReader().read().catch(() => {});
    await peer.conn.sendDatagram(bytesOf(SESSION_ID));
    const isFatal = await settlesWithin(fatal.promise, LATEST_MS);
    removeEventListener("unhandledrejection", onRejection);
    return isFatal;
  },
};

/**
 * Returns the number of streams that a malformed request leaves after its connection has closed.
 */
async function leftBy({ another }: Ends, upgrades: boolean): Promise<number> {
  const before = countStreams();
  const { conn, peer } = await another();
  const upgrading = upgrades ? Deno.upgradeWebTransport(conn).catch(() => {}) : undefined;
  await peer.bidi(headersFrame([[":method", "GET"]]));
  await upgrading;
  await peer[Symbol.asyncDispose]();
  await conn.closed.catch(() => {});
  return countStreams() - before;
}

/** The part of the runtime's internals that lists its resources; there is no public API. */
interface Internals {
  readonly core: { resources(): Record<string, string> };
}

/** Returns the number of sending streams that the runtime holds. */
function countStreams(): number {
  const { internal } = Deno as unknown as { readonly internal: symbol };
  const { core } = (Deno as unknown as Record<symbol, Internals>)[internal]!;
  return Object.values(core.resources()).filter((name) => name === "quicSendStream").length;
}

for (const { name, isMended } of NATIVE_SERVER_DEFECTS) {
  Deno.test({
    name: `NATIVE_SERVER_DEFECTS has ${name} for as long as the runtime has it`,
    sanitizeResources: name !== "request-leak", // The probe looks for a leak.
    async fn() {
      const isThere = await withEnds(PROBES[name]);
      if (isMended?.() === true) {
        return assertEquals(isThere, false, `${name} is present, although isMended() is true`);
      }
      assert(isThere, `The runtime has fixed ${name}: remove it from the list, or add isMended()`);
    },
  });
}

/** Runs the probes against Skein's own server, which has none of the stream defects. */
async function withOwnEnds<T>(body: (ends: Ends) => Promise<T>): Promise<T> {
  await using listener = listenWebTransport({
    hostname: "127.0.0.1",
    maxStreams: 3,
    ...certificate,
  });
  await using peer = await RawPeer.dial(listener.address.port, { hashes: certificate.hashes });
  await peer.control();
  const request = await peer.request();
  const { value } = await listener[Symbol.asyncIterator]().next();
  const session = value!.accept(); // The session ends with its peer.
  const status = await request.status();
  await peer.nextUni(); // The control stream.
  const native = session as unknown as WebTransport;
  return await body({
    native,
    peer,
    request,
    status,
    keep: (item) => item,
    settles: (promise) => settlesWithin(promise, LATEST_MS),
    another: () => Promise.reject(new Error("There is no other connection")),
  });
}

for (
  const name of [
    "no-stream-end",
    "no-stream-reset",
    "no-stop-sending",
    "idle-streams-stay",
    "stream-limit",
    "foreign-stream-stall",
    "close-unseen",
    "one-datagram",
  ] satisfies NativeServerDefect[]
) {
  Deno.test(`NATIVE_SERVER_DEFECTS has a test that notices if ${name} is fixed`, async () => {
    assertEquals(await withOwnEnds(PROBES[name]), false);
  });
}

Deno.test("NATIVE_SERVER_DEFECTS has issues as URLs, and each defect once", () => {
  const names = NATIVE_SERVER_DEFECTS.map(({ name }) => name);
  assertEquals(new Set(names).size, names.length);
  for (const { issue = "https://github.com/denoland/deno/issues/1" } of NATIVE_SERVER_DEFECTS) {
    assert(/^https:\/\/github\.com\/denoland\/deno\/issues\/\d+$/.test(issue), issue);
  }
});

Deno.test("nativeServerDefects() leaves out defects that are worked around, or disproved by a feature", () => {
  const all = nativeServerDefects();
  for (const { name, isWorkedAround = false, isMended } of NATIVE_SERVER_DEFECTS) {
    assertEquals(all.includes(name), !isWorkedAround && isMended?.() !== true, name);
  }
  const { prototype } = WebTransport;
  assert(!("protocol" in prototype) && all.includes("no-request"));
  Object.defineProperty(prototype, "protocol", { value: "", configurable: true });
  try {
    assertEquals(nativeServerDefects(), all.filter((name) => name !== "no-request"));
  } finally {
    delete (prototype as { protocol?: string }).protocol;
  }
});
