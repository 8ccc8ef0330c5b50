import { responsesInOrder } from "./responses.ts";
import { Story } from "./story.ts";

/** Response `a` has three items, some of which a reader receives. */
function respond(isKept: boolean, ...readers: readonly (readonly number[])[]): Story {
  const story = new Story(responsesInOrder);
  readers.forEach((indexes, i) => {
    story.tells("responseBegan", { response: "a", client: "c", items: 3, isKept });
    for (const index of indexes) {
      story.tells("responseItem", { response: "a", reader: `r${i}`, index });
    }
  });
  return story;
}

const END = { response: "a", reader: "r0" };

Deno.test("responsesInOrder holds for complete, broken and continued responses", () => {
  respond(false, [0, 1, 2]).tells("responseEnded", END).finds();
  respond(false, [0]).tells("responseEnded", { ...END, error: "lost" }).finds();
  respond(false, [0]).tells("responseEnded", { ...END, isLeft: true }).finds();
  respond(true, [0, 1], [2]).tells("responseEnded", { ...END, reader: "r1" }).finds();
});

Deno.test("responsesInOrder finds missing and repeated items, and items after the end", () => {
  respond(false, [0, 2]).finds("expected item 1 of a (r0), received item 2");
  respond(false, [0, 0]).finds("expected item 1 of a (r0), received item 0");
  respond(true, [0], [2]).finds("expected item 1 of a (r1), received item 2");
  respond(false, [0, 1, 2, 3]).finds("expected 3 items of a, received item 3");
  respond(false, [0]).tells("responseEnded", END)
    .tells("responseItem", { ...END, index: 1 })
    .finds(
      "expected 3 items of a, received the end after 1",
      "expected nothing after the end of a, received item 1",
    );
  respond(false, [0, 1, 2]).tells("responseEnded", END).tells("responseEnded", END)
    .finds("expected one end of a, received another one");
});
