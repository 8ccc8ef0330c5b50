/** Traps for the globals of time and randomness. */

/** Records each use of a global for time or randomness until disposal. */
export class Traps implements Disposable {
  readonly uses: string[] = [];
  readonly #former: (() => void)[] = [];

  constructor() {
    for (
      const [target, names] of [
        [globalThis, ["Date", "MessageChannel", "setImmediate", "setInterval", "setTimeout"]],
        [performance, ["now"]],
        [Math, ["random"]],
        [crypto, ["getRandomValues", "randomUUID"]],
        [AbortSignal, ["timeout"]],
      ] as const
    ) {
      for (const name of names) this.#trap(target, name);
    }
  }

  [Symbol.dispose](): void {
    for (const restore of this.#former) restore();
  }

  #trap(target: object, name: string): void {
    const former = Object.getOwnPropertyDescriptor(target, name);
    const value = Reflect.get(target, name, target);
    const use = () => {
      const { stack = "" } = new Error();
      this.uses.push(`${name}\n${stack.split("\n").slice(3, 8).join("\n")}`);
    };
    const trap = new Proxy(value, {
      apply: (made, receiver, args) => {
        use();
        return Reflect.apply(made, receiver === trap ? undefined : target, args);
      },
      construct: (made, args, newTarget) => {
        if (name !== "Date" || args.length === 0) use();
        return Reflect.construct(made, args, newTarget);
      },
      get: (made, key) => {
        if (name === "Date" && key === "now") use();
        return Reflect.get(made, key, made);
      },
    });
    Object.defineProperty(target, name, { configurable: true, writable: true, value: trap });
    this.#former.push(() => {
      if (former === undefined) Reflect.deleteProperty(target, name);
      else Object.defineProperty(target, name, former);
    });
  }
}
