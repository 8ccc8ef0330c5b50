/**
 * Checks that the library uses time and randomness from the node's `Runtime`, not from the
 * platform's globals.
 *
 * ```sh
 * deno run -A tools/globals.ts
 * ```
 *
 * @module
 */
import { isLibrary, readRepository, type Repository, type Violation } from "./arrows.ts";
import { codeOf, lineAt } from "./_source.ts";

/** Files and folders that may use the globals. */
const PLATFORM: readonly string[] = [
  "base/runtime.ts",
  // Test brokers and stores from the outside, in real time.
  "client/store/conformance/",
  "pubsub/conformance/",
  "streams/conformance/",
];

/** Public entries, which use the platform's runtime unless the options contain another one. */
const ENTRIES: ReadonlySet<string> = new Set([
  "cli/load/worker.ts",
  "cli/main.ts",
  "client/new_id.ts",
  "client/page/chunk_insight.ts",
  "client/client.ts",
  "client/connect.ts",
  "client/react/react.ts",
  "client/store/indexeddb.ts",
  "manager/session_manager.ts",
  "pubsub/memory/broker.ts",
  "moq/client/client.ts",
  "moq/client/dial.ts",
  "moq/live/live_track.ts",
  "moq/live/relay.ts",
  "moq/server/server.ts",
  "moq/session/bitrate_monitor.ts",
  "moq/session/session.ts",
  "moq/track/mux.ts",
  "brokers/nats/options.ts",
  "pubsub/nodes/nodes.ts",
  "pubsub/presence/presence.ts",
  "brokers/redis/options.ts",
  "brokers/sqlite/options.ts",
  "pubsub/topics.ts",
  "streams/http/handler.ts",
  "operations/inspector/inspector.ts",
  "server/admission/jwt.ts",
  "server/server.ts",
  "server/workers/worker_node.ts",
  "server/workers/workers.ts",
  "session/settings/session_settings.ts",
  "operations/otel/otel.ts",
  "testing/test_server.ts",
  "testing/turns.ts",
  "transport/certificate/dev_certificate.ts",
  "transport/h3/client.ts",
  "transport/h3/server.ts",
  "transport/hardened/engine.ts",
  "transport/memory/memory.ts",
  "transport/message_stream/server.ts",
  "transport/native/accept.ts",
  "transport/native/client.ts",
  "transport/native/server.ts",
  "transport/quic/client.ts",
  "transport/quic/server.ts",
  "transport/race/built_in.ts",
  "transport/race/race.ts",
  "transport/w3c/options.ts",
  "transport/websocket/client.ts",
  "transport/websocket/server.ts",
  "transport/websocket/value.ts",
]);

/** Files and folders that generate secrets for real connections. */
const REAL_CONNECTIONS: readonly string[] = ["cli/", "transport/certificate/x509.ts"];

const SECRETS = /\bcrypto\.getRandomValues\b/g;
const PLATFORM_RUNTIME = /\bplatformRuntime\(/g;

/** Globals that read a clock, start a timer or draw a random number, each with its replacement. */
const FORBIDDEN: readonly (readonly [RegExp, string])[] = [
  [/\bDate\.now\b|\bnew Date\(\s*\)/g, "now()"],
  [/\bperformance\.now\b/g, "monotonic()"],
  [/(?<![\w.#])set(?:Timeout|Interval)\(/g, "setTimeout()"],
  [/(?<![\w.#])clear(?:Timeout|Interval)\(/g, "clearTimeout()"],
  [/(?<![\w.#])setImmediate\b|\bnew MessageChannel\b/g, "schedule()"],
  [/\bMath\.random\b/g, "random()"],
  [/\bcrypto\.randomUUID\b/g, "randomUUID()"],
  [SECRETS, "getRandomValues()"],
  [/\bAbortSignal\.timeout\b/g, "setTimeout()"],
  [PLATFORM_RUNTIME, "a runtime that is passed in"],
];

/**
 * Finds where the library uses the platform's globals.
 *
 * @param repository The files, as returned by `readRepository()` in `arrows.ts`.
 * @returns A violation for each use, with the replacement.
 */
export function checkGlobals({ files }: Repository): Violation[] {
  const violations: Violation[] = [];
  for (const [path, source] of files) {
    if (!isLibrary(path) || PLATFORM.some((prefix) => path.startsWith(prefix))) continue;
    const code = codeOf(source);
    for (const [pattern, instead] of FORBIDDEN) {
      if (pattern === PLATFORM_RUNTIME && ENTRIES.has(path)) continue;
      if (pattern === SECRETS && REAL_CONNECTIONS.some((prefix) => path.startsWith(prefix))) {
        continue;
      }
      for (const { 0: found, index } of code.matchAll(pattern)) {
        const message = `time and chance come from the runtime: ${instead}, received ${found}`;
        violations.push({ path, line: lineAt(code, index), message });
      }
    }
  }
  return violations;
}

if (import.meta.main) {
  const violations = checkGlobals(await readRepository(new URL("../", import.meta.url)));
  for (const { path, line, message } of violations) console.error(`${path}:${line} ${message}`);
  console.log(`${violations.length} uses of the platform's time and chance`);
  Deno.exit(violations.length === 0 ? 0 : 1);
}
