/**
 * A stand-in for a language model, and the tools that it calls. It needs no key, and does the same
 * each time.
 *
 * @module
 */
import type { Step } from "./contract.ts";

/** A call of a tool. */
export interface Call {
  readonly tool: "find_restaurants" | "book_table";
  readonly input: string;
}

/** A turn of the model: a text, and then a call or the end. */
export interface Turn {
  readonly say: string;
  readonly call?: Call;
}

/** Prices of a word that the model reads or writes, in cents. */
const CENTS = { read: 0.002, written: 0.02 };

/**
 * Returns the next turn of the model. A real model receives the same: the task, and the steps as
 * messages.
 */
export function think(task: string, steps: readonly Step[]): Turn {
  const last = steps.at(-1);
  const wish = steps.findLast((step) => step.kind === "note")?.text;
  const place = wish === undefined ? "Luna" : "Sole";
  const result = last?.kind === "result" ? last.output : "";
  if (result.startsWith("Found")) {
    return {
      say: `${place} has a free table on Friday and good reviews: people praise its kitchen, its ` +
        "garden and the view over the river. It asks for a deposit, so I need your permission.",
      call: { tool: "book_table", input: `${place}, Friday at 19:00, deposit of 40 €` },
    };
  }
  if (result === "Booked") {
    return { say: `The table at ${place} is yours, on Friday at 19:00. Enjoy your evening!` };
  }
  if (result === "Not allowed") return { say: "Then I book nothing. The task ends here." };
  const isBooked = steps.some((step) => step.kind === "result" && step.output === "Booked");
  if (isBooked) return { say: `The table is booked; I pass “${wish}” on to the restaurant.` };
  return {
    say: wish === undefined
      ? `I take care of it: ${task}. First I look for restaurants that fit.`
      : `Understood: ${wish}. I look again, for restaurants that fit this too.`,
    call: { tool: "find_restaurants", input: wish ?? task },
  };
}

/** Returns the words of a text, with the spaces after them. */
export function wordsOf(text: string): string[] {
  return text.match(/\S+\s*/g) ?? [];
}

/** The cost of a run so far, in cents: each turn reads all earlier steps. */
export function centsOf(task: string, steps: readonly Step[]): number {
  let [cents, read] = [0, wordsOf(task).length];
  for (const [i, step] of steps.entries()) {
    const isWritten = step.kind === "word" || step.kind === "call";
    const isTurn = step.kind === "word" && steps[i - 1]?.kind !== "word";
    if (isTurn) cents += read * CENTS.read;
    const words = step.kind === "word" ? 1 : wordsOf(JSON.stringify(step)).length;
    if (isWritten) cents += words * CENTS.written;
    read += words;
  }
  return Math.round(cents * 100) / 100;
}
