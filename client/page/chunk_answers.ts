/** Late chunk of answers that stream, and of handlers of requests; `page.ts` says how chunks work. */
import "./page.ts";

export * from "../../session/answers/answers.ts";
