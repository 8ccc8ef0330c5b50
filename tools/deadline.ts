/**
 * Adds a deadline to every test of a module, including the examples of the documentation.
 *
 * `tools/run_tests.ts` makes Deno load this module before each test module. It has no effect
 * without the environment variable `TEST_DEADLINE_MS`. `TEST_JOURNAL` names a file that receives
 * the start and end of each test.
 *
 * @module
 */
/** The function of a test or of a case of `Deno.test.each()`. */
type Body = (...args: unknown[]) => unknown;

/** Any of the forms of `Deno.test()`. */
type Register = (...args: unknown[]) => unknown;

/** Options of {@linkcode withDeadline}. */
export interface DeadlineOptions {
  /** Milliseconds until the test fails. */
  readonly deadlineMs: number;
  /** Called at the start and end of a test. */
  readonly onEvent?: (event: "begin" | "end", name: string) => void;
}

/**
 * Adds a deadline to the function of a test.
 *
 * - The deadline is in real time, even if the test fakes the clock: timers are captured when this
 *   module loads.
 * - Pending operations of the test are not stopped: those that outlive the test are reported as
 *   leaks.
 *
 * @param name The name of the test, for the error.
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
    // An unreferenced timer does not keep the event loop running: Deno still fails a stuck test
    // immediately, and tests that look for running timers don't find this one.
    Deno.unrefTimer(timer);
    onEvent?.("begin", name);
    // Errors of an awaited `Promise.race()` keep only the test's stack.
    const running = new Promise((resolve) => resolve(body(...args)));
    return Promise.race([running, late.promise]).finally(() => {
      clearTimeout(timer);
      onEvent?.("end", name);
    });
  };
}

/**
 * Adds a deadline to the arguments of `Deno.test()`, in any of its forms.
 *
 * @param args The arguments.
 * @param options See {@linkcode DeadlineOptions}.
 * @returns The arguments to pass to `Deno.test()`.
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
    // Deno derives the test's name from the function's name.
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
 * The part of Deno's core that this module needs. Loading `node:vm` takes longer than most tests.
 */
interface Core {
  evalContext(source: string, name: string): unknown[];
}

function coreOf(deno: unknown): Core {
  const holder = deno as { internal: symbol; [internal: symbol]: { core: Core } };
  return holder[holder.internal]!.core;
}

/**
 * Forwards arguments from a script whose name looks like internal code, because Deno reports the
 * first caller outside its own code as the location of a test.
 */
const [forward] = coreOf(Deno).evalContext(
  "((register, change) => (...args) => register(...change(args)))",
  "ext:tests/deadline.js",
) as [(register: Register, change: (args: unknown[]) => unknown[]) => Register];

/** The module whose tests are registered next. */
const place = { module: Deno.mainModule };

/** Writes a line to the journal of the run. */
const journal = { write: (_event: string, _module: string, _name: string): void => {} };

/**
 * Sets the module whose tests are registered next, if modules share an isolate.
 *
 * @param module URL of the module.
 */
export function enter(module: string): void {
  place.module = module;
  journal.write("load", module, "");
}

/** Replaces `Deno.test` in this module's realm. */
function install(deadlineMs: number, path: string | undefined): void {
  // Opened once, because a test may run without permission to write.
  const file = path === undefined ? undefined : Deno.openSync(path, { append: true, create: true });
  const encoder = new TextEncoder();
  journal.write = (event, module, name) => {
    file?.writeSync(encoder.encode(`${JSON.stringify([event, module, name])}\n`));
  };
  journal.write("load", place.module, "");
  const change = (args: unknown[]) => {
    const { module } = place;
    const onEvent = (event: string, name: string) => journal.write(event, module, name);
    return withDeadlineIn(args, { deadlineMs, onEvent });
  };
  const original = Deno.test as unknown as Register & Record<string, Register>;
  const test = forward(original, change) as Register & Record<string, Register>;
  Object.assign(test, original);
  test.only = forward(original.only!, change);
  test.each = (cases) => forward(original.each!(cases) as Register, change);
  Object.assign(Deno, { test });
}

const deadlineMs = Number(Deno.env.get("TEST_DEADLINE_MS"));
if (deadlineMs > 0) install(deadlineMs, Deno.env.get("TEST_JOURNAL"));
