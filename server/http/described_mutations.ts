/** Mutations over HTTP, for the OpenAPI document of the HTTP API. */
import type { StandardSchema } from "../../base/standard_schema.ts";

/** The mutations of all states whose ids fit a pattern. */
export interface DescribedMutations {
  /** Path of the streams, such as `/streams`. */
  readonly path: string;
  /** Pattern of the ids, such as `hall:{id}`. */
  readonly pattern: string;
  /** The schemas of the inputs, by name of the mutation. */
  readonly inputs: ReadonlyMap<string, StandardSchema>;
}

/** The mutations over HTTP of all features of a server, which add them here. */
export class SharedMutations {
  /** The mutations, once all features have been mounted. */
  readonly described: DescribedMutations[] = [];
}
