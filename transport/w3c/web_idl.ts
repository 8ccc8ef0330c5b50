/**
 * The shape that Web IDL gives to the classes of a specification.
 *
 * @module
 */

/** A class whose shape can be given. */
export interface InterfaceClass {
  /** Members of its objects. */
  readonly prototype: object;
}

/** The shape of one interface, as the IDL of its specification has it. */
export interface InterfaceShape {
  /** Name of the interface, which is the class string of its objects. */
  readonly name: string;
  /** Its attributes and operations, static ones included. */
  readonly members: readonly string[];
  /** Members that are, or return, a promise: on a foreign `this` they reject, and do not throw. */
  readonly promises?: readonly string[];
}

/** A getter or a method, whatever it is called on. */
type Member = (this: unknown, ...args: unknown[]) => unknown;

/**
 * Gives a class the shape of a Web IDL interface. What a class of JavaScript does by itself, as long
 * as it keeps its state in private members, is not repeated here: its members throw a `TypeError`
 * on a foreign `this`.
 *
 * - **Members** of the specification are enumerable; those beside it are not.
 * - **Class string:** `[object Name]`.
 * - **Promises:** a member that fails rejects.
 *
 * @param type The class.
 * @param shape See {@linkcode InterfaceShape}.
 */
export function defineInterface(type: InterfaceClass, shape: InterfaceShape): void {
  const { name, members, promises = [] } = shape;
  for (const member of members) {
    const holder = Object.hasOwn(type, member) ? type : type.prototype;
    const descriptor = Object.getOwnPropertyDescriptor(holder, member)!;
    descriptor.enumerable = true;
    if (promises.includes(member)) {
      if (descriptor.get === undefined) descriptor.value = rejecting(descriptor.value);
      else descriptor.get = rejecting(descriptor.get);
    }
    Object.defineProperty(holder, member, descriptor);
  }
  Object.defineProperty(type.prototype, Symbol.toStringTag, { value: name, configurable: true });
}

/**
 * Checks the argument of a constructor that only this library may call. Its parameter needs a default
 * value, so that the `length` of the class is 0.
 *
 * @typeParam T The class of what is behind an object.
 * @param behind What the constructor was given.
 * @param type A class that nothing outside of the library can have an object of.
 * @returns The same.
 * @throws {TypeError} If it is anything else.
 */
export function constructible<T>(
  behind: T | undefined,
  type: abstract new (...args: never[]) => T,
): T {
  if (behind instanceof type) return behind;
  throw new TypeError("Illegal constructor");
}

/** The same member, whose failure is a rejection. */
function rejecting(member: Member): Member {
  const { wrapper } = {
    wrapper(this: unknown, ...args: unknown[]): unknown {
      try {
        return member.apply(this, args);
      } catch (error) {
        return Promise.reject(error);
      }
    },
  };
  for (const key of ["name", "length"] as const) {
    Object.defineProperty(wrapper, key, { value: member[key], configurable: true });
  }
  return wrapper;
}
