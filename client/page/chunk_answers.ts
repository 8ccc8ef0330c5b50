/**
 * The late chunk with streaming responses and request handlers; `page.ts` explains how chunks work.
 */
import "./page.ts";

export * from "../../session/answers/answers.ts";
