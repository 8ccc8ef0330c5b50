/** Durable streams and live state for servers in tests, found again by their server. */
import type { Contract } from "../mod.ts";
import type { Feature, Server } from "../server.ts";
import {
  type DurableStreams,
  durableStreams,
  type DurableStreamsOptions,
  liveState,
  type LiveStates,
  resumable,
  type ResumableOptions,
} from "../streams/mod.ts";

interface Handles {
  readonly streams: DurableStreams;
  readonly states: unknown;
}

const mounted = new WeakMap<object, Handles>();

/**
 * Creates the features of one server. Its handles are found by `streamsOf` and `statesOf`.
 *
 * @param limits Limits of resumable responses.
 * @param states The live states, if they have options.
 */
export function streamFeatures<C extends Contract>(
  options?: DurableStreamsOptions,
  limits?: ResumableOptions,
  states: LiveStates<C> = liveState(),
): readonly Feature[] {
  const streams = durableStreams(options);
  const handles: Feature = {
    name: "handles",
    mount(host) {
      mounted.set(host.core.server, { streams, states });
      return {};
    },
  };
  return [streams, states, handles, ...limits === undefined ? [] : [resumable(limits)]];
}

export function streamsOf(server: object): DurableStreams {
  return mounted.get(server)!.streams;
}

/** Returns the live state of a server, typed by the server's contract. */
export function statesOf<V, C extends Contract>(server: Server<V, C>): LiveStates<C> {
  // Only the types depend on the contract.
  return mounted.get(server)!.states as LiveStates<C>;
}
