/** The quota of a listener's connections. */
import { type Quota, quotaIn, type Quotas, sharesOf } from "../base/quotas/shares.ts";

/**
 * The share of all connections that one address may use by default, once more than half of them are
 * in use.
 */
const DEFAULT_SHARE = 0.1;

/** The smallest default share, for listeners with few connections. */
const LEAST_SHARE = 1_000;

/** The options of {@linkcode connectionQuota}. */
export interface ConnectionQuotaOptions {
  /** The name for counters. */
  readonly name: string;
  readonly maxConnections: number;
  /**
   * The maximum for one address, which always applies. With `undefined`, the default share applies.
   */
  readonly maxConnectionsPerAddress: number | undefined;
  /** Additional connections, in total and for one address. */
  readonly more?: readonly [all: number, ofAddress: number] | undefined;
  /** All quotas of the server, if there is a server. */
  readonly quotas: Quotas | undefined;
}

/**
 * Creates the quota of a listener's connections. By default, once more than half of the connections
 * are in use, an address may use a tenth of all connections, but at least 1,000.
 */
export function connectionQuota(options: ConnectionQuotaOptions): Quota {
  const { name, maxConnections, maxConnectionsPerAddress, more = [0, 0], quotas } = options;
  const set = maxConnectionsPerAddress === undefined
    ? undefined
    : maxConnectionsPerAddress + more[1];
  const share = Math.max(LEAST_SHARE, Math.floor(maxConnections * DEFAULT_SHARE));
  return quotaIn(quotas, {
    limit: "maxConnections",
    name,
    shareLimits: { address: "maxConnectionsPerAddress" },
    verb: "connect",
    what: "connections",
    max: maxConnections + more[0],
    ...sharesOf({ address: set }, { address: share + more[1] }),
  });
}
