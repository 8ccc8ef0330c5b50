/** Kinds of the options of transports, for the checks of clients and servers. */
import type { OptionKinds } from "../base/options.ts";
import type { FlowControlOptions } from "./connection.ts";
import type { TransportOptions } from "./race/options.ts";

/** Kinds of the options of flow control. */
export const FLOW_CONTROL: OptionKinds<FlowControlOptions> = {
  automatic: "boolean",
  maxData: "number",
  maxStreamData: "number",
  maxStreamsBidi: "number",
  maxStreamsUni: "number",
};

/** Kinds of the options of the transports of a client. */
export const TRANSPORTS: OptionKinds<TransportOptions> = {
  flowControl: FLOW_CONTROL,
  headStartMs: "number",
  serverCertificateHashes: "array",
  transports: "array",
};
