/**
 * Adds a deadline to every test of a module, including the examples of the documentation. An error
 * that nothing catches fails the test that is running, and not all other tests of the isolate.
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
 *   leaks. A faked time is restored, because no other test could fake it.
 * - While the test runs, an error that nothing catches fails the test.
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
    const test = { failure: undefined as { readonly error: unknown } | undefined, fail };
    function fail(error: unknown) {
      test.failure ??= { error };
      late.reject(error);
    }
    const { setTimeout: before } = globalThis;
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      fail(new Error(`Cannot finish test: "${name}" still runs after ${deadlineMs / 1_000} s`));
    }, deadlineMs);
    // An unreferenced timer does not keep the event loop running: Deno still fails a stuck test
    // immediately, and tests that look for running timers don't find this one.
    Deno.unrefTimer(timer);
    onEvent?.("begin", name);
    const outer = place.test;
    place.test = test;
    // Errors of an awaited `Promise.race()` keep only the test's stack.
    const running = new Promise((resolve) => resolve(body(...args)));
    return Promise.race([running, late.promise]).finally(async () => {
      clearTimeout(timer);
      if (isLate && globalThis.setTimeout !== before) await restoreTime();
      place.test = outer;
      onEvent?.("end", name);
    }).then((value) => {
      // The test's function may have settled in the same turn as the error.
      if (test.failure !== undefined) throw test.failure.error;
      return value;
    });
  };
}

/** Restores the time that a test has faked. */
async function restoreTime(): Promise<void> {
  // Tests that fake no time may run without the package.
  const { FakeTime } = await import("@std/testing/time");
  FakeTime.restore();
}

/** Fails the running test because of an error, unless a listener of the test handles the error. */
function onUncaught(event: ErrorEvent | PromiseRejectionEvent): void {
  const { test } = place;
  if (event.defaultPrevented) return;
  // Deno fails the isolate, and names only its module.
  if (test === undefined) return journal.write("uncaught", ...place.latest);
  let isHandled = false;
  event.preventDefault();
  event.preventDefault = () => isHandled = true;
  queueMicrotask(() => {
    if (isHandled) return;
    const error = event instanceof ErrorEvent ? event.error : event.reason;
    // If the test has ended meanwhile, nobody would see its failure.
    if (place.test === test) test.fail(error);
    else reportError(error);
  });
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
 * first caller outside its own code as the location of a test. If a helper registers a test, a
 * script with the name of the module calls `register` in place of the helper.
 */
const [forward] = coreOf(Deno).evalContext(
  `((register, change, callerOf) => (...args) => {
    const changed = change(args);
    const caller = callerOf(new Error().stack);
    return caller === undefined ? register(...changed) : caller(register, changed);
  })`,
  "ext:tests/deadline.js",
) as [
  (
    register: Register,
    change: (args: unknown[]) => unknown[],
    callerOf: (stack: string) => Caller | undefined,
  ) => Register,
];

/** Calls a function from another place. */
type Caller = (register: Register, args: unknown[]) => unknown;

/**
 * Returns a function that calls from the line of a module, if the module has called a helper that
 * registers a test.
 */
function callerIn(module: string, stack: string): Caller | undefined {
  const frames = stack.split("\n").slice(1).filter((line) => !line.includes("ext:"));
  const at = frames.findIndex((frame) => frame.includes(`${module}:`));
  if (at <= 0) return undefined;
  const [line, column] = /:(\d+):(\d+)\)?$/.exec(frames[at]!)!.slice(1).map(Number);
  const above = "\n".repeat(Math.max(0, line! - 2));
  const source = `${above}((register, args) =>\n${" ".repeat(column! - 1)}register(...args))`;
  // Without the question mark, Deno would map the position as one of the module's compiled code.
  return coreOf(Deno).evalContext(source, `${module}?`)[0] as Caller;
}

const place = {
  /** The module whose tests are registered next. */
  module: Deno.mainModule,
  /** The module that was loaded last, or the module and name of the test that began last. */
  latest: [Deno.mainModule, ""] as [module: string, test: string],
  /** The test that is running. */
  test: undefined as { fail(error: unknown): void } | undefined,
};

/** Writes a line to the journal of the run. */
const journal = { write: (_event: string, _module: string, _name: string): void => {} };

/**
 * Loads one of several modules that share an isolate. If that fails, the error becomes a failed
 * test of the module.
 *
 * @param module URL of the module.
 * @param load Imports the module.
 */
export async function enter(module: string, load: () => Promise<unknown>): Promise<void> {
  place.module = module;
  place.latest = [module, ""];
  journal.write("load", module, "");
  try {
    await load();
  } catch (error) {
    // A script with the module's name gives the test its place.
    const [register] = coreOf(Deno).evalContext(
      "((test, fn) => test('loads', fn))",
      module,
    ) as [(test: unknown, fn: () => void) => void];
    register(Deno.test, () => {
      throw error;
    });
  }
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
    const onEvent = (event: string, name: string) => {
      if (event === "begin") place.latest = [module, name];
      journal.write(event, module, name);
    };
    return withDeadlineIn(args, { deadlineMs, onEvent });
  };
  const original = Deno.test as unknown as Register & Record<string, Register>;
  const forwarded = (register: Register) =>
    forward(register, change, (stack) => callerIn(place.module, stack));
  const test = forwarded(original) as Register & Record<string, Register>;
  Object.assign(test, original);
  test.only = forwarded(original.only!);
  test.each = (cases) => forwarded(original.each!(cases) as Register);
  Object.assign(Deno, { test });
  addEventListener("error", onUncaught);
  addEventListener("unhandledrejection", onUncaught);
}

const deadlineMs = Number(Deno.env.get("TEST_DEADLINE_MS"));
if (deadlineMs > 0) install(deadlineMs, Deno.env.get("TEST_JOURNAL"));
