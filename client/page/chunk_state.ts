/** The late chunk with live state; `page.ts` explains how chunks work. */
import "./page.ts";

export * from "../state/states.ts";
