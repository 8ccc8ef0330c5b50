import {
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { StructuredError } from "../../errors.ts";
import { soon, turns } from "../../tests/waiting.ts";
import {
  byHand,
  END_MARK,
  failureOf,
  framed,
  HandStream,
  joined,
  type TestRegistry as R,
} from "../../tests/structured.ts";
import type { StandardSchema } from "../../base/standard_schema.ts";
import type { StructuredStreamOptions } from "./structured_options.ts";

interface Rejection {
  readonly what: string;
  readonly incoming: (Uint8Array | null)[];
  readonly reason: StructuredError["reason"];
  readonly type: number | undefined;
  readonly message: RegExp;
  readonly code?: number;
  readonly options?: Partial<StructuredStreamOptions<R>>;
  /** True if the policy can skip the fault. */
  readonly isSkipped?: boolean;
}

const REJECTIONS: readonly Rejection[] = [
  {
    what: "an unknown type",
    incoming: [framed(9, "a")],
    reason: "unknown-type",
    type: 9,
    message: /^Cannot read message: expected type 1, 2 or 40000, received 9$/,
    isSkipped: true,
  },
  {
    what: "an end mark that was not agreed on",
    incoming: [END_MARK.slice()],
    reason: "unknown-type",
    type: 65_535,
    message: /received 65535$/,
    options: { endMark: false },
    isSkipped: true,
  },
  {
    what: "data that does not fit",
    incoming: [framed(1, { x: "1" })],
    reason: "invalid",
    type: 1,
    message: /expected data that fits the schema of type 1, received at x: Invalid input.+number/,
    isSkipped: true,
  },
  {
    what: "invalid JSON",
    incoming: [framed(2, Uint8Array.of(0x7b))],
    reason: "malformed",
    type: 2,
    message: /expected JSON in a message of type 2, received 1 byte: .+/,
    isSkipped: true,
  },
  {
    what: "an empty payload, which is not JSON",
    incoming: [framed(2, new Uint8Array())],
    reason: "malformed",
    type: 2,
    message: /expected JSON in a message of type 2, received 0 bytes: .+/,
    isSkipped: true,
  },
  {
    what: "a message that is too large",
    incoming: [framed(2, "0123456789")],
    reason: "too-large",
    type: 2,
    message: /expected at most 10 bytes, received a message of type 2 with 12$/,
    code: 4413,
    options: { maxMessageBytes: 10 },
  },
  {
    what: "a claim of 4 GiB",
    incoming: [framed(2, new Uint8Array(), 0xffff_ffff)],
    reason: "too-large",
    type: 2,
    message: /expected at most 1048576 bytes, received a message of type 2 with 4294967295$/,
    code: 4413,
  },
  {
    what: "an unknown type that is too large",
    incoming: [framed(9, new Uint8Array(), 0xffff_ffff)],
    reason: "too-large",
    type: 9,
    message: /received a message of type 9/,
    code: 4413,
  },
  {
    what: "an end inside a head, from a peer other than Skein",
    incoming: [framed(2, "a").slice(0, 3), null],
    reason: "truncated",
    type: undefined,
    message: /expected whole messages, received 3 of 6 bytes of a head$/,
    options: { endMark: false },
  },
  {
    what: "an end inside a message, from a peer other than Skein",
    incoming: [framed(2, "abc", 9), null],
    reason: "truncated",
    type: 2,
    message: /expected whole messages, received 5 of 9 bytes of a message of type 2$/,
    options: { endMark: false },
  },
  {
    what: "an end mark with a payload",
    incoming: [framed(65_535, "a")],
    reason: "malformed",
    type: 65_535,
    message: /expected an empty end mark, received 3 bytes$/,
  },
];

for (
  const { what, incoming, reason, type, message, code = 4400, options, isSkipped } of REJECTIONS
) {
  Deno.test(`StructuredStream throws and ends in both directions on ${what}`, async () => {
    const before = framed(2, "before");
    const wire = new HandStream(before, ...incoming.map((bytes) => bytes?.slice() ?? null));
    const stream = await byHand(wire, { ...options });
    const seen: unknown[] = [];
    const error = await soon(assertRejects(async () => {
      for await (const { data } of stream) seen.push(data);
    }));
    assertInstanceOf(error, StructuredError);
    assertEquals({ seen, code: error.code, reason: error.reason, type: error.type }, {
      seen: ["before"],
      code: "structured",
      reason,
      type,
    });
    assertMatch(error.message, message);
    assertEquals([wire.cancelled, wire.aborted], [[code], [code]]);
    assertStrictEquals(await failureOf(stream), error);
    assertStrictEquals(await assertRejects(() => stream.closed), error);
    assertStrictEquals(await assertRejects(() => stream.send(2, "late")), error);
    assertEquals(stream.skippedMessages, 0);
  });

  Deno.test(`StructuredStream with onInvalid "skip" ${isSkipped ? "skips" : "does not skip"} ${what}`, async () => {
    const told: StructuredError[] = [];
    const policies = ["skip", (error: StructuredError) => void told.push(error)] as const;
    for (const onInvalid of policies) {
      const behind = [framed(2, "behind"), END_MARK.slice(), null];
      const wire = new HandStream(...incoming.map((bytes) => bytes?.slice() ?? null), ...behind);
      const stream = await byHand(wire, { ...options, onInvalid });
      const seen: unknown[] = [];
      const reading = async () => {
        for await (const { data } of stream) seen.push(data);
      };
      if (isSkipped) {
        await soon(reading());
        const marks = options?.endMark === false ? 1 : 0; // Without end marks, the end mark is an invalid message too.
        assertEquals([seen, stream.skippedMessages], [["behind"], 1 + marks]);
      } else {
        await soon(assertRejects(reading, StructuredError));
        assertEquals([seen, stream.skippedMessages], [[], 0]);
      }
    }
    assertEquals(told[0]?.reason, isSkipped ? reason : undefined);
  });
}

Deno.test("StructuredStream ends with the error of onInvalid", async () => {
  const fail = () => {
    throw new Error("Enough");
  };
  for (const onInvalid of [fail, () => Promise.reject(new Error("Enough"))]) {
    for (const invalid of [framed(9, "a"), framed(1, { x: "1" })]) {
      const wire = new HandStream(joined(invalid, framed(2, "b")));
      const stream = await byHand(wire, { onInvalid });
      await soon(assertRejects(() => Array.fromAsync(stream), Error, "Enough"));
      assertEquals([wire.cancelled, wire.aborted], [[4500], [4500]]);
    }
  }
});

Deno.test("StructuredStream ends with the error of a schema, which is not the peer's fault", async () => {
  for (const isAsync of [false, true]) {
    const broken: StandardSchema<string> = {
      "~standard": {
        version: 1,
        vendor: "test",
        validate() {
          if (isAsync) return Promise.reject(new Error("Broken"));
          throw new Error("Broken");
        },
      },
    };
    const wire = new HandStream(framed(2, "a"));
    const stream = await byHand(wire, {
      registry: { 2: broken } as unknown as R,
      onInvalid: "skip",
    });
    await assertRejects(() => Array.fromAsync(stream), Error, "Broken");
    assertEquals([wire.cancelled, wire.aborted], [[4500], [4500]]);
  }
});

Deno.test("StructuredStream waits for an asynchronous schema", async () => {
  const later: StandardSchema<string, number> = {
    "~standard": {
      version: 1,
      vendor: "test",
      validate: async (value) => {
        await turns();
        return value === "no" ? { issues: [{ message: "No" }] } : { value: Number(value) };
      },
    },
  };
  const wire = new HandStream(
    joined(framed(2, "1"), framed(2, "no"), framed(2, "3"), END_MARK),
    null,
  );
  const stream = await byHand(wire, { registry: { 2: later } as unknown as R, onInvalid: "skip" });
  assertEquals(await Array.fromAsync(stream), [
    { type: 2, data: 1 as unknown as string },
    { type: 2, data: 3 as unknown as string },
  ]);
});
