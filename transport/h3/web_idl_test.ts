import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { soon } from "../../tests/waiting.ts";
import { WebTransportPeer } from "../../tests/peers/webtransport_peer.ts";
import * as ours from "../w3c/mod.ts";
import { WebTransport } from "../w3c/mod.ts";

/**
 * A member of an interface. An `attribute` can be set, and a `readonly` cannot. An `operation`
 * states its number of required arguments. A member that returns a promise rejects where other
 * members throw.
 */
type Member =
  | readonly ["attribute" | "readonly" | "readonly promise" | "static readonly", name: string]
  | readonly ["operation" | "promise operation", name: string, length: number];

/** An interface of https://w3c.github.io/webtransport/. */
interface Idl {
  /** The parent interface. */
  readonly parent?: { readonly prototype: object };
  /**
   * The number of required arguments of the constructor; `undefined` if there is no constructor.
   */
  readonly constructorLength?: number;
  readonly members: readonly Member[];
}

/** The IDL of the editor's draft of the specification of 24 July 2026. */
const INTERFACES: Readonly<Record<string, Idl>> = {
  WebTransportDatagramsWritable: {
    parent: WritableStream,
    members: [["attribute", "sendGroup"], ["attribute", "sendOrder"]],
  },
  WebTransportDatagramDuplexStream: {
    members: [
      ["operation", "createWritable", 0],
      ["readonly", "readable"],
      ["readonly", "maxDatagramSize"],
      ["attribute", "incomingMaxAge"],
      ["attribute", "outgoingMaxAge"],
      ["attribute", "incomingMaxBufferedDatagrams"],
      ["attribute", "outgoingMaxBufferedDatagrams"],
    ],
  },
  WebTransport: {
    constructorLength: 1,
    members: [
      ["promise operation", "getStats", 0],
      ["promise operation", "exportKeyingMaterial", 3],
      ["readonly promise", "ready"],
      ["readonly", "reliability"],
      ["readonly", "congestionControl"],
      ["attribute", "anticipatedConcurrentIncomingUnidirectionalStreams"],
      ["attribute", "anticipatedConcurrentIncomingBidirectionalStreams"],
      ["readonly", "responseHeaders"],
      ["readonly", "protocol"],
      ["readonly promise", "closed"],
      ["readonly promise", "draining"],
      ["operation", "close", 0],
      ["readonly", "datagrams"],
      ["promise operation", "createBidirectionalStream", 0],
      ["readonly", "incomingBidirectionalStreams"],
      ["promise operation", "createUnidirectionalStream", 0],
      ["readonly", "incomingUnidirectionalStreams"],
      ["operation", "createSendGroup", 0],
      ["static readonly", "supportsReliableOnly"],
    ],
  },
  WebTransportSendStream: {
    parent: WritableStream,
    members: [
      ["attribute", "sendGroup"],
      ["attribute", "sendOrder"],
      ["promise operation", "getStats", 0],
      ["operation", "getWriter", 0],
    ],
  },
  WebTransportSendGroup: { members: [["promise operation", "getStats", 0]] },
  WebTransportReceiveStream: {
    parent: ReadableStream,
    members: [["promise operation", "getStats", 0]],
  },
  WebTransportBidirectionalStream: {
    members: [["readonly", "readable"], ["readonly", "writable"]],
  },
  WebTransportWriter: {
    parent: WritableStreamDefaultWriter,
    members: [["promise operation", "atomicWrite", 0], ["operation", "commit", 0]],
  },
  WebTransportError: {
    parent: DOMException,
    constructorLength: 0,
    members: [["readonly", "source"], ["readonly", "streamErrorCode"]],
  },
};

/** Checks the types of the attributes of a `WebTransport`, which are the same in any state. */
const TYPES: Readonly<Record<string, (value: unknown) => boolean>> = {
  ready: (value) => value instanceof Promise,
  closed: (value) => value instanceof Promise,
  draining: (value) => value instanceof Promise,
  reliability: (value) => ["pending", "reliable-only", "supports-unreliable"].includes(`${value}`),
  congestionControl: (value) => ["default", "throughput", "low-latency"].includes(`${value}`),
  anticipatedConcurrentIncomingUnidirectionalStreams: isShortOrNull,
  anticipatedConcurrentIncomingBidirectionalStreams: isShortOrNull,
  responseHeaders: (value) => value === null || value instanceof Headers,
  protocol: (value) => typeof value === "string",
  datagrams: (value) => value instanceof ours.WebTransportDatagramDuplexStream,
  incomingBidirectionalStreams: (value) => value instanceof ReadableStream,
  incomingUnidirectionalStreams: (value) => value instanceof ReadableStream,
};

function isShortOrNull(value: unknown): boolean {
  return value === null || Number.isInteger(value) && (value as number) >= 0;
}

/** A function that can be called with any `this` and any arguments. */
type Callable = (this: unknown, ...args: unknown[]) => unknown;

/** An interface object, with the properties that the harness of web-platform-tests checks. */
interface InterfaceObject {
  new (...args: unknown[]): object;
  readonly prototype: object;
}

const CLASSES = ours as unknown as Readonly<Record<string, InterfaceObject>>;

/** The properties of a function for its name and its length. */
function assertConstant(target: object, key: string, value: unknown): void {
  assertEquals(Object.getOwnPropertyDescriptor(target, key), {
    value,
    writable: false,
    enumerable: false,
    configurable: true,
  });
}

/**
 * Asserts that a member fails if `this` is not an instance. If it returns a promise, the promise
 * must reject; otherwise, it must throw.
 */
async function assertForeign(member: Callable, isPromise: boolean): Promise<void> {
  for (const foreign of [undefined, null, {}, globalThis]) {
    if (!isPromise) assertThrows(() => member.call(foreign), TypeError);
    else {
      const promise = member.call(foreign);
      assertInstanceOf(promise, Promise);
      await assertRejects(() => promise, TypeError);
    }
  }
}

for (const [name, { parent, constructorLength, members }] of Object.entries(INTERFACES)) {
  const type = CLASSES[name]!;
  const { prototype } = type;

  Deno.test(`${name} has the interface object of Web IDL`, () => {
    assertEquals(typeof type, "function");
    assertEquals(Object.getPrototypeOf(type), parent ?? Function.prototype);
    assertConstant(type, "name", name);
    assertConstant(type, "length", constructorLength ?? 0);
    assertEquals(Object.getOwnPropertyDescriptor(type, "prototype")!.writable, false);
    assertThrows(() => Reflect.apply(type, undefined, []), TypeError);
    if (constructorLength !== 0) assertThrows(() => new type(), TypeError);
    if (constructorLength !== undefined) return;
    for (const argument of [undefined, null, {}, new WritableStream()]) {
      assertThrows(() => new type(argument, argument, {}), TypeError, "Illegal constructor");
    }
  });

  Deno.test(`${name} has the interface prototype object of Web IDL`, () => {
    assertEquals(Object.getPrototypeOf(prototype), parent?.prototype ?? Object.prototype);
    assertConstant(prototype, Symbol.toStringTag as unknown as string, name);
    assertEquals(Object.prototype.toString.call(prototype), `[object ${name}]`);
    const { value, ...flags } = Object.getOwnPropertyDescriptor(prototype, "constructor")!;
    assertEquals(value, type);
    assertEquals(flags, { writable: true, enumerable: false, configurable: true });
    assertEquals(Object.hasOwn(prototype, Symbol.unscopables), false);
  });

  for (const [kind, member, length = 0] of members) {
    Deno.test(`${name}.${member} is the ${kind} of Web IDL`, async () => {
      const holder = kind === "static readonly" ? type : prototype;
      const { get, set, value, ...flags } = Object.getOwnPropertyDescriptor(holder, member)!;
      const isPromise = kind.includes("promise");
      if (kind.endsWith("operation")) {
        assertEquals(flags, { writable: true, enumerable: true, configurable: true });
        assertConstant(value, "name", member);
        assertConstant(value, "length", length);
        assertThrows(() => Reflect.construct(value, []), TypeError);
        return await assertForeign(value, isPromise);
      }
      assertEquals(flags, { enumerable: true, configurable: true });
      assertConstant(get!, "name", `get ${member}`);
      assertConstant(get!, "length", 0);
      if (kind !== "static readonly") await assertForeign(get!, isPromise);
      if (kind !== "attribute") return assertEquals(set, undefined);
      assertConstant(set!, "name", `set ${member}`);
      assertConstant(set!, "length", 1);
      await assertForeign(set!, false);
    });
  }
}

Deno.test("WebTransport has objects with the members of Web IDL, of their types", async () => {
  await using peer = new WebTransportPeer();
  const transport = new WebTransport(peer.url, peer.trust);
  const record = transport as unknown as Record<string, unknown>;
  for (const state of ["pending", "supports-unreliable"]) {
    assertEquals(transport.reliability, state);
    assertEquals(Object.getPrototypeOf(transport), WebTransport.prototype);
    assertEquals(Object.prototype.toString.call(transport), "[object WebTransport]");
    for (const [kind, member] of INTERFACES.WebTransport!.members) {
      if (kind === "static readonly") continue;
      assert(!Object.hasOwn(transport, member) && member in transport, member);
      const value = record[member];
      if (kind.endsWith("operation")) assertEquals(typeof value, "function");
      else assert(TYPES[member]!(value), `${member}: ${String(value)}`);
    }
    await soon(transport.ready);
  }
  const operation = transport.exportKeyingMaterial as Callable;
  const bytes = new Uint8Array(1);
  for (const args of [[], [bytes], [bytes, bytes]]) {
    await assertRejects(async () => await operation.apply(transport, args), TypeError);
  }
  transport.close();
  await soon(transport.closed);
});

Deno.test("WebTransport has objects of all interfaces, with their class strings", async () => {
  await using peer = new WebTransportPeer();
  await using transport = new WebTransport(peer.url, peer.trust);
  const { datagrams } = transport;
  const stream = await soon(transport.createBidirectionalStream());
  const { readable, writable } = stream;
  const objects: Record<string, object> = {
    WebTransportDatagramsWritable: datagrams.createWritable(),
    WebTransportDatagramDuplexStream: datagrams,
    WebTransport: transport,
    WebTransportSendStream: writable,
    WebTransportSendGroup: transport.createSendGroup(),
    WebTransportReceiveStream: readable,
    WebTransportBidirectionalStream: stream,
    WebTransportWriter: writable.getWriter(),
    WebTransportError: new ours.WebTransportError(),
  };
  assertEquals(Object.keys(objects), Object.keys(INTERFACES));
  for (const [name, object] of Object.entries(objects)) {
    assertEquals(String(Object.prototype.toString.call(object)), `[object ${name}]`);
    assertEquals(Object.getPrototypeOf(object), CLASSES[name]!.prototype);
    // A loop must not visit members that are not in the specification.
    const seen: string[] = [];
    for (const key in object) if (Object.hasOwn(CLASSES[name]!.prototype, key)) seen.push(key);
    const expected = INTERFACES[name]!.members.filter(([kind]) => kind !== "static readonly");
    assertEquals(seen.toSorted(), expected.map(([, member]) => member).toSorted());
  }
});

Deno.test("WebTransport.exportKeyingMaterial() names the missing runtime feature", async () => {
  await using peer = new WebTransportPeer();
  const transport = new WebTransport(peer.url, peer.trust);
  const short = new Uint8Array(255);
  const long = new ArrayBuffer(256);
  const reject = async (args: [BufferSource, BufferSource, number], name: string) => {
    const error = await assertRejects(() => transport.exportKeyingMaterial(...args), Error);
    assertEquals(error.name, name);
  };
  await reject([short, short, 4_096], "NotSupportedError");
  await reject([long, short, 1], "RangeError");
  await reject([short, long, 1], "RangeError");
  await reject([short, short, 0], "RangeError");
  await reject([short, short, 4_097], "RangeError");
  await reject(["label" as unknown as BufferSource, short, 1], "TypeError");
  await soon(transport.ready);
  transport.close();
  await soon(transport.closed);
  await reject([short, short, 1], "InvalidStateError");
  await reject([short, short, 0], "RangeError");
});
