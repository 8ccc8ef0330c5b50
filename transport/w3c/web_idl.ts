/** Gives classes the shape that Web IDL specifies. */

/** The parts of a class that {@linkcode defineInterface} uses. */
export interface InterfaceClass {
  /** The prototype with the members. */
  readonly prototype: object;
}

/** The shape of an interface, as in the specification's IDL. */
export interface InterfaceShape {
  /** The name of the interface, which is also the class string of its instances. */
  readonly name: string;
  /** The attributes and operations, including static ones. */
  readonly members: readonly string[];
  /**
   * The members that are or return a promise. If `this` is not an instance, they reject instead of
   * throwing.
   */
  readonly promises?: readonly string[] | undefined;
}

/** A getter or a method, called with any `this`. */
type Member = (this: unknown, ...args: unknown[]) => unknown;

/**
 * Gives a class the shape of a Web IDL interface. A class with private state already throws a
 * `TypeError` if `this` is not an instance, so this function does not implement that rule.
 *
 * - **Members** that are in the specification are enumerable; additional members are not.
 * - **Class string:** instances are printed as `[object Name]`.
 * - **Promises:** a member that returns a promise rejects instead of throwing.
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
 * Checks the argument of a constructor that only this library may call. In such a constructor, the
 * parameter needs a default value, so that the class's `length` is 0.
 *
 * @param type A class of which only the library has instances.
 * @throws {TypeError} If the argument is not an instance of the class.
 */
export function constructible<T>(
  behind: T | undefined,
  type: abstract new (...args: never[]) => T,
): T {
  if (behind instanceof type) return behind;
  throw new TypeError("Illegal constructor");
}

/** Wraps a member, so that it rejects instead of throwing. */
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
