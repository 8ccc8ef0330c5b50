/** The shape of classes that Web IDL specifies. */

/** A class as {@linkcode defineInterface} sees it. */
export interface InterfaceClass {
  /** Prototype with the members. */
  readonly prototype: object;
}

/** Shape of an interface, as in the specification's IDL. */
export interface InterfaceShape {
  /** The name of the interface, also the class string of instances. */
  readonly name: string;
  /** Attributes and operations, including static ones. */
  readonly members: readonly string[];
  /**
   * Members that are, or return, a promise. On a foreign `this` they reject instead of throwing.
   */
  readonly promises?: readonly string[] | undefined;
}

/** A getter or a method with any `this`. */
type Member = (this: unknown, ...args: unknown[]) => unknown;

/**
 * Gives a class the shape of a Web IDL interface. A class with private state already throws a
 * `TypeError` on a foreign `this`, so that rule is not repeated here.
 *
 * - **Members** in the specification are enumerable; additional ones are not.
 * - **Class string:** `[object Name]`.
 * - **Promises:** a failing member rejects.
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
 * Checks the argument of a constructor that only this library may call. The parameter needs a
 * default value, so that the class's `length` is 0.
 *
 * @param type Class without instances outside the library.
 * @throws {TypeError} If the argument is not an instance of the class.
 */
export function constructible<T>(
  behind: T | undefined,
  type: abstract new (...args: never[]) => T,
): T {
  if (behind instanceof type) return behind;
  throw new TypeError("Illegal constructor");
}

/** Wraps a member, so that a failure becomes a rejection. */
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
