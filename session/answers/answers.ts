/** Streaming responses, request handlers and drop policies, which load on first use. */
export { DropPolicy } from "../queue/overflow.ts";
export { KeptAnswer } from "./kept_answer.ts";
export { produceAnswer } from "./producer.ts";
export { openAnswer } from "./reader.ts";
export { RequestTable } from "./request_table.ts";
