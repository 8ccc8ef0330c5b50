/**
 * What nodes share beside publications: small facts that must hold on all of
 * them at once.
 *
 * @module
 */

/** How fast tokens come, and how many can be saved up. */
export interface TokenRate {
  /** Tokens that come each second. */
  readonly perSecond: number;
  /** Tokens that can be saved up. */
  readonly burst: number;
}

/** What {@linkcode BrokerStore.take} answers. */
export interface TakenTokens {
  /** Whether the tokens were taken: all of them or none. */
  readonly granted: boolean;
  /** When there will be enough, in milliseconds; 0 if they were granted. */
  readonly retryAfterMs: number;
}

/**
 * Facts that hold on all nodes. Every operation MUST be atomic in the engine, MUST reject with a
 * `BrokerError` while that is away, and MUST reject with a `RangeError` for a key or scope that the
 * engine cannot take.
 */
export interface BrokerStore {
  /**
   * Notes the newest number of a row, such as what a client said last.
   *
   * @param key The row.
   * @param number The number, a whole one from 0.
   * @param windowMs How long it is remembered at least.
   * @returns Whether it is above the number that was noted, and noted now.
   */
  advance(key: string, number: number, windowMs: number): Promise<boolean>;
  /**
   * Reads the newest number of a row.
   *
   * @param key The row.
   * @returns The number; -1 if none is remembered.
   */
  newest(key: string): Promise<number>;
  /**
   * Claims a place in a scope, or renews the claim.
   *
   * @param scope The scope, such as a user.
   * @param member Who claims, such as a session; unique over all nodes.
   * @param options Most members of the scope, and how long the claim holds without being renewed.
   * @returns Whether the place is claimed; `false` if there were as many members already.
   */
  claim(
    scope: string,
    member: string,
    options: { readonly max: number; readonly ttlMs: number },
  ): Promise<boolean>;
  /**
   * Gives up a claim. Idempotent.
   *
   * @param scope The scope.
   * @param member Who claimed.
   */
  release(scope: string, member: string): Promise<void>;
  /**
   * Lists who holds a claim.
   *
   * @param scope The scope.
   * @returns The members.
   */
  claims(scope: string): Promise<string[]>;
  /**
   * Takes tokens from a bucket, which begins full; engines that can not do that fast leave it out.
   *
   * @param key The bucket.
   * @param amount How many.
   * @param rate How fast they come.
   * @returns Whether there were enough.
   */
  take?(key: string, amount: number, rate: TokenRate): Promise<TakenTokens>;
}
