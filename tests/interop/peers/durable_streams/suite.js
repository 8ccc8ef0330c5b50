/** Runs the conformance suite of Durable Streams against the server at `STREAMS_URL`. */
const { LONG_POLL_MS, STREAMS_URL: baseUrl, SUITE } = process.env;
// The suite is installed only in the folder that this file is copied to.
const { runConformanceTests } = await import(/* @vite-ignore */ SUITE);

runConformanceTests({ baseUrl, longPollTimeoutMs: Number(LONG_POLL_MS), subscriptions: false });
