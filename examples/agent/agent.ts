/**
 * The server of the agents: runs as resumable responses, and the questions, notes and costs of runs
 * as rows of a state for each user.
 *
 * @module
 */
import { setTimeout as delay } from "node:timers/promises";
import { RequestError, serve, type ServeOptions, type Server } from "../../mod.ts"; // jsr:@skein/skein
import { liveState, resumable, type StateOf } from "../../streams/mod.ts"; // jsr:@skein/skein/streams
import { NAME } from "../shared/visitors.ts";
import { contract, type Run, type Step } from "./contract.ts";
import { type Call, centsOf, think, wordsOf } from "./model.ts";

/** Pause of a tool, in words. */
const TOOL_WORDS = 15;

/** Most runs in a user's list; the oldest is dropped. */
const MAX_RUNS = 20;

/** Most that a run may cost, in cents. */
const BUDGET_CENTS = 25;

/** Options of {@linkcode serveAgents}; the example sets all others. */
export interface AgentOptions
  extends Pick<ServeOptions, "port" | "hostname" | "fetch" | "onListen" | "broker"> {
  /** Pause after each word of the model, in milliseconds. */
  readonly paceMs: number;
  /** Kills the server. */
  readonly crash: () => void;
}

/** A server of the example. */
export type AgentServer = Server<string, typeof contract>;

/** The rows of a user. */
type Desk = StateOf<typeof contract, `agent:${string}`>;

/** A run: its id, its task, and its user. */
interface Job {
  readonly id: string;
  readonly task: string;
  readonly user: string;
}

/** The stored steps of a run, at most the newest 10,000, and their total number. */
interface Progress {
  readonly written: readonly Step[];
  readonly count: number;
  readonly signal: AbortSignal;
}

export function serveAgents({ paceMs, crash, ...options }: AgentOptions): AgentServer {
  const states = liveState(contract);
  const server: AgentServer = serve({
    ...options,
    path: "/session",
    contract,
    features: [states],
    tokens: { inMessage: true },
    // The demo has no passwords: a visitor may use any name.
    authenticate({ token }) {
      const name = NAME.safeParse(token);
      return name.success ? name.data : null;
    },
    // A user starts three runs, and then six a minute.
    rates: { perUser: { cost: { burst: 3, perSecond: 0.1 } } },
    // Users read and write their own rows.
    authorize: ({ user }, topic, action) =>
      topic === `stream:agent:${user}` && (action === "subscribe" || action === "publish"),
    // Of these rows, a user may answer a question, once, and add notes.
    authorizeChange({ collection, before, value }) {
      if (collection === "notes") return before === undefined;
      if (collection !== "questions" || before === undefined || value === undefined) return false;
      const [question, { answer }] = [Object(before), Object(value)];
      return question.answer === undefined && answer !== undefined && {
        value: { ...question, answer },
      };
    },
    requests: {
      run: {
        resumable,
        async handle({ data, signal }, { user }) {
          if (data.user !== user) {
            throw new RequestError("forbidden", "This is another user's agent");
          }
          await begin(data);
          return work(data, { written: [], count: 0, signal });
        },
        // Another server, or this one after a restart, continues after the stored steps.
        resume: ({ data }, progress) => work(data, progress),
      },
      crash() {
        crash();
        return null;
      },
    },
  });

  /** Adds the row of a run, which proves that its user was checked. */
  async function begin({ id, task, user }: Job): Promise<void> {
    await using desk = await states.open(`agent:${user}`);
    await dropOldest(desk);
    await desk.collection("runs").insert(id, { task, state: "working", cents: 0, at: Date.now() });
  }

  /** Works on a task, and records how it ended. */
  async function* work(job: Job, { written, count, signal }: Progress): AsyncGenerator<Step> {
    await using desk = await states.open(`agent:${job.user}`);
    const runs = desk.collection("runs");
    const steps = [...written];
    const record = async (state: Run["state"]) => {
      const cents = centsOf(job.task, steps);
      await runs.update(job.id, (run) => ({ ...run, state, cents }));
    };
    if (!runs.has(job.id)) throw new RequestError("not-found", "The run has not begun");
    try {
      if (written.length < count) throw new RequestError("too-long", "The run is too long");
      for await (const step of stepsOf(job, { desk, steps, signal, record })) {
        steps.push(step);
        yield step;
      }
      await record("done");
    } catch (error) {
      if (!signal.aborted) {
        await record("failed");
        throw error;
      }
    } finally {
      // After any other reason the next server continues the run.
      if (isStopped(signal)) await record("stopped");
    }
  }

  /** The loop of the agent. It reads only `steps` and rows, so it can start anywhere. */
  async function* stepsOf(
    { id, task }: Job,
    { desk, steps, signal, record }: {
      readonly desk: Desk;
      readonly steps: readonly Step[];
      readonly signal: AbortSignal;
      readonly record: (state: Run["state"]) => Promise<void>;
    },
  ): AsyncGenerator<Step> {
    const newNotes = () =>
      [...desk.collection("notes")].filter(([key, { run }]) =>
        run === id && !steps.some((step) => step.kind === "note" && step.key === key)
      );
    while (true) {
      for (const [key, { text }] of newNotes()) yield { kind: "note", key, text };
      if (steps.at(-1)?.kind !== "call") {
        // After a restart, the words of an unfinished turn are stored already.
        const start = steps.findLastIndex(({ kind }) => kind !== "word") + 1;
        const { say, call } = think(task, steps.slice(0, start));
        for (const text of wordsOf(say).slice(steps.length - start)) {
          await delay(paceMs, undefined, { signal });
          yield { kind: "word", text };
        }
        await record("working");
        if (centsOf(task, steps) > BUDGET_CENTS) {
          throw new RequestError("too-expensive", `The run has cost ${BUDGET_CENTS} cents`);
        }
        if (call !== undefined) yield { kind: "call", key: `${id}-${steps.length}`, ...call };
        else if (newNotes().length === 0) return;
        else continue;
      }
      const call = steps.at(-1) as Call & { readonly key: string };
      let answer = "yes";
      if (call.tool === "book_table") {
        await record("asking");
        answer = await ask({ desk, key: call.key, run: id, text: `Book ${call.input}?` }, {
          signal,
          isOver: () => newNotes().length > 0,
        });
        await record("working");
      }
      const output = answer === "yes" ? await callTool(call, desk, signal) : answer;
      yield { kind: "result", key: call.key, output };
    }
  }

  /** Calls a tool. It may be called again after a restart, with the same key. */
  async function callTool(
    { tool, input, key }: Call & { readonly key: string },
    desk: Desk,
    signal: AbortSignal,
  ): Promise<string> {
    await delay(TOOL_WORDS * paceMs, undefined, { signal });
    if (tool === "find_restaurants") return `Found Luna and Sole for “${input}”`;
    const bookings = desk.collection("bookings");
    if (!bookings.has(key)) await bookings.set(key, input); // One table for each key.
    return "Booked";
  }

  return server;
}

/**
 * Asks the user. The question is a row, which outlives pages and servers; any device answers it. A
 * note of the user withdraws the question.
 */
async function ask(
  { desk, key, run, text }: {
    readonly desk: Desk;
    readonly key: string;
    readonly run: string;
    readonly text: string;
  },
  { signal, isOver }: { readonly signal: AbortSignal; readonly isOver: () => boolean },
): Promise<"yes" | "Not allowed" | "Withdrawn"> {
  const questions = desk.collection("questions");
  const changes = desk.changes({ signal });
  // A killed server may have left a question that a note withdraws.
  for (const [other, { run: of, answer }] of questions) {
    if (other !== key && of === run && answer === undefined) await questions.delete(other);
  }
  if (!questions.has(key)) await questions.set(key, { run, text }); // It exists after a restart.
  const settled = () => questions.get(key)?.answer !== undefined || isOver();
  if (!settled()) { for await (const _ of changes) if (settled()) break; }
  signal.throwIfAborted();
  const answer = questions.get(key)?.answer;
  if (answer === undefined) await questions.delete(key);
  return answer === "yes" ? "yes" : answer === "no" ? "Not allowed" : "Withdrawn";
}

/** Drops the oldest run of a user, with its questions and notes, if there are too many. */
async function dropOldest(desk: Desk): Promise<void> {
  const runs = [...desk.collection("runs")].sort(([, a], [, b]) => b.at - a.at);
  for (const [id] of runs.slice(MAX_RUNS - 1)) {
    await desk.transaction((to) => {
      to.delete("runs", id);
      for (const name of ["questions", "notes"] as const) {
        for (const [key, { run }] of desk.collection(name)) if (run === id) to.delete(name, key);
      }
    });
  }
}

/** Returns true if a reader pressed stop. */
function isStopped({ reason }: AbortSignal): boolean {
  return reason instanceof RequestError && reason.failure.code === "cancelled";
}
