import { decodeRecord } from "../../tests/peers/qmux_wire.ts";
import { assertEquals, assertThrows } from "@std/assert";
import {
  decodeTransportParameters,
  DEFAULT_MAX_RECORD_SIZE,
  DEFAULT_PARAMETERS,
  encodeTransportParameters,
  PARAMETERS_TYPE,
  PING_TYPE,
  PONG_TYPE,
  QmuxError,
  type QmuxFrame,
  QuicError,
  RecordWriter,
} from "./frames.ts";

const encoder = new TextEncoder();
const bytes = (text: string) => encoder.encode(text);

const PARAMETERS = {
  maxIdleTimeoutMs: 30_000,
  maxData: 1_048_576,
  maxStreamDataBidiLocal: 262_144,
  maxStreamDataBidiRemote: 262_144,
  maxStreamDataUni: 262_144,
  maxStreamsBidi: 100,
  maxStreamsUni: 100,
  maxDatagramFrameSize: 16_382,
  maxRecordSize: DEFAULT_MAX_RECORD_SIZE,
};

/** Bytes that `@moq/qmux` 0.3.3 wrote, with the frames that they encode. */
const GOLDEN: Record<string, QmuxFrame> = {
  "0e04000568656c6c6f": { kind: "stream", id: 4, offset: 0, data: bytes("hello"), isFin: false },
  "0f078001117003627965": {
    kind: "stream",
    id: 7,
    offset: 70_000,
    data: bytes("bye"),
    isFin: true,
  },
  "0f03412c00": { kind: "stream", id: 3, offset: 300, data: bytes(""), isFin: true },
  "0441900780004e20": { kind: "reset", id: 400, code: 7, finalSize: 20_000 },
  "0509c0000000ee6b2800": { kind: "stop", id: 9, code: 4_000_000_000 },
  "1c0a00076772c3bcc39f65": { kind: "close", isApplication: false, code: 10, reason: "grüße" },
  "1d519b0466756c6c": { kind: "close", isApplication: true, code: 4507, reason: "full" },
  "1080100000": { kind: "maxData", limit: 1_048_576 },
  "110580040000": { kind: "maxStreamData", id: 5, limit: 262_144 },
  "124064": { kind: "maxStreams", direction: "bidirectional", limit: 100 },
  "1380004000": { kind: "maxStreams", direction: "unidirectional", limit: 16_384 },
  "1480010000": { kind: "dataBlocked", limit: 65_536 },
  "15083f": { kind: "streamDataBlocked", id: 8, limit: 63 },
  "164040": { kind: "streamsBlocked", direction: "bidirectional", limit: 64 },
  "1700": { kind: "streamsBlocked", direction: "unidirectional", limit: 0 },
  [
    "ff5153300d0a0d0a35010480007530040480100000050480040000060480040000070480040000" +
    "080240640902406420027ffec571c59429cd0845027ffe"
  ]: {
    kind: "parameters",
    parameters: PARAMETERS,
  },
  "f48c67529ef8c7bd05": { kind: "ping", sequence: 5n },
  "f48c67529ef8c7beffffffffffffffff": { kind: "pong", sequence: 2n ** 62n - 1n },
  "3105646772616d": { kind: "datagram", data: bytes("dgram"), frameSize: 7 },
};

for (const [hex, frame] of Object.entries(GOLDEN)) {
  Deno.test(`decodeRecord() reads a frame of another implementation: ${frame.kind} ${hex.slice(0, 20)}`, () => {
    assertEquals(decodeRecord(Uint8Array.fromHex(hex)), [frame]);
  });
}

Deno.test("decodeRecord() reads all frames from one record, and skips padding", () => {
  const record = Uint8Array.fromHex("0000" + Object.keys(GOLDEN).join("00") + "0000");
  assertEquals(decodeRecord(record), Object.values(GOLDEN));
});

Deno.test("decodeRecord() reads STREAM frames with every bit, RFC 9000 section 19.8", () => {
  const data = bytes("ab");
  const cases: Record<string, { offset: number; isFin: boolean }> = {
    "08 04 6162": { offset: NaN, isFin: false },
    "09 04 6162": { offset: NaN, isFin: true },
    "0a 04 02 6162": { offset: NaN, isFin: false },
    "0b 04 02 6162": { offset: NaN, isFin: true },
    "0c 04 4400 6162": { offset: 1024, isFin: false },
    "0d 04 4400 6162": { offset: 1024, isFin: true },
    "0e 04 4400 02 6162": { offset: 1024, isFin: false },
    "0f 04 4400 02 6162": { offset: 1024, isFin: true },
  };
  for (const [hex, rest] of Object.entries(cases)) {
    const record = Uint8Array.fromHex(hex.replaceAll(" ", ""));
    assertEquals(decodeRecord(record), [{ kind: "stream", id: 4, data, ...rest }], hex);
  }
});

Deno.test("decodeRecord() reads a frame without a length up to the end of the record", () => {
  const frames = decodeRecord(Uint8Array.fromHex("124064" + "30" + "124064"));
  assertEquals(frames[1], {
    kind: "datagram",
    data: Uint8Array.fromHex("124064"),
    frameSize: 4,
  });
});

const { frameEncodingError, transportParameterError } = QuicError;

const MALFORMED: Record<string, number> = {
  "0e": frameEncodingError, // The stream ID is missing.
  "0e0400": frameEncodingError,
  "0e04000568656c6c": frameEncodingError, // The length field says five bytes, but there are four.
  "0fc0": frameEncodingError,
  "0f04ffffffffffffffff0101": frameEncodingError, // No stream can be that long.
  "04419007": frameEncodingError,
  "1d519b0566756c6c": frameEncodingError,
  "12d000000000000001": frameEncodingError, // This is 2^60 + 1 streams, which a double rounds.
  "31056467": frameEncodingError,
  "01": frameEncodingError, // This is PING, which QMux does not have.
  "02": frameEncodingError,
  "06": frameEncodingError,
  "18": frameEncodingError,
  "1e": frameEncodingError,
  "24": frameEncodingError,
  "4053": frameEncodingError,
  "f48c67529ef8c7bf05": frameEncodingError,
  "ff5153300d0a0d0a05": frameEncodingError, // The length field promises five bytes of parameters.
  "ff5153300d0a0d0a020401": transportParameterError,
};

for (const [hex, code] of Object.entries(MALFORMED)) {
  Deno.test(`decodeRecord() rejects ${hex} with code ${code}`, () => {
    const error = assertThrows(() => decodeRecord(Uint8Array.fromHex(hex)), QmuxError);
    assertEquals(error.quicCode, code);
  });
}

Deno.test("decodeRecord() rejects more streams than can be counted", () => {
  for (const type of ["12", "13", "16", "17"]) {
    const record = Uint8Array.fromHex(type + "d000000000010000");
    const error = assertThrows(() => decodeRecord(record), QmuxError);
    assertEquals(error.quicCode, frameEncodingError);
    const most = Uint8Array.fromHex(type + "d000000000000000");
    assertEquals(decodeRecord(most).length, 1);
  }
});

Deno.test("RecordWriter writes the same bytes as another implementation", () => {
  const record = new RecordWriter(DEFAULT_MAX_RECORD_SIZE);
  const stream = { bytes: bytes("so bye now"), start: 3, end: 6 };
  record.stream(7, 70_000, stream, true);
  record.stream(3, 300, { bytes: bytes(""), start: 0, end: 0 }, true);
  record.reset(400, 7, 20_000);
  record.control(0x05, 9, 4_000_000_000);
  record.close(10, "grüße", 0);
  record.close(4507, "full");
  record.control(0x10, 1_048_576);
  record.parameters(PARAMETERS_TYPE, PARAMETERS);
  record.ping(PING_TYPE, 5n);
  record.ping(PONG_TYPE, 2n ** 62n - 1n);
  record.datagram(bytes("dgram"));
  const { byteLength } = record;
  const written = record.take();
  assertEquals(written.byteLength, byteLength);
  assertEquals(
    written.toHex(),
    "0f078001117003627965" + "0f03412c00" + "0441900780004e20" + "0509c0000000ee6b2800" +
      "1c0a00076772c3bcc39f65" + "1d519b0466756c6c" + "1080100000" +
      // The default record size is not announced.
      "ff5153300d0a0d0a2a010480007530040480100000050480040000060480040000070480040000" +
      "080240640902406420027ffe" +
      "f48c67529ef8c7bd05" + "f48c67529ef8c7beffffffffffffffff" + "3105646772616d",
  );
  assertEquals(record.byteLength, 0);
});

Deno.test("RecordWriter omits an offset of zero", () => {
  const record = new RecordWriter(DEFAULT_MAX_RECORD_SIZE);
  record.stream(4, 0, { bytes: bytes("hello"), start: 0, end: 5 }, false);
  const written = record.take();
  assertEquals(written.toHex(), "0a040568656c6c6f");
  const [frame] = decodeRecord(written);
  assertEquals(frame, { kind: "stream", id: 4, offset: NaN, data: bytes("hello"), isFin: false });
});

Deno.test("RecordWriter never writes more than its room", () => {
  const payload = new Uint8Array(70_000);
  for (const limit of [16_382, 16_384, 65_536]) {
    for (const id of [0, 63, 64, 16_384, 2 ** 30, 2 ** 40]) {
      for (const offset of [0, 1, 64, 16_384, 2 ** 30, 2 ** 52]) {
        for (const before of [0, 5, 1_000, limit - 16_400, limit - 64]) {
          const record = new RecordWriter(limit);
          for (let i = 0; i + 2 <= before; i += 2) record.control(0x14, 1);
          const end = record.payloadRoom(id, offset);
          record.stream(id, offset, { bytes: payload, start: 0, end }, false);
          assertEquals(record.byteLength <= limit && end > 0, true);
          // It must not write much less either.
          assertEquals(record.room < 4, true, `${record.room} of ${limit} are left`);
        }
      }
    }
  }
});

Deno.test("decodeRecord() uses defaults for missing parameters", () => {
  const [frame] = decodeRecord(Uint8Array.fromHex("ff5153300d0a0d0a00"));
  assertEquals(frame, { kind: "parameters", parameters: DEFAULT_PARAMETERS });
});

Deno.test("transport parameters survive encoding and decoding", () => {
  const parameters = {
    maxIdleTimeoutMs: 0,
    maxData: 2 ** 53 - 1,
    maxStreamDataBidiLocal: 1,
    maxStreamDataBidiRemote: 64,
    maxStreamDataUni: 16_384,
    maxStreamsBidi: 2 ** 30,
    maxStreamsUni: 63,
    maxDatagramFrameSize: 65_535,
    maxRecordSize: 65_536,
  };
  assertEquals(decodeTransportParameters(encodeTransportParameters(parameters)), parameters);
  assertEquals(encodeTransportParameters(DEFAULT_PARAMETERS).byteLength, 0);
});

Deno.test("decodeTransportParameters() ignores unknown parameters, even twice", () => {
  const unknown = "1b03010203" + "1d00" + "c000000000000b0a0100" + "1b00";
  assertEquals(decodeTransportParameters(Uint8Array.fromHex(unknown + "040105")), {
    ...DEFAULT_PARAMETERS,
    maxData: 5,
  });
});

const REJECTED: Record<string, string> = {
  "an ID without a value": "04",
  "a value that is cut off": "0404800000",
  "a value with bytes after the number": "04020500",
  "a value that is shorter than its number": "040180",
  "no value": "0400",
  "a duplicate parameter": "0401050401" + "05",
  "2^62 - 1 streams": "0808ffffffffffffffff",
  "a record below the default": "c571c59429cd0845027ffd",
  "a connection's identifier": "0000",
  "a reset token": "0210" + "00".repeat(16),
  "a size of UDP": "030244b0",
  "the exponent of a delay": "0a0103",
  "a limit of identifiers": "0e0102",
  "another connection's identifier": "1000",
};

for (const [title, hex] of Object.entries(REJECTED)) {
  Deno.test(`decodeTransportParameters() rejects ${title}`, () => {
    const rejected = () => decodeTransportParameters(Uint8Array.fromHex(hex));
    assertEquals(assertThrows(rejected, QmuxError).quicCode, QuicError.transportParameterError);
  });
}
