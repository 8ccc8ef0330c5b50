/** Late chunk of streaming responses and request handlers; `page.ts` says how chunks work. */
import "./page.ts";

export * from "../../session/answers/answers.ts";
