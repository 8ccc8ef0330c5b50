/** The parts that the features of this wing share on one server. */
import type { FeatureHost, Mounted } from "../server/feature.ts";
import { responseLimits, streamSettings } from "./options.ts";
import { StreamParts } from "./parts.ts";
import type { StateMigrations } from "./state/migrations.ts";
import type { ServedMutations } from "./state/mutations.ts";
import type { OnOpen } from "./state/unwritten.ts";
import { StreamTopics } from "./stream_topics.ts";
import { mutationInputs } from "../session/mutations/mutations.ts";
import type { DescribedMutations } from "../server/http/described_mutations.ts";
import { compileStates } from "../session/state_schemas.ts";
import { EPHEMERAL_PREFIX } from "../session/wire/rows.ts";
import { STREAM_PREFIX } from "../session/wire/recovery.ts";

/**
 * Durable streams, live state and resumable responses of one server: they use the same streams. The
 * parts are created once all features have been mounted, so that their order does not matter.
 */
export class SharedStreams {
  /** Settings of the streams, from `durableStreams()`. */
  settings = streamSettings();
  /** Limits of resumable responses, from `resumable()`. */
  responses = responseLimits();
  /** The migrations of states, from `liveState()`. */
  migrations: StateMigrations | undefined;
  /** Returns the rows of new states, from `liveState()`. */
  onOpen: OnOpen | undefined;
  /** The mutations of states, from `liveState()`. */
  mutations: ServedMutations | undefined;
  readonly #host: FeatureHost;
  #parts: StreamParts | undefined;
  #isMounted = false;

  /** Use {@linkcode SharedStreams.of}. */
  constructor(host: FeatureHost) {
    this.#host = host;
  }

  /**
   * Returns what the features of a server share.
   *
   * @param host The server.
   */
  static of(host: FeatureHost): SharedStreams {
    return host.share(SharedStreams, () => new SharedStreams(host));
  }

  /** The parts; created on the first use. */
  get parts(): StreamParts {
    return this.#parts ??= new StreamParts(this.#host, this);
  }

  /** Returns the schemas of the mutations' inputs, by pattern of the states and by name. */
  mutationInputs(): readonly Pick<DescribedMutations, "inputs" | "pattern">[] {
    const { contract } = this.#host;
    if (this.mutations === undefined || contract === undefined) return [];
    const all = mutationInputs(contract);
    const routes = compileStates(contract);
    return Object.keys(contract.definition.state ?? {}).flatMap((pattern) => {
      // A pattern fits itself.
      const names = Object.keys(routes?.match(pattern)?.mutations ?? {});
      const inputs = new Map(names.map((name) => [name, all.get(name)!]));
      return names.length === 0 ? [] : [{ pattern, inputs }];
    });
  }

  /**
   * Returns the additions of all features of this wing. The feature that is mounted first adds them;
   * the others add nothing.
   */
  mount(): Mounted {
    if (this.#isMounted) return {};
    this.#isMounted = true;
    const { nodes, topics } = this.#host;
    return {
      topics: new StreamTopics(this.#host, this),
      streams: {
        activity: () => this.parts.streams.activity(),
        info: (id) => this.parts.streams.info(id),
      },
      started: () => void this.parts,
      unsubscribed(session, topic, options) {
        if (!topic.startsWith(STREAM_PREFIX)) return false;
        const rows = EPHEMERAL_PREFIX + topic.slice(STREAM_PREFIX.length);
        return topics.unsubscribe(session, rows, options);
      },
      drain: ({ withinMs, signal }) => {
        const hasOthers = (nodes?.size ?? 0) > 0;
        return this.parts.responses.drain({ hasOthers, withinMs, signal });
      },
      close: () => this.parts.close(),
    };
  }
}
