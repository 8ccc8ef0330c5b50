import { assert, assertEquals } from "@std/assert";
import { type Linked, LinkedList } from "./linked_list.ts";

class Item implements Linked<Item> {
  previous: Item | undefined = undefined;
  next: Item | undefined = undefined;
}

Deno.test("LinkedList.toArray() returns the remaining items, the newest first", () => {
  const list = new LinkedList<Item>();
  const [one, two, three] = [new Item(), new Item(), new Item()] as const;
  for (const item of [one, two, three]) list.add(item);
  assertEquals([list.size, list.toArray()], [3, [three, two, one]]);
  list.delete(two);
  assertEquals([list.size, list.toArray()], [2, [three, one]]);
  list.delete(three);
  list.delete(one);
  assertEquals([list.size, list.toArray()], [0, []]);
});

Deno.test("LinkedList.delete() does not change a list without the item", () => {
  const list = new LinkedList<Item>();
  const [one, stranger] = [new Item(), new Item()];
  list.add(one);
  list.delete(stranger);
  list.delete(stranger);
  assertEquals([list.size, list.toArray()], [1, [one]]);
  list.delete(one);
  list.delete(one);
  assertEquals(list.size, 0);
  list.add(one);
  assertEquals(list.toArray(), [one]);
});

Deno.test("LinkedList.oldest is the remaining item that was added first", () => {
  const list = new LinkedList<Item>();
  const [one, two, three, stranger] = [new Item(), new Item(), new Item(), new Item()];
  assertEquals(list.oldest, undefined);
  for (const item of [one, two, three]) list.add(item);
  list.delete(stranger);
  assert(list.oldest === one);
  list.delete(two);
  assert(list.oldest === one);
  list.delete(one);
  assert(list.oldest === three);
  list.add(one);
  assert(list.oldest === three);
  list.delete(three);
  list.delete(one);
  list.delete(one);
  assertEquals([list.oldest, list.size], [undefined, 0]);
  list.add(two);
  assert(list.oldest === two);
});
