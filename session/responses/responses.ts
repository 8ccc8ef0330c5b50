/** Streaming responses, request handlers and drop policies, which load on first use. */
export { DropPolicy } from "../queue/overflow.ts";
export { ResumableResponse } from "./resumable_response.ts";
export { produceResponse } from "./producer.ts";
export { openResponse } from "./reader.ts";
export { RequestTable } from "./request_table.ts";
