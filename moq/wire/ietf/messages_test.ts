import { assert, assertEquals, assertThrows } from "@std/assert";
import { ProtocolError } from "../../../errors.ts";
import { ALL_DRAFTS, DRAFT_CODECS } from "../../../tests/moq/draft_messages.ts";
import { Random } from "../../../tests/random.ts";
import { MoqError } from "../errors.ts";
import { LEADING_INTEGERS } from "../integers.ts";
import { MessageReader } from "../message_reader.ts";
import { VERSIONS } from "../versions.ts";
import {
  decodeDraftSetup,
  decodeDraftSubscribe,
  decodeSubscribeOk,
  DraftType,
  encodeDraftSetup,
  encodeDraftSubscribe,
  encodeNamespaceRequest,
  encodeSubscribeOk,
  readDraftMessage,
  tokensOf,
} from "./messages.ts";
import { encodeToken } from "./parameters.ts";

const bytes = (hex: string) => Uint8Array.fromHex(hex.replaceAll(" ", ""));
const [draft18, draft20, draft22] = ["moqt-18", "moqt-20", "moqt-22"].map((version) =>
  VERSIONS[version as "moqt-18"].draft!
) as [typeof ALL_DRAFTS[0], typeof ALL_DRAFTS[0], typeof ALL_DRAFTS[0]];

/** Reads bytes that have arrived in one piece. */
function readerOf(bytes: Uint8Array): MessageReader {
  const left = [bytes];
  const read = () => Promise.resolve(left.pop() ?? null);
  return new MessageReader({ read, cancel() {} }, LEADING_INTEGERS);
}

for (const { name, draw, decode } of DRAFT_CODECS) {
  Deno.test(`${name} is read as it was written, in every draft`, async () => {
    const random = new Random(7);
    for (const draft of ALL_DRAFTS) {
      for (let at = 0; at < 100; at++) {
        const drawn = draw(random, draft);
        const message = await readDraftMessage(readerOf(drawn.bytes));
        assertEquals(decode(message!.body, draft), drawn.message);
      }
    }
  });

  Deno.test(`${name} with any changed byte is read, or rejected as a violation`, () => {
    const random = new Random(8);
    for (const draft of ALL_DRAFTS) {
      for (let at = 0; at < 300; at++) {
        const body = draw(random, draft).bytes.slice(3);
        if (body.byteLength === 0) continue;
        body[random.below(body.byteLength)] = random.below(256);
        try {
          decode(random.below(2) === 0 ? body : body.subarray(0, random.below(body.length)), draft);
        } catch (error) {
          assert(error instanceof ProtocolError || error instanceof MoqError, `${error}`);
        }
      }
    }
  });
}

Deno.test("the first messages of a session have the bytes of other implementations", () => {
  assertEquals(
    encodeDraftSetup(new Map([[1, new TextEncoder().encode("/")]])).toHex(),
    "af000003" + "01012f",
  );
  const request = { requestId: 0, path: "/live/one", parameters: {} } as const;
  const namespace = "02046c697665036f6e65";
  for (const draft of ALL_DRAFTS) {
    assertEquals(
      encodeNamespaceRequest(DraftType.publishNamespace, request, draft).toHex(),
      "06000c00" + namespace + "00",
    );
    assertEquals(
      encodeDraftSubscribe({ ...request, track: "video" }, draft).toHex(),
      "03001200" + namespace + "05766964656f" + "00",
    );
    assertEquals(encodeSubscribeOk({ alias: 5, parameters: {} }, draft).toHex(), "0400020500");
  }
});

Deno.test("the filter of a subscription differs between the drafts", () => {
  const written = (from: "next-object" | "start") =>
    [draft18, draft20, draft22].map((draft) => {
      const start = { group: 5, object: 0 };
      const filter = from === "start" ? { from, start, endGroup: 7 } : { from };
      const request = { requestId: 0, path: "/a", track: "b", parameters: { filter } } as const;
      return encodeDraftSubscribe(request, draft).toHex().slice(20);
    });
  assertEquals(written("next-object"), ["210102", "21020000", "2105"]);
  assertEquals(written("start"), ["210404050002", "2103050002", "2103050002"]);
});

Deno.test("a message with an unknown, misplaced or repeated parameter is a violation", () => {
  const head = "00 01 01 61 01 62";
  for (const parameters of ["01 7f", "01 08 00", "02 20 01 00 02", "01 10 02", "01 22 03", "ff"]) {
    assertThrows(
      () => decodeDraftSubscribe(bytes(head + parameters), draft18),
      ProtocolError,
      "Cannot read",
    );
  }
  // A parameter of draft 20.
  assertThrows(() => decodeDraftSubscribe(bytes(`${head} 01 35 01`), draft18), ProtocolError);
  assertEquals(decodeDraftSubscribe(bytes(`${head} 01 35 01`), draft20).parameters, {
    properties: true,
  });
});

Deno.test("more options, parameters or properties than are read are a violation", () => {
  const many = "0200".repeat(65);
  assertThrows(() => decodeDraftSetup(bytes(many)), ProtocolError, "more than 64 pairs");
  assertEquals(decodeDraftSetup(bytes("0200".repeat(64))).options.size, 64);
  assertThrows(
    () => decodeDraftSubscribe(bytes(`00 01 01 61 01 62 41 ${"0300".repeat(65)}`), draft18),
    ProtocolError,
    "at most 64 parameters",
  );
  assertThrows(() => decodeSubscribeOk(bytes(`00 00 ${many}`), draft18), ProtocolError, "64 pairs");
});

Deno.test("a namespace that no path can tell apart has no path, and a malformed one is a violation", () => {
  const read = (namespace: string) =>
    decodeDraftSubscribe(bytes(`00 ${namespace} 01 62 00`), draft18).path;
  assertEquals(read("02 01 61 01 62"), "/a/b");
  assertEquals(read("00"), "/");
  assertEquals(read("01 03 61 2f 62"), undefined); // "a/b"
  assertEquals(read("01 01 ff"), undefined); // Not UTF-8.
  assertThrows(() => read("01 00"), ProtocolError, "at least one byte");
  assertThrows(() => read("21" + "01 61".repeat(33)), ProtocolError, "at most 32 fields");
});

Deno.test("tokensOf() reads tokens by value, and rejects references to stored tokens", () => {
  const token = { type: 3, value: bytes("0102") };
  assertEquals(tokensOf({ tokens: [encodeToken(token)] }), [token]);
  const reasons = ["01 05 03 01", "02 05", "00 05", "09", "03"].map((hex) =>
    assertThrows(() => tokensOf({ tokens: [bytes(hex)] }), MoqError).reason
  );
  assertEquals(reasons, [
    "tokenOverflow",
    "unknownToken",
    "unknownToken",
    "parameterFormat",
    "parameterFormat",
  ]);
  // In SETUP, a token to store counts as one by value.
  const setup = decodeDraftSetup(bytes("03 04 01 05 03 01"));
  assertEquals(setup.tokens, [{ type: 3, value: bytes("01") }]);
});
