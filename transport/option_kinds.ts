/** The kinds of the transport options, for the checks of clients and servers. */
import { COUNT, LIMIT, TIME } from "../base/options/option_checks.ts";
import type { OptionKinds } from "../base/options/options.ts";
import type { DevCertificate } from "./certificate/dev_certificate.ts";
import type { FlowControlOptions } from "./connection.ts";
import type { UnreadStreamLimits } from "./quic/unread_streams.ts";
import type { TransportOptions } from "./race/options.ts";

export const FLOW_CONTROL: OptionKinds<FlowControlOptions> = {
  automatic: "boolean",
  maxData: COUNT,
  maxStreamData: COUNT,
  maxStreamsBidi: COUNT,
  maxStreamsUni: COUNT,
};

/** The kinds of the limits for streams that the application does not read. */
export const UNREAD_STREAMS: OptionKinds<UnreadStreamLimits> = {
  maxBytes: LIMIT,
  maxBytesPerAddress: LIMIT,
  maxBytesPerConnection: LIMIT,
  timeoutMs: LIMIT,
};

/** The kinds of a certificate with its key. Options accept the result of `devCertificate()`. */
export const CERTIFICATE = {
  cert: "string",
  file: 0,
  hashes: 0,
  key: "string",
  names: 0,
  notAfter: 0,
  notBefore: 0,
  renewAt: 0,
} as const satisfies { readonly [K in keyof DevCertificate]: 0 | "string" };

export const TRANSPORTS: OptionKinds<TransportOptions> = {
  flowControl: FLOW_CONTROL,
  headStartMs: TIME,
  serverCertificateHashes: "array",
  transports: "array",
};
