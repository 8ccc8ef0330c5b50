import {
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { z } from "zod";
import { SessionClosedError, StructuredError, UnsupportedError } from "../../errors.ts";
import { ends, PLAIN } from "../../tests/sessions.ts";
import { wires } from "../../tests/pairs/wires.ts";
import type { Codec } from "./codec.ts";
import { Session } from "../session.ts";
import type { StandardSchema } from "../../base/standard_schema.ts";
import { structuredDatagrams as make } from "./structured_datagrams.ts";
import { sessionSettings } from "../settings/session_settings.ts";
import { soon, turns } from "../../tests/waiting.ts";

const registry = {
  1: z.object({ x: z.number(), note: z.string().default("none") }),
  2: z.string(),
};

/** Sends bytes unchanged. */
async function sendRaw(session: Session, ...bytes: number[]): Promise<void> {
  const writer = session.datagrams.writable.getWriter();
  await writer.write(Uint8Array.from(bytes));
  writer.releaseLock();
}

const text = (value: unknown) => [...new TextEncoder().encode(JSON.stringify(value))];

for (const { name, makePair } of wires) {
  Deno.test(`structuredDatagrams() carries messages in both directions over ${name}`, async () => {
    await using pair = await makePair();
    await using client = new Session(pair.client, sessionSettings({ side: "client" }));
    await using server = new Session(pair.server, sessionSettings({ side: "server" }));
    await soon(client.ready);
    await using near = make(client, { registry });
    await using far = make(server, { registry });
    const [there, back] = [far[Symbol.asyncIterator](), near[Symbol.asyncIterator]()];
    for (let x = 0; x < 20; x++) {
      await near.send(1, { x });
      assertEquals((await soon(there.next())).value, { type: 1, data: { x, note: "none" } });
      await far.send(2, `${x}`);
      assertEquals((await soon(back.next())).value, { type: 2, data: `${x}` });
    }
    const counts = { sent: 20, received: 20, skipped: 0, dropped: 0 };
    assertEquals([near.stats, far.stats], [counts, counts]);
  });
}

Deno.test("structuredDatagrams() writes the type before the payload", async () => {
  await using pair = await ends();
  await using near = make(pair.client, { registry: { 40_000: z.string() } });
  await near.send(40_000, "é");
  const reader = pair.server.datagrams.readable.getReader();
  assertEquals((await soon(reader.read())).value?.toHex(), "9c40" + "22c3a922");
});

Deno.test("structuredDatagrams() rejects invalid options", async () => {
  await using pair = await ends();
  assertThrows(() => make(pair.client, { registry: {} }), TypeError, "at least one type");
  for (const maxQueued of [0, -1, 1.5, NaN]) {
    const rule = `maxQueued must be a positive integer, received ${maxQueued}`;
    assertThrows(() => make(pair.client, { registry, maxQueued }), RangeError, rule);
  }
  const codec = {} as Codec;
  assertThrows(() => make(pair.client, { registry, codec }), TypeError, "encode and decode");
});

Deno.test("structuredDatagrams() rejects on a connection without datagrams", async () => {
  await using pair = await ends({}, {}, { wire: PLAIN });
  assertThrows(() => make(pair.client, { registry }), UnsupportedError, "see capabilities");
});

Deno.test("StructuredDatagrams.send() rejects messages larger than a datagram", async () => {
  await using pair = await ends();
  await using near = make(pair.client, { registry });
  const { maxDatagramSize } = pair.client.datagrams;
  await near.send(2, "x".repeat(maxDatagramSize - 4));
  const most = maxDatagramSize - 2;
  await assertRejects(
    () => near.send(2, "x".repeat(maxDatagramSize - 3)),
    RangeError,
    `one of type 2 must have at most ${most} bytes, received ${most + 1}`,
  );
  // @ts-expect-error Not in the registry.
  await assertRejects(() => near.send(3, "a"), TypeError, "type must be 1 or 2, received 3");
  assertEquals(near.stats.sent, 1);
});

Deno.test("StructuredDatagrams counts, reports and skips invalid datagrams", async () => {
  await using pair = await ends();
  await using near = make(pair.client, { registry });
  const told: StructuredError[] = [];
  await using far = make(pair.server, { registry, onInvalid: (error) => void told.push(error) });
  await sendRaw(pair.client);
  await sendRaw(pair.client, 1);
  await sendRaw(pair.client, 0, 9, ...text("a"));
  await sendRaw(pair.client, 0, 1, ...text({ x: "1" }));
  await sendRaw(pair.client, 0, 2, 0x7b);
  await sendRaw(pair.client, 0, 2);
  await near.send(2, "good");
  const loop = far[Symbol.asyncIterator]();
  assertEquals((await soon(loop.next())).value, { type: 2, data: "good" });
  assertEquals(told.map(({ reason, type }) => [reason, type]), [
    ["truncated", undefined],
    ["truncated", undefined],
    ["unknown-type", 9],
    ["invalid", 1],
    ["malformed", 2],
    ["malformed", 2],
  ]);
  assertMatch(told[1]!.message, /expected a type in a datagram, received 1 bytes$/);
  assertEquals(far.stats, { sent: 0, received: 1, skipped: 6, dropped: 0 });
  assertEquals(pair.server.state, "connected");
});

Deno.test("StructuredDatagrams silently skips invalid datagrams without onInvalid", async () => {
  await using pair = await ends();
  await using near = make(pair.client, { registry });
  await using far = make(pair.server, { registry });
  await sendRaw(pair.client, 0, 9);
  await near.send(2, "good");
  for await (const { data } of far) {
    assertEquals(data, "good");
    break;
  }
  assertEquals(far.stats.skipped, 1);
});

Deno.test("StructuredDatagrams drops and counts the oldest datagrams beyond its limit", async () => {
  await using pair = await ends();
  await using near = make(pair.client, { registry });
  await using far = make(pair.server, { registry, maxQueued: 3 });
  for (let n = 0; n < 10; n++) await near.send(2, `${n}`);
  await turns(20);
  assertEquals(far.stats.dropped, 7);
  const seen: string[] = [];
  for await (const { data } of far) if (seen.push(data as string) === 3) break;
  assertEquals(seen, ["7", "8", "9"]);
});

Deno.test("StructuredDatagrams continues in another loop, and allows one at a time", async () => {
  await using pair = await ends();
  await using near = make(pair.client, { registry });
  await using far = make(pair.server, { registry });
  await near.send(2, "a");
  await near.send(2, "b");
  for await (const { data } of far) {
    assertEquals(data, "a");
    await assertRejects(() => Array.fromAsync(far), TypeError, "another loop reads them");
    break;
  }
  for await (const { data } of far) {
    assertEquals(data, "b");
    break;
  }
});

Deno.test("StructuredDatagrams releases the datagrams when it is disposed", async () => {
  await using pair = await ends();
  const far = make(pair.server, { registry });
  assertThrows(() => make(pair.server, { registry }), TypeError, "must have no other reader");
  const waiting = Array.fromAsync(far);
  await turns();
  await far[Symbol.asyncDispose]();
  await far[Symbol.asyncDispose]();
  assertEquals(await soon(waiting), []);
  const error = await assertRejects(() => far.send(2, "late"), SessionClosedError);
  assertEquals(error.message, "Cannot send datagram: the structured datagrams are closed");

  await using near = make(pair.client, { registry });
  await using again = make(pair.server, { registry });
  await near.send(2, "a");
  assertEquals((await soon(again[Symbol.asyncIterator]().next())).value, { type: 2, data: "a" });
});

Deno.test("StructuredDatagrams ends with the session", async () => {
  for (const isBroken of [false, true]) {
    await using pair = await ends();
    const near = make(pair.client, { registry });
    const far = make(pair.server, { registry });
    const waiting = Array.fromAsync(far);
    if (isBroken) pair.link.disconnect();
    else await pair.client.close();
    assertEquals(await soon(waiting), []);
    await soon(pair.client.closed);
    const error = await assertRejects(() => near.send(2, "late"), SessionClosedError);
    assertEquals(error.info?.code, isBroken ? 1006 : 0);
  }
});

Deno.test("StructuredDatagrams ends a loop with the error of a schema or onInvalid", async () => {
  const broken: StandardSchema<string> = {
    "~standard": {
      version: 1,
      vendor: "test",
      validate() {
        throw new Error("Broken");
      },
    },
  };
  await using pair = await ends();
  await using near = make(pair.client, { registry });
  {
    await using far = make(pair.server, { registry: { 2: broken } });
    await near.send(2, "a");
    await soon(assertRejects(() => Array.fromAsync(far), Error, "Broken"));
  }
  const fail = (error: StructuredError) => {
    assertInstanceOf(error, StructuredError);
    throw new Error("Enough");
  };
  for (const onInvalid of [fail, () => Promise.reject(new Error("Enough"))]) {
    await using far = make(pair.server, { registry: { 3: z.null() }, onInvalid });
    await near.send(2, "a");
    await soon(assertRejects(() => Array.fromAsync(far), Error, "Enough"));
  }
});
