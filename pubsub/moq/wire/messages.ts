/**
 * The messages of MoQ: moq-lite's drafts 01 to 05 and gomoqt's own, each with the fields in the
 * order of the version. A length precedes every message: encoders write that length, decoders get
 * the body after the length.
 *
 * Numbers have up to 62 bits on the wire and 53 here. Where a larger number only means "no limit",
 * such as a latency, decoders return the largest one; elsewhere decoders refuse the message.
 *
 * @see {@link https://datatracker.ietf.org/doc/draft-lcurley-moq-lite/ | Media over QUIC - Lite}
 * @see {@link https://datatracker.ietf.org/doc/draft-ietf-moq-transport/14/ | Media over QUIC Transport, draft 14}, for SETUP
 *
 * @module
 */
export {
  type AnnounceInterest,
  type AnnounceMessage,
  type AnnounceOk,
  decodeAnnounce,
  decodeAnnounceInit,
  decodeAnnounceInterest,
  decodeAnnounceOk,
  encodeAnnounce,
  encodeAnnounceInit,
  encodeAnnounceInterest,
  encodeAnnounceOk,
  MAX_HOPS,
} from "./announce_messages.ts";
export {
  decodeFetch,
  decodeGoaway,
  decodeGroupHeader,
  decodeProbe,
  decodeTrackInfo,
  decodeTrackRequest,
  encodeFetch,
  encodeGoaway,
  encodeGroupHead,
  encodeProbe,
  encodeTrackInfo,
  encodeTrackRequest,
  type FetchMessage,
  type GroupHeader,
  type ProbeMessage,
  type TrackInfoMessage,
  type TrackRequest,
} from "./request_messages.ts";
export {
  type ClientSetup,
  decodeClientSetup,
  decodeServerSetup,
  decodeSessionUpdate,
  decodeSetupStream,
  encodeClientSetup,
  encodeServerSetup,
  encodeSessionUpdate,
  encodeSetupStream,
  MAX_PARAMETERS,
  type MoqParameters,
  type ServerSetup,
} from "./setup_messages.ts";
export {
  BidiType,
  MAX_ANNOUNCE_INIT_BYTES,
  MAX_MESSAGE_BYTES,
  SERVER_SETUP,
  UniType,
} from "./stream_types.ts";
export {
  decodeSubscribe,
  decodeSubscribeResponse,
  decodeSubscribeUpdate,
  encodeSubscribe,
  encodeSubscribeResponse,
  encodeSubscribeUpdate,
  hasResponseType,
  type SubscribeFields,
  type SubscribeMessage,
  type SubscribeResponse,
} from "./subscribe_messages.ts";
