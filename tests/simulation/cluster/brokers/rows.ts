/**
 * Numbers and claims that programs keep in a broker's store, compared with the outcomes of their
 * calls.
 */
import { BrokerError } from "../../../../errors.ts";
import type { BrokerStore } from "../../../../pubsub/broker.ts";

/** Maximum number of violations that are reported. */
const MAX_TOLD = 3;

/** Time for which a number or a claim is valid, in milliseconds. It is longer than a trial. */
const HOLDS_MS = 1_800_000;

/** Maximum number of members in the scope, and number of claiming members per broker. */
const [MAX_MEMBERS, ASKING] = [3, 3] as const;

/** A member of the scope. */
interface Member {
  readonly name: string;
  /**
   * The state is `unknown` from a failed call until the next comparison, because the store may
   * have run the call.
   */
  state: "in" | "out" | "unknown";
  /** True while a call is pending. */
  isAsking: boolean;
  /** The number of the last call that started or ended. */
  touched: number;
}

/** The number and the claims of one trial. */
export class Rows {
  /** Pending calls. */
  underWay = 0;
  readonly #complaints: string[] = [];
  /** Members by broker and number. */
  readonly #members = new Map<string, Member>();
  /** Number of times that the store lost all rows. */
  #era = 0;
  #events = 0;
  /**
   * The last number that any call used, the largest number of the era, and the largest number that
   * is certainly stored.
   */
  #last = 0;
  #tried = -1;
  #noted = -1;

  /** Starts again with no rows, because the store has lost all of them. */
  forget(): void {
    this.#era++;
    this.#members.clear();
    [this.#tried, this.#noted] = [-1, -1];
  }

  /**
   * Makes a call and compares its outcome when it arrives.
   *
   * @param by Number of the broker.
   * @param draw Random number in [0, 1) that selects the operation.
   */
  call(by: number, store: BrokerStore, draw: number): void {
    if (draw < 0.3) this.#advance(store, ++this.#last, true);
    else if (draw < 0.4) this.#advance(store, this.#noted, false);
    else {
      const member = this.#member(`${by}-${Math.floor(draw * 1_000) % ASKING}`);
      if (member.isAsking || member.state === "unknown") return;
      if (draw < 0.8) this.#claim(store, member);
      else this.#release(store, member);
    }
  }

  /** Makes the only member of a scope leave while a member at another broker joins. */
  async handOver([one, other]: readonly BrokerStore[]): Promise<void> {
    const scope = `handed-over-${++this.#events}`;
    const options = { max: 2, ttlMs: HOLDS_MS };
    try {
      await one!.claim(scope, "leaves", options);
      await Promise.all([
        one!.release(scope, "leaves"),
        other!.claim(scope, "comes", options),
      ]);
      const left = await one!.claims(scope);
      if (`${left}` !== "comes") this.#complain(`claims of a scope that one took over: ${left}`);
    } catch (error) {
      this.#complain(`a claim is not handed over: ${error}`);
    }
  }

  /**
   * Compares the rows with the outcomes of all calls. Call this once no call is pending.
   *
   * @returns The differences so far. The array is empty if there are none.
   */
  async compare(stores: readonly BrokerStore[]): Promise<string> {
    for (const [by, store] of stores.entries()) {
      const at = `at broker ${by}`;
      try {
        const newest = await store.newest(this.#numbers, HOLDS_MS);
        if (newest < this.#noted || newest > this.#tried) {
          this.#complain(`number ${newest} ${at}, of ${this.#noted} to ${this.#tried}`);
        }
        const listed = await store.claims(this.#scope);
        this.#compareClaims(listed, at);
      } catch (error) {
        this.#complain(`a read ${at} failed: ${error}`);
      }
    }
    return this.#complaints.slice(0, MAX_TOLD).join("; ");
  }

  get #numbers(): string {
    return `numbers-${this.#era}`;
  }

  get #scope(): string {
    return `places-${this.#era}`;
  }

  #complain(text: string): void {
    this.#complaints.push(text);
  }

  #member(name: string): Member {
    const known = this.#members.get(name);
    if (known !== undefined) return known;
    const member: Member = { name, state: "out", isAsking: false, touched: 0 };
    this.#members.set(name, member);
    return member;
  }

  #compareClaims(listed: readonly string[], at: string): void {
    if (listed.length > MAX_MEMBERS) this.#complain(`${listed.length} claims ${at}`);
    for (const member of this.#members.values()) {
      const state = listed.includes(member.name) ? "in" : "out";
      if (member.state === "unknown") member.state = state;
      else if (member.state !== state) {
        this.#complain(`${member.name} is ${state} ${at}, and should be ${member.state}`);
      }
    }
  }

  /** Runs a call and passes on its outcome, unless the store has lost all rows in the meantime. */
  #run<T>(call: Promise<T>, hear: (result: T | undefined) => void): void {
    const era = this.#era;
    this.underWay++;
    const settle = (result: T | undefined, error?: unknown) => {
      this.underWay--;
      if (error !== undefined && !(error instanceof BrokerError)) {
        this.#complain(`a call failed with ${error}`);
      }
      if (era === this.#era) hear(result);
    };
    call.then((result) => settle(result), (error) => settle(undefined, error));
  }

  /** Stores a number. It is new unless a call with a larger number started earlier. */
  #advance(store: BrokerStore, number: number, isNew: boolean): void {
    if (number < 0) return;
    this.#tried = Math.max(this.#tried, number);
    this.#run(store.advance(this.#numbers, number, HOLDS_MS), (result) => {
      if (result === undefined) return;
      if (result && !isNew) this.#complain(`number ${number} is new twice`);
      if (!result && isNew && this.#tried === number) this.#complain(`number ${number} is old`);
      if (result) this.#noted = Math.max(this.#noted, number);
    });
  }

  /** Claims a slot, or renews the claim. */
  #claim(store: BrokerStore, member: Member): void {
    const before = member.state;
    const begin = this.#begin(member);
    const options = { max: MAX_MEMBERS, ttlMs: HOLDS_MS };
    this.#run(store.claim(this.#scope, member.name, options), (isIn) => {
      const others = [...this.#members.values()].filter((other) => other !== member);
      const isSure = ({ isAsking, touched, state }: Member, sure: Member["state"]) =>
        !isAsking && touched < begin && state === sure;
      const surelyIn = others.filter((other) => isSure(other, "in")).length;
      const surelyOut = others.filter((other) => isSure(other, "out")).length;
      if (isIn && before === "out" && surelyIn >= MAX_MEMBERS) {
        this.#complain(`${member.name} got a slot in a full scope`);
      }
      if (isIn === false && (before === "in" || others.length - surelyOut < MAX_MEMBERS)) {
        this.#complain(`${member.name} got no place`);
      }
      this.#end(member, isIn === undefined ? "unknown" : isIn ? "in" : "out");
    });
  }

  /** Releases a slot. */
  #release(store: BrokerStore, member: Member): void {
    this.#begin(member);
    const released = store.release(this.#scope, member.name).then(() => true);
    this.#run(released, (isOut) => this.#end(member, isOut ? "out" : "unknown"));
  }

  #begin(member: Member): number {
    member.isAsking = true;
    return member.touched = ++this.#events;
  }

  #end(member: Member, state: Member["state"]): void {
    member.isAsking = false;
    member.touched = ++this.#events;
    member.state = state;
  }
}
