import { assertEquals, assertThrows } from "@std/assert";
import {
  decodeTransportParameters,
  DEFAULT_PARAMETERS,
  encodeTransportParameters,
  QmuxError,
  QuicError,
} from "./frames.ts";

Deno.test("transport parameters survive the way there and back", () => {
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

Deno.test("decodeTransportParameters() ignores what it does not know, even twice", () => {
  const unknown = "1b03010203" + "1d00" + "c000000000000b0a0100" + "1b00";
  assertEquals(decodeTransportParameters(Uint8Array.fromHex(unknown + "040105")), {
    ...DEFAULT_PARAMETERS,
    maxData: 5,
  });
});

const REFUSED: Record<string, string> = {
  "an identifier alone": "04",
  "a value that is cut": "0404800000",
  "a value that is longer than its number": "04020500",
  "a value that is shorter than its number": "040180",
  "no value": "0400",
  "one that came twice": "0401050401" + "05",
  "2^62 - 1 streams": "0808ffffffffffffffff",
  "a record below the default": "c571c59429cd0845027ffd",
  "a connection's identifier": "0000",
  "a reset token": "0210" + "00".repeat(16),
  "a size of UDP": "030244b0",
  "the exponent of a delay": "0a0103",
  "a limit of identifiers": "0e0102",
  "another connection's identifier": "1000",
};

for (const [title, hex] of Object.entries(REFUSED)) {
  Deno.test(`decodeTransportParameters() refuses ${title}`, () => {
    const refused = () => decodeTransportParameters(Uint8Array.fromHex(hex));
    assertEquals(assertThrows(refused, QmuxError).quicCode, QuicError.transportParameterError);
  });
}
