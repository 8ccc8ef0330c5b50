/** Connects to a URL, with a client that reconnects. */
import { platformRuntime } from "../../../base/runtime.ts";
import { MoqClient } from "./client.ts";
import type { MoqClientSettings } from "./client_options.ts";
import { dialMoq, type DialMoqOptions } from "./dial.ts";

/** Options for {@linkcode connectMoq}. */
export interface ConnectMoqOptions
  extends MoqClientSettings, Omit<DialMoqOptions, "mux" | "signal" | "timeoutMs"> {}

/**
 * Connects to a server, and keeps a session with that server.
 *
 * @param url The URL, as for {@linkcode dialMoq}; a function is called for each attempt, for a
 * fresh token.
 * @param options See {@linkcode ConnectMoqOptions}.
 * @returns The client, which starts to connect at once.
 * @throws {RangeError} If a time or a limit is out of range.
 *
 * @example Usage
 * ```ts
 * import { connectMoq, listenMoq, TrackMux } from "@skein/skein/moq";
 * import { assertEquals } from "@std/assert";
 *
 * const mux = new TrackMux();
 * mux.publish("/clock", async (track) => {
 *   const group = await track.openGroup();
 *   await group.writeFrame(new TextEncoder().encode("12:00"));
 *   await group.close();
 * });
 * await using server = listenMoq({
 *   hostname: "127.0.0.1",
 *   mux,
 *   authorize: (_session, _path, action) => action !== "publish",
 * });
 *
 * await using client = connectMoq(server.url, {
 *   serverCertificateHashes: server.certificateHashes,
 * });
 * const group = await client.subscribe("/clock", "seconds").nextGroup();
 * assertEquals(new TextDecoder().decode(await group?.readFrame() ?? undefined), "12:00");
 * ```
 */
export function connectMoq(
  url: string | URL | (() => string | URL | Promise<string | URL>),
  options: ConnectMoqOptions = {},
): MoqClient {
  const { mux, retry, connectTimeoutMs = 10_000, allowMigration, signal, ...rest } = options;
  const { runtime = platformRuntime(), onSession, ...dialOptions } = rest;
  let last = typeof url === "function" ? undefined : url;
  return new MoqClient({
    runtime,
    connectTimeoutMs,
    ...(mux && { mux }),
    ...(retry && { retry }),
    ...(allowMigration && { allowMigration }),
    ...(onSession && { onSession }),
    ...(signal && { signal }),
    url: () => last,
    async dial(signal, { mux, uri }) {
      if (uri === undefined && typeof url === "function") last = await url();
      return await dialMoq(uri ?? last!, {
        ...dialOptions,
        runtime,
        mux,
        signal,
        timeoutMs: connectTimeoutMs,
      });
    },
  });
}
