import { assertEquals } from "@std/assert";
import { MISTAKES, MISTAKES_BEGIN } from "../tests/programs/type_mistakes.ts";
import { differences, faultsOf } from "./types.ts";

Deno.test("faultsOf() reads message, file and line of each error", () => {
  const output = `Check file:///a.ts
TS2345 [ERROR]: Argument of type 'string' is not assignable.
  Type 'string' is not assignable to type 'never'.
client.send("a", 1);
            ~~~
    at file:///tmp/mistakes.ts:15:13

TS2304 [ERROR]: Cannot find name 'x'.
x;
^
    at file:///a.ts:1:1

    The declaration is here.
    at file:///b.ts:7:1

Found 2 errors.

error: Type checking failed.
`;
  assertEquals(faultsOf(output).map(({ text: _, ...fault }) => fault), [
    {
      message: "Argument of type 'string' is not assignable.",
      file: "file:///tmp/mistakes.ts",
      line: 15,
    },
    { message: "Cannot find name 'x'.", file: "file:///a.ts", line: 1 },
  ]);
});

Deno.test("differences() reports a mistake without its error, and an error elsewhere", () => {
  const first = MISTAKES_BEGIN.length + 1;
  const faults = MISTAKES.map(({ message }, i) => ({
    text: "",
    message,
    file: "mistakes.ts",
    line: first + i,
  }));
  assertEquals(differences(faults), []);
  const [{ code, message }] = MISTAKES as [typeof MISTAKES[number]];
  assertEquals(differences(faults.slice(1)), [
    `${code} has to be the error "${message}", received "no error"`,
  ]);
  const other = { ...faults[0]!, message: "Another." };
  assertEquals(differences([other, ...faults.slice(1), { ...other, line: 1 }]), [
    `${code} has to be the error "${message}", received "Another."`,
    "line 1 of the mistakes: Another.",
  ]);
});
