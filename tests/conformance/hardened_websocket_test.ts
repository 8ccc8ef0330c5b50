import { hardenedWebSocket } from "../../transport/ws/mod.ts";
import { testWebSocket } from "./websocket.ts";

testWebSocket("hardened WebSocket", hardenedWebSocket({ maxPayloadBytes: 2 ** 20 }));
