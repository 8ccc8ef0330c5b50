/** WebTransport and HTTP as transports that applications pass to `connect`. */
import { platformRuntime } from "../../base/runtime.ts";
import { withLastResort } from "./last_resort.ts";
import type {
  FallBackDialer,
  LoadHttp,
  Transport,
  TransportDialOptions,
  WebTransportLeg,
} from "./options.ts";

/** Creates the transport of a platform from the function that opens WebTransport. */
export function webTransportBy(dial: WebTransportLeg): Transport {
  return {
    name: "webtransport",
    isBuiltIn: true,
    dial: (url, options) => dial(url, { runtime: platformRuntime(), ...options }),
  };
}

/** Creates the transport of a platform, which loads HTTP in its own way. */
export function httpBy(load: LoadHttp): Transport {
  let dialer: FallBackDialer | undefined;
  return {
    name: "http",
    isBuiltIn: true,
    lastResort: (dial, checked) => withLastResort(dial, checked, load),
    async dial(url: URL, options: TransportDialOptions) {
      // The dialer of the other transports is not used, because there are none.
      dialer ??= (await load()).fallBackToHttp(() => Promise.reject(), { transports: [] });
      const { runtime = platformRuntime(), timeoutMs = Infinity, ...rest } = options;
      return await dialer(url, { ...rest, runtime, timeoutMs });
    },
  };
}
