import { assertMatch } from "@std/assert";
import { BrokerError } from "../../../errors.ts";
import { TERMS } from "./story.ts";
import type { Invariant } from "../facts.ts";
import { Witness } from "../witness.ts";
import { nothingUnhandled, onlyKnownErrors } from "./errors.ts";

function about(
  invariant: Invariant,
  kind: "unhandled" | "reported",
  fact: { error: unknown; isExpected?: boolean },
): string {
  const witness = new Witness({ clock: { nowMs: 0 }, terms: TERMS, invariants: [invariant] });
  witness.tell(kind, "node1", fact);
  return witness.findings.map(({ text }) => text).join("\n");
}

Deno.test("nothingUnhandled finds each error, with its place and without paths", () => {
  const text = about(nothingUnhandled, "unhandled", { error: new Error("a fault") });
  assertMatch(
    text,
    /^expected no unhandled error, received Error: a fault at .*errors_test\.ts:\d+/,
  );
  assertMatch(text, /^[^/]*$/);
});

Deno.test("onlyKnownErrors holds for errors of the library and of handlers", () => {
  for (
    const error of [
      new BrokerError("Cannot append: the broker is unreachable"),
      new RangeError("Cannot set data: at most 512 bytes, received 600"),
      new DOMException("Cannot wait: 5 ms passed", "TimeoutError"),
    ]
  ) {
    assertMatch(about(onlyKnownErrors, "reported", { error }), /^$/);
  }
  const error = new Error("of a handler");
  assertMatch(about(onlyKnownErrors, "reported", { error, isExpected: true }), /^$/);
});

Deno.test("onlyKnownErrors finds errors that JavaScript threw", () => {
  for (const make of [() => (undefined as unknown as { a: { b: 1 } }).a.b, () => [].at(0)!["a"]]) {
    let error: unknown;
    try {
      make();
    } catch (thrown) {
      error = thrown;
    }
    assertMatch(
      about(onlyKnownErrors, "reported", { error }),
      /^expected an error of the library, received TypeError: Cannot read properties/,
    );
  }
});
