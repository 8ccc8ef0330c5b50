/**
 * Gives every test of a module a deadline, the examples of its documentation included.
 *
 * `tools/run_tests.ts` has Deno load this module before each module of tests. Two environment
 * variables set it up: `TEST_DEADLINE_MS`, without which it does nothing, and `TEST_JOURNAL`, a file
 * to which the beginning and the end of each test are appended.
 *
 * @module
 */
import { Script } from "node:vm";

/** The function of a test or of a case of `Deno.test.each()`. */
type Body = (...args: unknown[]) => unknown;

/** Any of the forms of `Deno.test()`. */
type Register = (...args: unknown[]) => unknown;

/** Options of {@linkcode withDeadline}, besides a test. */
export interface DeadlineOptions {
  /** Milliseconds until the test fails. */
  readonly deadlineMs: number;
  /** Hears of each beginning and end. */
  readonly onEvent?: (event: "begin" | "end", name: string) => void;
}

/**
 * Adds a deadline to the function of a test.
 *
 * - The deadline is of real time, also where the test fakes the clock: timers are captured when
 *   this module loads.
 * - What the test waits for is not stopped: it is reported as a leak where it outlives the test.
 *
 * @param name The name that the error has.
 * @param body The function.
 * @param options See {@linkcode DeadlineOptions}.
 * @returns A function that rejects with an `Error` after the deadline.
 */
export function withDeadline(name: string, body: Body, options: DeadlineOptions): Body {
  const { deadlineMs, onEvent } = options;
  const { setTimeout, clearTimeout } = timers;
  return (...args) => {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(
      () =>
        late.reject(
          new Error(`Cannot finish test: "${name}" still runs after ${deadlineMs / 1_000} s`),
        ),
      deadlineMs,
    );
    // Where nothing else keeps the event loop going, Deno fails the test at once; and a test may
    // look for timers that run.
    Deno.unrefTimer(timer);
    onEvent?.("begin", name);
    // Errors of an awaited `Promise.race()` keep the stack of the test alone.
    const running = new Promise((resolve) => resolve(body(...args)));
    return Promise.race([running, late.promise]).finally(() => {
      clearTimeout(timer);
      onEvent?.("end", name);
    });
  };
}

/**
 * Adds a deadline to the arguments of `Deno.test()`, in each of its forms.
 *
 * @param args The arguments.
 * @param options See {@linkcode DeadlineOptions}.
 * @returns The arguments to pass on.
 */
export function withDeadlineIn(args: readonly unknown[], options: DeadlineOptions): unknown[] {
  const body = args.findLast((arg): arg is Body => typeof arg === "function");
  const definition = args.find((arg): arg is { name?: string; fn?: Body } =>
    typeof arg === "object" && arg !== null
  );
  const first = typeof args[0] === "string" ? args[0] : undefined;
  const name = first ?? definition?.name ?? body?.name ?? definition?.fn?.name ?? "";
  const wrap = (fn: Body) => {
    const wrapped = withDeadline(name, fn, options);
    // Deno asks a function without a name of the test for its own.
    return Object.defineProperty(wrapped, "name", { value: fn.name });
  };
  return args.map((arg) => {
    if (arg === body && body !== undefined) return wrap(body);
    if (arg !== definition || definition?.fn === undefined) return arg;
    return { ...definition, fn: wrap(definition.fn) };
  });
}

const timers = { setTimeout, clearTimeout };

/**
 * Passes arguments on under a name that Deno takes for its own: it reports the first caller that
 * is not of its own as the place of a test.
 */
const forward = new Script(
  "((register, change) => (...args) => register(...change(args)))",
  { filename: "ext:tests/deadline.js" },
).runInThisContext() as (register: Register, change: (args: unknown[]) => unknown[]) => Register;

/** Replaces `Deno.test` in this module's realm, which is that of one module of tests. */
function install(deadlineMs: number, journal: string | undefined): void {
  // Opened once: a test may run without the permission to write.
  const file = journal === undefined
    ? undefined
    : Deno.openSync(journal, { append: true, create: true });
  const encoder = new TextEncoder();
  const module = Deno.mainModule;
  const onEvent = (event: string, name: string) => {
    file?.writeSync(encoder.encode(`${JSON.stringify([event, module, name])}\n`));
  };
  onEvent("load", "");
  const change = (args: unknown[]) => withDeadlineIn(args, { deadlineMs, onEvent });
  const original = Deno.test as unknown as Register & Record<string, Register>;
  const test = forward(original, change) as Register & Record<string, Register>;
  Object.assign(test, original);
  test.only = forward(original.only!, change);
  test.each = (cases) => forward(original.each!(cases) as Register, change);
  Object.assign(Deno, { test });
}

const deadlineMs = Number(Deno.env.get("TEST_DEADLINE_MS"));
if (deadlineMs > 0) install(deadlineMs, Deno.env.get("TEST_JOURNAL"));
