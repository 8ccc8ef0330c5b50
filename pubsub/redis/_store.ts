/** The state that nodes share in Redis. */
import type { Cluster, Redis } from "ioredis";
import { checkName, type Names } from "./_names.ts";
import type { Scripts } from "./_scripts.ts";
import type { BrokerStore, TakenTokens, TokenRate } from "../broker.ts";

/** Runs a command, and turns errors into a `BrokerError`. */
export type Run = <T>(what: string, command: () => Promise<T>) => Promise<T>;

/** The store of a `RedisBroker`. All entries expire. */
export class RedisStore implements BrokerStore {
  readonly #client: Redis | Cluster;
  readonly #scripts: Scripts;
  readonly #names: Names;
  readonly #run: Run;

  constructor(client: Redis | Cluster, scripts: Scripts, names: Names, run: Run) {
    this.#client = client;
    this.#scripts = scripts;
    this.#names = names;
    this.#run = run;
  }

  async advance(key: string, number: number, windowMs: number): Promise<boolean> {
    checkName(key);
    const row = this.#names.row(key);
    return await this.#run(
      "note a number",
      () => this.#scripts.skeinAdvance(row, number, Math.ceil(windowMs)),
    ) ===
      1;
  }

  async newest(key: string): Promise<number> {
    checkName(key);
    const row = this.#names.row(key);
    return Number(await this.#run("read a number", () => this.#client.get(row)) ?? -1);
  }

  async claim(
    scope: string,
    member: string,
    { max, ttlMs }: { readonly max: number; readonly ttlMs: number },
  ): Promise<boolean> {
    checkName(scope);
    const claims = this.#names.claims(scope);
    return await this.#run(
      "claim",
      () => this.#scripts.skeinClaim(claims, member, max, Math.ceil(ttlMs)),
    ) ===
      1;
  }

  async release(scope: string, member: string): Promise<void> {
    checkName(scope);
    await this.#run("release a claim", () => this.#client.zrem(this.#names.claims(scope), member));
  }

  async claims(scope: string): Promise<string[]> {
    checkName(scope);
    return await this.#run(
      "list claims",
      () => this.#scripts.skeinClaims(this.#names.claims(scope)),
    );
  }

  async take(key: string, amount: number, { perSecond, burst }: TokenRate): Promise<TakenTokens> {
    checkName(key);
    const bucket = this.#names.tokens(key);
    const retryAfterMs = Number(
      await this.#run(
        "take tokens",
        () => this.#scripts.skeinTake(bucket, amount, perSecond, burst),
      ),
    );
    return { granted: retryAfterMs === 0, retryAfterMs };
  }
}
