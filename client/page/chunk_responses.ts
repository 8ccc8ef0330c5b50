/**
 * The late chunk with streaming responses, request handlers, and policies of send queues that drop
 * messages; `page.ts` explains how chunks work.
 */
import "./page.ts";

export * from "../../session/responses/responses.ts";
export { readStream } from "../durable_stream.ts";
