import { hardenedWebSocket } from "../../transport/hardened/mod.ts";
import { testWebSocket } from "./websocket.ts";

testWebSocket("hardened WebSocket", hardenedWebSocket({ maxPayloadBytes: 2 ** 20 }));
