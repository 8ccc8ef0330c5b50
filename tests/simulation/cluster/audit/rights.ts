/** Rights: renewals and moves tell subscriptions of the application from those of the client. */
import type { Subscription } from "../../../../client/subscription.ts";
import { RequestError } from "../../../../errors.ts";
import { pause } from "../../../../base/wait.ts";
import type { Session } from "../../../../session/session.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import { between, oneOf, shuffled } from "../chance.ts";
import { type Audit, outcomeOf } from "./audit.ts";
import { range } from "./history.ts";

/** Calls about one topic: two of the client, a request again, and two of the application. */
const CALLS = ["ask", "leave", "ask again", "add", "remove"] as const;

type Call = typeof CALLS[number];

/** Orders of calls that each audit has, on a topic each. */
const STORIES: readonly (readonly Call[])[] = [
  ["ask"],
  ["add"],
  ["ask", "add"],
  ["add", "ask"],
  ["add", "ask", "add"],
  ["ask", "add", "ask again"],
  ["add", "remove", "ask"],
  ["ask", "remove", "add"],
  ["ask", "add", "leave", "ask"],
  ["add", "add", "remove"],
  ["ask", "add", "remove"],
];

/** Number of topics with calls by chance, and most calls about one. */
const [DRAWN, MAX_CALLS] = [4, 5] as const;

/** Kinds of topics: with a history, without, and rooms. */
const KINDS = ["kept", "talk", "room"] as const;

/** Share of topics whose right a renewal takes. */
const DENIED_SHARE = 0.7;

/** Longest time until a right is known, of which one is drawn, in milliseconds. */
const AUTHORIZE_MS = [0, 200] as const;

/** Time between two publications in each topic, and until a delivery, in milliseconds. */
const [PUBLISH_MS, DELIVERY_MS] = [25, 1_000] as const;

/** Time for messages that should not come, in milliseconds. */
const QUIET_MS = 300;

/** A topic, with the subscriptions by model. */
interface Seat {
  readonly topic: string;
  readonly calls: readonly Call[];
  readonly isDenied: boolean;
  /** Numbers of publications that the client got, in order. */
  readonly got: number[];
  isAsked: boolean;
  isAdded: boolean;
  subscription: Subscription | undefined;
  /** Outcome of the last loop over the subscription. */
  end: string | undefined;
}

/**
 * Subscribes a session from both sides, renews the token without some rights, and moves the client.
 *
 * @param audit The audit.
 */
export async function auditRights(audit: Audit): Promise<void> {
  const rights = new Rights(audit);
  await rights.run();
}

/** A server, and a client whose session has subscriptions of both sides. */
class Rights {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #program: SimulatedServer<{ readonly number: number }>;
  readonly #seats: readonly Seat[];
  /** Newest publication. */
  #count = 0;

  constructor(audit: Audit) {
    this.#audit = audit;
    const random = this.#random = audit.chanceOf("rights");
    const drawn = range(1, DRAWN).map(() =>
      range(1, Math.ceil(MAX_CALLS * random())).map(() => oneOf(random, CALLS))
    );
    this.#seats = [...STORIES, ...drawn].map((calls, i) => ({
      topic: `${oneOf(random, KINDS)}:${i}`,
      calls,
      isDenied: random() < DENIED_SHARE,
      got: [],
      isAsked: false,
      isAdded: false,
      subscription: undefined,
      end: undefined,
    }));
    const host = audit.host("rights");
    const authorizeMs = oneOf(random, AUTHORIZE_MS);
    this.#program = new SimulatedServer(audit.network, host, () => ({
      allowTokenMessage: true,
      authenticate: ({ token }) => ({ number: Number(token) }),
      userOf: () => "rights-user",
      authorize: async ({ value }, topic) => {
        await pause(host.runtime, authorizeMs * random());
        const isDenied = this.#seats.some((seat) => seat.topic === topic && seat.isDenied);
        if (value.number === 0 || !isDenied) return true;
        if (random() < 0.5) throw new RequestError("forbidden", "No longer");
        return false;
      },
      history: { "kept:{name}": {} },
      rooms: ["room:{name}"],
      onOpen: (session) => {
        for (const seat of this.#seats) if (seat.isAdded) this.#add(session, seat.topic, false);
      },
      onError() {},
    }));
  }

  async run(): Promise<void> {
    const audit = this.#audit;
    const { server, host } = this.#program;
    let token = 0;
    const client = audit.connect("rights-client", host, {
      token: () => `${token}`,
      onMessage: ({ topic, data }) => {
        // Those before the request in a session come to no subscription, and come again.
        const seat = this.#seats.find((one) => one.topic === topic);
        if (!seat?.isAsked) seat?.got.push(data as number);
      },
      onError() {},
    });
    await audit.meet(client, server);
    for (const seat of this.#seats) {
      for (const call of seat.calls) {
        const [session] = server.manager.all() as [Session];
        await this.#call(call, seat, session, () => this.#ask(client.subscribe(seat.topic), seat));
      }
    }
    await audit.pause(QUIET_MS);
    this.#compare("the calls");
    const events = shuffled(this.#random, ["renewal", "move"] as const);
    for (const event of events) {
      if (event === "renewal") {
        await client.session!.authenticate(`${++token}`);
        for (const seat of this.#seats) {
          if (!seat.isDenied || !seat.isAsked || seat.isAdded) continue;
          seat.isAsked = false;
          await audit.until(() => seat.end !== undefined, DELIVERY_MS);
          this.#expect(`end of ${shown(seat)} at a renewal`, "forbidden", seat.end);
        }
      } else {
        // The client asks in the new session for all topics, by the present token.
        const denied = this.#seats.filter(({ isAsked, isDenied }) =>
          token > 0 && isAsked && isDenied
        );
        for (const seat of denied) seat.isAsked = false;
        await this.#move(() => client.handOver());
        await audit.until(() => denied.every(({ end }) => end !== undefined), DELIVERY_MS);
      }
      await audit.pause(QUIET_MS);
      this.#compare(`a ${event}, of ${events.join(" and ")}`);
    }
    await client.close();
    await audit.until(() => server.topics.size === 0);
    this.#expect("topics behind the end", 0, server.topics.size);
    await server.close();
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("expiry", `rights: ${what}`, expected, received);
  }

  /** Subscribes a session on behalf of the application, or again as the client did. */
  #add(session: Session, topic: string, isRequested: boolean): void {
    const { rooms, topics } = this.#program.server;
    const isJoin = topic.startsWith("room:") && !rooms.isMember(session, topic);
    if (isJoin) rooms.enter(session, topic, { isRequested });
    else topics.join(session, topic, { isRequested });
  }

  /** Makes a call that makes sense, and waits for the effect. */
  async #call(call: Call, seat: Seat, session: Session, ask: () => Subscription): Promise<void> {
    const { subscription } = seat;
    const isOpen = subscription !== undefined && seat.end === undefined;
    if (call === "ask" && !isOpen) {
      seat.subscription = ask();
      await this.#audit.until(() => seat.subscription!.status.current === "subscribed");
      seat.isAsked = true;
    } else if (call === "ask again" && isOpen) this.#add(session, seat.topic, true);
    else if (call === "add") {
      this.#add(session, seat.topic, false);
      seat.isAdded = true;
    } else if (call === "leave" && isOpen) {
      await subscription.unsubscribe();
      seat.isAsked = seat.isAdded = false;
      await this.#audit.until(() => seat.end !== undefined, DELIVERY_MS);
    } else if (call === "remove") {
      this.#program.server.topics.unsubscribe(session, seat.topic);
      seat.isAsked = seat.isAdded = false;
      if (!isOpen) return;
      await this.#audit.until(() => seat.end !== undefined, DELIVERY_MS);
      this.#expect(`end of ${shown(seat)} by the application`, "removed", seat.end);
    }
  }

  #ask(subscription: Subscription, seat: Seat): Subscription {
    seat.end = undefined;
    const hear = async () => {
      for await (const { data } of subscription) seat.got.push(data as number);
    };
    void outcomeOf(hear()).then((outcome) => seat.end = outcome);
    return subscription;
  }

  /** Moves the client while publications come, each of which belongs to one of the sessions. */
  async #move(handOver: () => Promise<boolean>): Promise<void> {
    const audit = this.#audit;
    const { server } = this.#program;
    const first = this.#count + 1;
    for (const { got } of this.#seats) got.length = 0;
    let isOver = false;
    const moving = handOver().finally(() => isOver = true);
    const publish = () => {
      this.#count++;
      for (const { topic } of this.#seats) server.publish(topic, this.#count);
    };
    while (!isOver) {
      publish();
      await audit.pause(PUBLISH_MS * between(this.#random, 0.5, 1.5));
    }
    this.#expect("outcome of a move", true, await moving);
    const isAlone = await audit.until(() => server.manager.count === 1);
    this.#expect("one session behind a move", true, isAlone);
    const asked = this.#seats.filter(({ isAsked }) => isAsked);
    publish();
    await audit.until(() => asked.every(({ got }) => got.at(-1) === this.#count), DELIVERY_MS);
    await audit.pause(QUIET_MS);
    for (const seat of this.#seats) {
      const twice = seat.got.filter((n, i) => seat.got.indexOf(n) !== i);
      this.#expect(`publications that came twice in ${shown(seat)}`, [], twice);
      const isWhole = seat.isAsked && (!seat.isAdded || seat.topic.startsWith("kept:"));
      if (!isWhole) continue;
      this.#expect(`publications of a move in ${shown(seat)}`, range(first, this.#count), seat.got);
    }
  }

  /** Compares the subscriptions of the only session with the model. */
  #compare(behind: string): void {
    const { topics, rooms, manager } = this.#program.server;
    const [session] = manager.all() as [Session];
    const requested = topics.requestedBy(session);
    for (const seat of this.#seats) {
      const { topic, isAsked, isAdded } = seat;
      const isOpen = seat.subscription !== undefined && seat.end === undefined;
      this.#expect(
        `subscribed, requested alone, and open, of ${shown(seat)} behind ${behind}`,
        [isAsked || isAdded, isAsked && !isAdded, isAsked],
        [topics.has(session, topic), requested.includes(topic), isOpen],
      );
      if (!topic.startsWith("room:")) continue;
      const isMember = rooms.isMember(session, topic);
      this.#expect(`member of ${shown(seat)} behind ${behind}`, isAsked || isAdded, isMember);
    }
  }
}

function shown({ topic, calls, isDenied }: Seat): string {
  return `${topic} (${calls.join(", ")}${isDenied ? "; to be denied" : ""})`;
}
