import { answersInOrder } from "./answers.ts";
import { Story } from "./story.ts";

/** Answer `a` has three items, some of which a reader receives. */
function answer(isKept: boolean, ...readers: readonly (readonly number[])[]): Story {
  const story = new Story(answersInOrder);
  readers.forEach((indexes, i) => {
    story.tells("answerBegan", { answer: "a", client: "c", items: 3, isKept });
    for (const index of indexes) {
      story.tells("answerItem", { answer: "a", reader: `r${i}`, index });
    }
  });
  return story;
}

const END = { answer: "a", reader: "r0" };

Deno.test("answersInOrder holds for complete, broken and continued answers", () => {
  answer(false, [0, 1, 2]).tells("answerEnded", END).finds();
  answer(false, [0]).tells("answerEnded", { ...END, error: "lost" }).finds();
  answer(false, [0]).tells("answerEnded", { ...END, isLeft: true }).finds();
  answer(true, [0, 1], [2]).tells("answerEnded", { ...END, reader: "r1" }).finds();
});

Deno.test("answersInOrder finds missing and repeated items, and items after the end", () => {
  answer(false, [0, 2]).finds("expected item 1 of a (r0), received item 2");
  answer(false, [0, 0]).finds("expected item 1 of a (r0), received item 0");
  answer(true, [0], [2]).finds("expected item 1 of a (r1), received item 2");
  answer(false, [0, 1, 2, 3]).finds("expected 3 items of a, received item 3");
  answer(false, [0]).tells("answerEnded", END)
    .tells("answerItem", { ...END, index: 1 })
    .finds(
      "expected 3 items of a, received the end after 1",
      "expected nothing after the end of a, received item 1",
    );
  answer(false, [0, 1, 2]).tells("answerEnded", END).tells("answerEnded", END)
    .finds("expected one end of a, received another one");
});
