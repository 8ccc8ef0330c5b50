/** Streaming responses and request handlers, which load on first use. */
export { KeptAnswer } from "./kept_answer.ts";
export { produceAnswer } from "./producer.ts";
export { openAnswer } from "./reader.ts";
export { RequestTable } from "./request_table.ts";
