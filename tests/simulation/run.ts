/** Runs plans. */
import { Cluster, type ClusterOptions } from "./cluster/cluster.ts";
import { Heap } from "./cluster/growth/heap.ts";
import { takeConsole } from "./cluster/console.ts";
import { hasGrown } from "./cluster/growth/growing.ts";
import { VISIT_MS } from "./cluster/growth/visits.ts";
import { Faults } from "./cluster/faults.ts";
import type { Outcome, Plan } from "./plan.ts";

/** Time after the last fault within which a cluster must settle, in milliseconds. */
const SETTLE_MS = 130_000;

/** Time after the last fault within which brokers and nodes reconnect, in milliseconds. */
const CALM_MS = 30_000;

/**
 * Time after the last fault at which a deploy starts, in milliseconds. By then, a dead node is
 * back.
 */
const DEPLOY_MS = 75_000;

/** Maximum duration of a node's drain in the deploy, in milliseconds. */
const DRAIN_MS = 4_000;

/** Time at the end of the settling time during which sessions are idle, in milliseconds. */
const QUIET_MS = 20_000;

/**
 * Maximum number of messages that an idle session exchanges in that time, in both directions. They
 * are heartbeats and their replies.
 */
const MAX_AT_REST = 8;

/** Time that the last publications and the tour may take, in milliseconds. */
const PROBE_MS = 26_000;

/**
 * Time that the last closes may take before all statistics must match an idle cluster, in
 * milliseconds.
 */
const REST_MS = 6_000;

/** Time within which all clients and servers must close, in milliseconds. */
const CLOSE_MS = 30_000;

/**
 * Number of visits until all caches have reached their size, and number of visits after which no
 * collection may be larger.
 */
const [FIRST_VISITS, VISITS] = [2, 3];

/** Maximum time between two checks of the signal, in milliseconds. */
const SLICE_MS = 1_000;

/** Options of {@linkcode runPlan}. */
export interface RunOptions extends ClusterOptions {
  /** Ends the run early, and returns the findings so far. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Runs a plan. The workload runs with its faults. Then all faults are healed, the cluster settles,
 * and all its parts close.
 *
 * @param options See {@linkcode RunOptions}.
 * @returns The outcome. Broken guarantees of the library are findings, never errors.
 * @throws {TypeError} If the plan names an unknown broker or an unknown kind of action.
 */
export async function runPlan(plan: Plan, options: RunOptions = {}): Promise<Outcome> {
  const { signal, ...clusterOptions } = options;
  const cluster = await Cluster.start(plan, clusterOptions);
  const { simulation, journal, witness } = cluster;
  using _console = takeConsole(simulation, journal);
  using _listeners = takeListeners();
  const onRejection = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    journal.tell("unhandled", simulation.current?.name ?? "", { error: event.reason });
  };
  globalThis.addEventListener("unhandledrejection", onRejection);
  try {
    const faults = new Faults(cluster);
    for (const action of plan.actions) {
      if (action.atMs < plan.seconds * 1_000) faults.plan(action);
    }
    await passTime(cluster, plan.seconds * 1_000, signal);
    cluster.rest();
    faults.heal();
    journal.tell("healed", "", {});
    void cluster.tryBrokers();
    await passTime(cluster, CALM_MS, signal);
    void cluster.mourn();
    await passTime(cluster, DEPLOY_MS - CALM_MS, signal);
    cluster.deploy(DRAIN_MS);
    await passTime(cluster, SETTLE_MS - QUIET_MS - DEPLOY_MS, signal);
    await watchRest(cluster, signal);
    journal.tell("settled", "", {});
    cluster.probe();
    void cluster.tour();
    await passTime(cluster, PROBE_MS, signal);
    await passTime(cluster, REST_MS, signal);
    if (!signal?.aborted) witness.checkEnd(cluster);
    await close(cluster, signal);
    if (!signal?.aborted) witness.checkClosed(cluster);
    await watchGrowth(cluster, signal);
  } finally {
    cluster[Symbol.dispose]();
  }
  for (const { invariant, host, text } of witness.findings) {
    simulation.note(`${invariant}: ${text}`, host, { kind: "finding" });
  }
  return {
    plan,
    findings: witness.findings,
    digest: simulation.digest,
    events: simulation.events,
    simulatedMs: simulation.nowMs,
    coverage: journal.coverage,
    trace: simulation.trace,
    checkpoints: simulation.checkpoints,
  };
}

/**
 * Removes leftover listeners from the global object. The clients of killed hosts leave their
 * listeners there.
 */
function takeListeners(): Disposable {
  type Listener = Parameters<EventTarget["addEventListener"]>;
  const page: EventTarget = globalThis;
  const { addEventListener: add, removeEventListener: remove } = page;
  const left: Listener[] = [];
  page.addEventListener = (...listener: Listener) => {
    left.push(listener);
    add.apply(page, listener);
  };
  page.removeEventListener = (...listener: Listener) => {
    const at = left.findIndex((one) => one[0] === listener[0] && one[1] === listener[1]);
    if (at >= 0) left.splice(at, 1);
    remove.apply(page, listener);
  };
  return {
    [Symbol.dispose]() {
      page.addEventListener = add;
      page.removeEventListener = remove;
      for (const listener of left) page.removeEventListener(...listener);
    },
  };
}

/** Expects idle sessions to exchange only heartbeats. */
async function watchRest(cluster: Cluster, signal: AbortSignal | undefined): Promise<void> {
  const before = cluster.messagesOfSessions();
  await passTime(cluster, QUIET_MS, signal);
  for (const [session, messages] of cluster.messagesOfSessions()) {
    const count = messages - (before.get(session) ?? messages);
    if (count <= MAX_AT_REST) continue;
    cluster.journal.tell("examined", "", {
      part: "pacing",
      what: `messages of idle session ${session} within ${QUIET_MS} ms`,
      expected: `at most ${MAX_AT_REST}`,
      received: `${count}`,
    });
  }
}

/** Makes users come and go, and looks for collections that grow in the meantime. */
async function watchGrowth(cluster: Cluster, signal: AbortSignal | undefined): Promise<void> {
  const visits = cluster.visits();
  if (visits === undefined) return;
  using heap = new Heap();
  for (let visit = 1; visit <= FIRST_VISITS + VISITS; visit++) {
    let isOver = false;
    void visits.next().finally(() => isOver = true);
    await passTime(cluster, VISIT_MS, signal, () => isOver);
    if (visit === FIRST_VISITS) await heap.look();
  }
  for (const change of await heap.look()) {
    if (!hasGrown(change, VISITS)) continue;
    const { of, before, after } = change;
    cluster.journal.tell("examined", "", {
      part: "leaks",
      what: `${of} after ${VISITS} visits`,
      expected: `${before}`,
      received: `${after}`,
    });
  }
  void visits.close();
  await passTime(cluster, REST_MS, signal);
}

/** Closes all clients and servers. */
async function close(cluster: Cluster, signal: AbortSignal | undefined): Promise<void> {
  let isClosed = false;
  const closing = cluster.close().then(() => isClosed = true, (error) => {
    cluster.journal.tell("unhandled", "", { error });
    isClosed = true;
  });
  await passTime(cluster, CLOSE_MS, signal);
  if (isClosed) await closing;
  else if (!signal?.aborted) {
    const error = new Error(`expected all clients and servers to close within ${CLOSE_MS} ms`);
    cluster.journal.tell("unhandled", "", { error });
  }
}

/** Lets time pass until a condition holds. An error in an event is recorded as a fact. */
async function passTime(
  { simulation, journal }: Cluster,
  ms: number,
  signal: AbortSignal | undefined,
  isOver = () => false,
): Promise<void> {
  const untilMs = simulation.nowMs + ms;
  while (simulation.nowMs < untilMs && !signal?.aborted && !isOver()) {
    try {
      await simulation.run(Math.min(SLICE_MS, untilMs - simulation.nowMs));
    } catch (error) {
      journal.tell("unhandled", simulation.current?.name ?? "", { error });
    }
  }
}
