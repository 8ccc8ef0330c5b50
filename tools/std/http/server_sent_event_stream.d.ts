export interface ServerSentEventMessage {
  comment?: string;
  event?: string;
  data?: string;
  id?: string | number;
  retry?: number;
}

export class ServerSentEventStream extends TransformStream<ServerSentEventMessage, Uint8Array> {
  constructor();
}
