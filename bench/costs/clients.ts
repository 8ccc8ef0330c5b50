/** Clients of the table of costs, which count their bytes. */
import { Agent, request as send } from "node:http";
import type { Socket } from "node:net";
import { Header, HTTP_PROTOCOL, HTTP_TRANSPORT } from "../../transport/http/connection.ts";

/** Bytes between clients and a server. */
export interface Traffic {
  /** Bytes that the server received. */
  in: number;
  /** Bytes that the server sent. */
  out: number;
}

/** Bytes of the head of a WebSocket frame, from a client if it is masked. */
function headBytes(length: number, isMasked: boolean): number {
  return (length < 126 ? 2 : length < 65_536 ? 4 : 10) + (isMasked ? 4 : 0);
}

/** Approximate bytes of an upgrade, as this client and a server send it. */
const UPGRADE: Traffic = { in: 300, out: 200 };

/** A socket, with the requests that wait for replies. */
interface Open {
  readonly socket: WebSocket;
  readonly replies: Map<number, (reply: Reply) => void>;
}

/** A session that a program writes by hand. It connects again if the server has closed it. */
export class Peer {
  readonly traffic: Traffic;
  readonly #url: string;
  readonly #left: WebSocket[] = [];
  #open: Open | undefined;
  #opening: Promise<Open> | undefined;
  #last = 0;

  constructor(url: string, traffic: Traffic) {
    this.#url = url;
    this.traffic = traffic;
  }

  /** Sends an envelope without waiting for anything. */
  async say(envelope: object | string): Promise<void> {
    this.#send(await this.#ready(), envelope);
  }

  /** Sends an envelope with an id, and returns the code of the reply. */
  async ask(envelope: object): Promise<string> {
    const { data, error } = await this.reply(envelope);
    const [result] = data?.results ?? [];
    return error?.code ?? result?.error?.code ?? (result?.conflict ? "conflict" : "ok");
  }

  /** Sends an envelope with an id, and returns the reply. */
  async reply(envelope: object): Promise<Reply> {
    let open = await this.#ready();
    // It may have closed before this code runs.
    while (!isOpen(open)) open = await this.#ready();
    const id = ++this.#last;
    const { promise, resolve } = Promise.withResolvers<Reply>();
    open.replies.set(id, resolve);
    this.#send(open, { ...envelope, id });
    return await promise;
  }

  /** Uses another session from now on. This one stays open. */
  leave(): void {
    if (this.#open !== undefined) this.#left.push(this.#open.socket);
    this.#open = undefined;
  }

  close(): void {
    this.leave();
    for (const socket of this.#left) socket.close();
  }

  #send({ socket }: Open, envelope: object | string): void {
    const text = typeof envelope === "string" ? envelope : JSON.stringify(envelope);
    this.traffic.in += text.length + headBytes(text.length, true);
    socket.send(text);
  }

  async #ready(): Promise<Open> {
    if (this.#open !== undefined && isOpen(this.#open)) return this.#open;
    return await (this.#opening ??= this.#connect().finally(() => this.#opening = undefined));
  }

  async #connect(): Promise<Open> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const socket = new WebSocket(this.#url, "skein.1");
    const open: Open = { socket, replies: new Map() };
    this.traffic.in += UPGRADE.in;
    this.traffic.out += UPGRADE.out;
    socket.onopen = () => resolve();
    socket.onerror = () => reject(new Error("Cannot connect"));
    socket.onmessage = ({ data }) => this.#receive(open, data);
    socket.onclose = () => {
      for (const reply of open.replies.values()) reply({ error: { code: "closed" } });
    };
    await promise;
    return this.#open = open;
  }

  #receive({ socket, replies }: Open, text: string): void {
    this.traffic.out += text.length + headBytes(text.length, false);
    for (const line of text.split("\n")) {
      const envelope = JSON.parse(line);
      if (envelope.ping !== undefined) socket.send(JSON.stringify({ pong: envelope.ping }));
      // A streaming response ends with its own envelope.
      const id = envelope.end ?? (envelope.data?.stream === true ? undefined : envelope.reply);
      replies.get(id)?.(envelope);
      replies.delete(id);
    }
  }
}

function isOpen({ socket }: Open): boolean {
  return socket.readyState === WebSocket.OPEN;
}

interface Reply {
  readonly data?: {
    /** The stream of a resumable response, or true before a streaming response. */
    readonly stream?: string | boolean;
    readonly results?: readonly { readonly error?: { code: string }; readonly conflict?: object }[];
  };
  readonly error?: { readonly code: string };
}

/** HTTP/1.1 with connections that are kept. */
export class HttpClient {
  readonly traffic: Traffic;
  readonly #url: string;
  readonly #upgraded: Socket[] = [];
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1_024 });
  #connection: Promise<HttpSession> | undefined;

  constructor(url: string, traffic: Traffic) {
    this.#url = url;
    this.traffic = traffic;
  }

  /** Sends a request, and returns the status. A response that does not end is left open. */
  async ask(method: string, path: string, options: Asked = {}): Promise<string> {
    return (await this.#ask(method, path, options)).status;
  }

  /** Opens a session over HTTP, and returns the headers of its requests. */
  async open(): Promise<HttpSession> {
    const headers = { [Header.transport]: HTTP_TRANSPORT, [Header.poll]: "1" };
    const { text } = await this.#ask("GET", `/?protocol=${HTTP_PROTOCOL}`, { headers });
    return headersOf(JSON.parse(text.slice(text.indexOf("{"), text.indexOf("}") + 1)));
  }

  /** The headers of requests of one session over HTTP. */
  session(): Promise<HttpSession> {
    return this.#connection ??= this.open();
  }

  #ask(
    method: string,
    path: string,
    { headers = {}, body = "", isOpen = false }: Asked,
  ): Promise<{ readonly status: string; readonly text: string }> {
    const { promise, resolve, reject } = Promise.withResolvers<{ status: string; text: string }>();
    const all = body === "" ? headers : { "content-length": `${body.length}`, ...headers };
    const request = send(new URL(path, this.#url), { method, agent: this.#agent, headers: all });
    let before = { in: 0, out: 0 };
    const count = (socket: Socket) => {
      this.traffic.in += socket.bytesWritten - before.in;
      this.traffic.out += socket.bytesRead - before.out;
      before = { in: socket.bytesWritten, out: socket.bytesRead };
    };
    request.on("socket", (socket) => before = { in: socket.bytesWritten, out: socket.bytesRead });
    request.on("error", reject);
    request.on("response", (response) => {
      const socket = request.socket!;
      let text = "";
      const end = () => {
        count(socket);
        resolve({ status: String(response.statusCode), text });
      };
      if (isOpen && response.statusCode === 200) response.once("data", end);
      else {
        response.setEncoding("utf8").on("data", (part) => text += part);
        response.on("end", end);
      }
    });
    // A session that was accepted stays open.
    request.on("upgrade", (_response, socket: Socket) => {
      this.#upgraded.push(socket);
      count(socket);
      resolve({ status: "101", text: "" });
    });
    request.end(body);
    return promise;
  }

  close(): void {
    this.#agent.destroy();
    for (const socket of this.#upgraded) socket.destroy();
  }
}

/** Headers of the requests of a session over HTTP. */
export type HttpSession = Readonly<Record<string, string>>;

/** Returns the headers of the requests of a session over HTTP. */
export function headersOf(
  { session, secret }: { readonly session: string; readonly secret: string },
): HttpSession {
  return {
    [Header.transport]: HTTP_TRANSPORT,
    [Header.session]: session,
    [Header.secret]: secret,
    [Header.number]: "1",
    [Header.lastEvent]: "0",
  };
}

interface Asked {
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  /** True for a response that has no end. */
  readonly isOpen?: boolean;
}
