// run_tests: alone, and first, as these tests take longest.
import { hardenedWebSocket } from "../../transport/hardened/mod.ts";
import { testWebSocket } from "./websocket.ts";

testWebSocket("hardened WebSocket", hardenedWebSocket({ maxPayloadBytes: 2 ** 20 }));
