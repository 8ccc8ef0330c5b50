/** Hints about features that are passed as options of a server. A page does not load this module. */

/** Features that are easily taken for options, each with its call and the entry that exports it. */
const FEATURES: Readonly<Record<string, readonly [call: string, entry: string]>> = {
  api: ["httpApi({ path })", "http-api"],
  durableStreams: ["durableStreams({ path })", "streams"],
  httpApi: ["httpApi({ path })", "http-api"],
  inspector: ["inspector()", "operations"],
  instrumentation: ["otel()", "otel"],
  liveState: ["liveState()", "streams"],
  metrics: ["metrics()", "operations"],
  moq: ["new MoqServer()", "moq"],
  otel: ["otel()", "otel"],
  responses: ["resumable()", "streams"],
  resumable: ["resumable()", "streams"],
};

/**
 * Suggests a feature for an unknown name of an option.
 *
 * @param kinds The known options. Only calls with the option `features` take features.
 * @returns A hint that starts with `; `, or the empty string.
 */
export function featureHint(name: string, kinds: object): string {
  if (!("features" in kinds) || !Object.hasOwn(FEATURES, name)) return "";
  const [call, entry] = FEATURES[name]!;
  return `; use features: [${call}], imported from "@skein/skein/${entry}"`;
}
