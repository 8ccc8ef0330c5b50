// run_tests: alone, because each snapshot walks the isolate's whole heap.
import { assertEquals } from "@std/assert";
import { hasGrown } from "./growing.ts";
import { Heap } from "./heap.ts";
import { slowTest } from "../../../../tools/run_tests/slow.ts";

/** An object with private fields that may leak. */
class Shelf {
  readonly #books = new Map<string, object>();
  readonly #readers: string[] = [];
  #lent = 0;
  #visitsReceived = 0;

  lend(title: string): void {
    this.#books.set(title, { title });
    this.#readers.push(title);
    this.#lent++;
    this.#visitsReceived++;
  }
}

slowTest(
  "Heap finds the private collections and numbers that changed between two snapshots",
  async () => {
    const [shelf, other] = [new Shelf(), new Shelf()];
    using heap = new Heap();
    shelf.lend("a");
    other.lend("a");
    assertEquals(await heap.look(), []);
    shelf.lend("b");
    const changes = await heap.look();
    const own = changes.filter(({ of }) => /^Shelf|title|Array with b$/.test(of));
    assertEquals(own.toSorted((a, b) => a.of < b.of ? -1 : 1), [
      { of: "Array with b", before: 1, after: 2 },
      { of: "Map with b => Object { title }", before: 1, after: 2 },
      { of: "Shelf.#lent", before: 1, after: 2 },
      { of: "Shelf.#visitsReceived", before: 1, after: 2 },
    ]);
    const lost = own.filter((change) => hasGrown(change, 1)).map(({ of }) => of);
    assertEquals(lost.toSorted(), [
      "Array with b",
      "Map with b => Object { title }",
      "Shelf.#lent",
    ]);
    other.lend("c");
    const again = (await heap.look()).filter(({ of }) => of.startsWith("Shelf"));
    assertEquals(again.map(({ of }) => of).toSorted(), ["Shelf.#lent", "Shelf.#visitsReceived"]);
  },
);

Deno.test("Heap ignores timers of the machine, whose numbers are real times", async () => {
  using heap = new Heap();
  let ticks = 0;
  let ticked = Promise.withResolvers<void>();
  const timer = setInterval(() => {
    ticks++;
    ticked.resolve();
  }, 1);
  await heap.look();
  for (const before = ticks; ticks < before + 3; ticked = Promise.withResolvers()) {
    await ticked.promise;
  }
  const changes = await heap.look();
  clearInterval(timer);
  assertEquals(changes.filter(({ of }) => /^Time/.test(of)), []);
});
