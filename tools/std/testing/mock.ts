// deno-lint-ignore-file no-explicit-any -- the documented signatures have it in their defaults.
/**
 * The local mirror serves this module as `@std/testing/mock`. It contains the parts that this
 * repository uses, with the documented behavior and signatures of the original.
 *
 * @module
 */
import { assertEquals, AssertionError, assertIsError } from "jsr:@std/assert@^1";

/** Thrown when a spy or a stub cannot be set up or taken down. */
export class MockError extends Error {
  /**
   * Creates a mock error.
   *
   * @param message What went wrong.
   */
  constructor(message: string) {
    super(message);
    this.name = "MockError";
  }
}

/** One recorded call. */
export interface SpyCall<Self = any, Args extends unknown[] = any[], Return = any> {
  /** What it was called with. */
  args: Args;
  /** What it returned. */
  returned?: Return;
  /** What it threw. */
  error?: Error;
  /** What it was called on. */
  self?: Self;
}

/** A function that records its calls. */
export interface Spy<Self = any, Args extends unknown[] = any[], Return = any> {
  (this: Self, ...args: Args): Return;
  /** The function that is spied on. */
  original: (this: Self, ...args: Args) => Return;
  /** What was recorded, oldest first. */
  calls: SpyCall<Self, Args, Return>[];
  /** Whether the original is back in place. */
  restored: boolean;
  /** Puts the original back in place. */
  restore(): void;
}

/** A spy on a method of an object. */
export interface MethodSpy<Self = any, Args extends unknown[] = any[], Return = any>
  extends Spy<Self, Args, Return>, Disposable {}

/** A method replaced by another one, which records its calls. */
export interface Stub<Self = any, Args extends unknown[] = any[], Return = any>
  extends MethodSpy<Self, Args, Return> {
  /** What runs in place of the original. */
  fake: (this: Self, ...args: Args) => Return;
}

/** The parameters of a method. */
export type GetParametersFromProp<Self, Prop extends keyof Self> = Self[Prop] extends
  (...args: infer Args) => unknown ? Args : unknown[];

/** What a method returns. */
export type GetReturnFromProp<Self, Prop extends keyof Self> = Self[Prop] extends
  (...args: any[]) => infer Return ? Return : unknown;

/** What {@linkcode assertSpyCall} compares; what is left out is not compared. */
export interface ExpectedSpyCall<Self = any, Args extends unknown[] = any[], Return = any> {
  /** What it was called with. */
  args?: [...Args, ...unknown[]];
  /** What it was called on. */
  self?: Self;
  /** What it returned. */
  returned?: Return;
  /** What it threw. */
  error?: {
    Class?: new (...args: any[]) => Error;
    /** A part of its message. */
    msgIncludes?: string;
  };
}

type Fn = (this: unknown, ...args: unknown[]) => unknown;

/** Makes a function that records what `run` is called with and how that ends. */
function recorder(run: Fn, extra: (self: () => Fn) => PropertyDescriptorMap): Fn {
  const calls: SpyCall[] = [];
  const made: Fn = function (this: unknown, ...args: unknown[]): unknown {
    const call: SpyCall = { args };
    if (this) call.self = this;
    try {
      return call.returned = run.apply(this, args);
    } catch (error) {
      call.error = error as Error;
      throw error;
    } finally {
      calls.push(call);
    }
  };
  return Object.defineProperties(made, {
    calls: { enumerable: true, value: calls },
    ...extra(() => made),
  });
}

/** Puts a recorder in the place of a method. */
function replaceMethod(verb: "spy" | "stub", self: any, property: PropertyKey, fake?: Fn): Fn {
  const original = self[property];
  if (typeof original !== "function") {
    throw new MockError(`Cannot ${verb}: property is not an instance method`);
  }
  if ("calls" in original && "restore" in original) {
    throw new MockError(`Cannot ${verb}: already spying on instance method`);
  }
  const own = Object.getOwnPropertyDescriptor(self, property);
  if (own && !own.configurable) {
    throw new MockError(`Cannot ${verb}: non-configurable instance method`);
  }
  let restored = false;
  const restore = () => {
    if (restored) throw new MockError("Cannot restore: instance method already restored");
    if (own) Object.defineProperty(self, property, own);
    else delete self[property];
    restored = true;
  };
  const made = recorder(fake ?? original, () => ({
    original: { enumerable: true, value: original },
    restored: { enumerable: true, get: () => restored },
    restore: { enumerable: true, value: restore },
    [Symbol.dispose]: { value: restore },
    ...(fake ? { fake: { enumerable: true, value: fake } } : {}),
  }));
  Object.defineProperty(self, property, {
    configurable: true,
    enumerable: own?.enumerable ?? false,
    writable: true,
    value: made,
  });
  return made;
}

/** Records the calls of a function, or of a method that stays in place. */
export function spy<Self = any, Args extends unknown[] = any[], Return = undefined>(): Spy<
  Self,
  Args,
  Return
>;
export function spy<Self, Args extends unknown[], Return>(
  func: (this: Self, ...args: Args) => Return,
): Spy<Self, Args, Return>;
export function spy<Self, Prop extends keyof Self>(
  self: Self,
  property: Prop,
): MethodSpy<Self, GetParametersFromProp<Self, Prop>, GetReturnFromProp<Self, Prop>>;
export function spy(target?: any, property?: PropertyKey): any {
  if (property !== undefined) return replaceMethod("spy", target, property);
  const original: Fn = target ?? (() => {});
  return recorder(original, () => ({
    original: { enumerable: true, value: original },
    restored: { enumerable: true, value: false },
    restore: {
      enumerable: true,
      value: () => {
        throw new MockError("Cannot restore: function cannot be restored");
      },
    },
  }));
}

/**
 * Replaces a method until it is restored or disposed.
 *
 * @param self The object.
 * @param property The name of the method.
 * @param func The function to run instead. By default, the stub does nothing.
 */
export function stub<Self, Prop extends keyof Self>(
  self: Self,
  property: Prop,
  func?: (this: Self, ...args: GetParametersFromProp<Self, Prop>) => GetReturnFromProp<Self, Prop>,
): Stub<Self, GetParametersFromProp<Self, Prop>, GetReturnFromProp<Self, Prop>> {
  return replaceMethod("stub", self, property, (func ?? (() => {})) as unknown as Fn) as any;
}

/**
 * Asserts how often a spy was called.
 *
 * @param expectedCalls The expected number of calls.
 * @throws {AssertionError} If the number of calls differs.
 */
export function assertSpyCalls<Self, Args extends unknown[], Return>(
  spy: Spy<Self, Args, Return>,
  expectedCalls: number,
): void {
  const { length } = spy.calls;
  if (length === expectedCalls) return;
  const last = length > expectedCalls ? spy.calls.at(-1)?.error : undefined;
  throw new AssertionError(
    `Spy ${length < expectedCalls ? "not " : ""}called ${
      length < expectedCalls ? "as much as" : "more than"
    } expected: ${length} calls, expected ${expectedCalls}${last ? `; it threw ${last}` : ""}`,
  );
}

function callAt<Self, Args extends unknown[], Return>(
  spy: Spy<Self, Args, Return>,
  callIndex: number,
): SpyCall<Self, Args, Return> {
  const call = spy.calls[callIndex];
  if (call === undefined) throw new AssertionError("Spy not called as much as expected");
  return call;
}

/**
 * Asserts the arguments, the `this` value and the outcome of a call.
 *
 * @param callIndex The index of the call, from 0.
 * @param expected See {@linkcode ExpectedSpyCall}.
 * @throws {AssertionError} If the call differs from the expected one.
 */
export function assertSpyCall<Self, Args extends unknown[], Return>(
  spy: Spy<Self, Args, Return>,
  callIndex: number,
  expected: ExpectedSpyCall<Self, Args, Return> = {},
): void {
  const call = callAt(spy, callIndex);
  if (expected.args) {
    assertEquals<unknown>(call.args, expected.args, "Spy not called with expected args");
  }
  if ("self" in expected) {
    assertEquals(call.self, expected.self, "Spy not called as method on expected self");
  }
  if ("returned" in expected) {
    if ("error" in expected) {
      throw new TypeError("Do not expect error and return, only one should be expected");
    }
    if (call.error) {
      throw new AssertionError("Spy call did not return expected value, an error was thrown.");
    }
    assertEquals(call.returned, expected.returned, "Spy call did not return expected value");
  }
  if ("error" in expected) {
    if ("returned" in call) {
      throw new AssertionError("Spy call did not throw an error, a value was returned.");
    }
    assertIsError(call.error, expected.error?.Class, expected.error?.msgIncludes);
  }
}

/**
 * Asserts one argument of a call.
 *
 * @param callIndex The index of the call, from 0.
 * @param argIndex The index of the argument, from 0.
 * @param expected The expected argument.
 * @returns The argument.
 * @throws {AssertionError} If the argument differs.
 */
export function assertSpyCallArg<Self, Args extends unknown[], Return, ExpectedArg>(
  spy: Spy<Self, Args, Return>,
  callIndex: number,
  argIndex: number,
  expected: ExpectedArg,
): ExpectedArg {
  const arg = callAt(spy, callIndex).args[argIndex] as ExpectedArg;
  assertEquals(arg, expected);
  return arg;
}

/**
 * Asserts all arguments of a call.
 *
 * @param callIndex The index of the call, from 0.
 * @param expected The expected arguments.
 * @returns The arguments.
 * @throws {AssertionError} If the arguments differ.
 */
export function assertSpyCallArgs<
  Self,
  Args extends unknown[],
  Return,
  ExpectedArgs extends unknown[],
>(spy: Spy<Self, Args, Return>, callIndex: number, expected: ExpectedArgs): ExpectedArgs {
  const args = callAt(spy, callIndex).args as unknown[] as ExpectedArgs;
  assertEquals(args, expected);
  return args;
}

/**
 * Creates a function that returns the given values, one per call, and throws those that are errors.
 *
 * @returns The function, which throws a {@linkcode MockError} once all values are used up.
 */
export function returnsNext<Return, Self = any, Args extends unknown[] = any[]>(
  values: Iterable<Return | Error>,
): (this: Self, ...args: Args) => Return {
  const source = Iterator.from(values);
  let count = 0;
  return () => {
    const { done, value } = source.next();
    if (done) throw new MockError(`Not expected to be called more than ${count} time(s)`);
    count++;
    if (value instanceof Error) throw value;
    return value;
  };
}

/**
 * Creates a function that resolves to the given values, one per call, and rejects with those that
 * are errors.
 *
 * @param iterable The values.
 * @returns The function, which rejects with a {@linkcode MockError} once all values are used up.
 */
export function resolvesNext<Return, Self = any, Args extends unknown[] = any[]>(
  iterable:
    | Iterable<Return | Error | Promise<Return | Error>>
    | AsyncIterable<Return | Error | Promise<Return | Error>>,
): (this: Self, ...args: Args) => Promise<Return> {
  const source = (async function* () {
    yield* iterable;
  })();
  let count = 0;
  return async () => {
    const { done, value } = await source.next();
    if (done) throw new MockError(`Not expected to be called more than ${count} time(s)`);
    count++;
    if (value instanceof Error) throw value;
    return value;
  };
}
