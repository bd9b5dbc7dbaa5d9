import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { measureAnswer } from './answers.js';
import { dial } from './talk.js';

/** A connection that is silent for longer is closed. */
const PATIENCE_MS = 120_000;
/** Limits of a group, below what the ingress accepts on one connection. */
const MAX_GROUP_REQUESTS = 16;
const MAX_GROUP_BYTES = 64 * 1024;

/** The bytes of a request. */
export type Wire = {
  /** Each piece is sent in its own turn of the event loop. */
  pieces: Uint8Array[];
  isHead: boolean;
  /** Whether the request needs a connection for itself, because the answer may end it. */
  needsOwnConnection: boolean;
};

type Waiting = Wire & { resolve: (answer: string) => void; reject: (error: unknown) => void };

/** Sends a few requests at a time. Opens a new socket if the server has closed the last one. */
class Connection {
  #socket: Socket | undefined;
  /** Data received since the last answer. Between the last answer and the next request it must stay empty. */
  #text = '';
  #onText: (() => void) | undefined;

  constructor(readonly port: number) {}

  /**
   * @returns the answers in order; if the server closes the connection, the last one has everything received until then
   */
  async ask(requests: Wire[]): Promise<string[]> {
    this.expectSilence();
    const socket = this.#socket ?? this.#dial();
    const answers: string[] = [];
    const answered = new Promise<void>((resolve) => {
      this.#onText = () => {
        while (answers.length < requests.length) {
          const answer = this.#takeAnswer(requests[answers.length] as Wire);
          if (answer === undefined) break;
          answers.push(answer);
        }
        if (socket.destroyed) answers.push(this.#takeAll());
        if (socket.destroyed || answers.length === requests.length) resolve();
      };
    });
    await send(socket, requests);
    await answered;
    this.#onText = undefined;
    return answers;
  }

  /** Returns undefined if the answer is incomplete or says that the server will close the connection. */
  #takeAnswer({ isHead }: Wire): string | undefined {
    const { end, isKeptAlive } = measureAnswer(this.#text, isHead);
    if (!isKeptAlive || this.#text.length < end) return undefined;
    const answer = this.#text.slice(0, end);
    this.#text = this.#text.slice(end);
    return answer;
  }

  #takeAll(): string {
    const text = this.#text;
    this.#text = '';
    return text;
  }

  /** @throws Error if the server has sent data without a request */
  expectSilence(): void {
    if (this.#text !== '') throw new Error(`the server sent more than the answers: ${this.#text}`);
  }

  destroy(): void {
    this.#socket?.destroy();
  }

  #dial(): Socket {
    const socket = dial(this.port);
    this.#socket = socket;
    return socket
      .setTimeout(PATIENCE_MS, () => socket.destroy())
      .on('data', (text: string) => {
        this.#text += text;
        this.#onText?.();
      })
      .on('close', () => {
        this.#socket = undefined;
        this.#onText?.();
      });
  }
}

/** Sends a group of requests with one write, which costs less than one write each. */
async function send(socket: Socket, requests: Wire[]): Promise<void> {
  const [{ pieces }] = requests as [Wire];
  if (requests.length > 1) {
    socket.write(Buffer.concat(requests.flatMap((request) => request.pieces)));
    return;
  }
  for (const [i, piece] of pieces.entries()) {
    if (i > 0) await nextTurn();
    socket.write(piece);
  }
}

/** A pool of connections to one server. */
export class Connections {
  #all: Connection[] = [];
  #free: Connection[] = [];
  /** Groups that wait for a connection. */
  #groups: Waiting[][] = [];
  /** The group that accepts more requests. */
  #open: Waiting[] = [];
  #isScheduled = false;

  constructor(
    readonly port: number,
    readonly count: number,
  ) {
    this.destroy();
  }

  /** Sends a request, grouped with others, as soon as a connection is free. */
  ask(request: Wire): Promise<string> {
    return new Promise((resolve, reject) => {
      const waiting = { ...request, resolve, reject };
      if (request.needsOwnConnection) this.#groups.push([waiting]);
      else if (hasRoom(this.#open)) this.#open.push(waiting);
      else {
        this.#open = [waiting];
        this.#groups.push(this.#open);
      }
      this.#schedule();
    });
  }

  expectSilence(): void {
    for (const connection of this.#all) connection.expectSilence();
  }

  /** Closes the connections, none of which may be in use. Later requests get new ones. */
  destroy(): void {
    for (const connection of this.#all) connection.destroy();
    this.#all = Array.from({ length: this.count }, () => new Connection(this.port));
    this.#free = [...this.#all];
  }

  /** Runs in the next turn, because more requests may come in this one. */
  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      while (this.#groups.length > 0 && this.#free.length > 0) this.#askNextGroup();
    });
  }

  async #askNextGroup(): Promise<void> {
    const connection = this.#free.shift() as Connection;
    const group = this.#groups.shift() as Waiting[];
    if (group === this.#open) this.#open = [];
    try {
      const answers = await connection.ask(group);
      for (const [i, { resolve }] of group.entries()) resolve(answers[i] ?? '');
    } catch (error) {
      for (const { reject } of group) reject(error);
    }
    this.#free.push(connection);
    this.#schedule();
  }
}

/** Whether a group has requests and room for more. */
function hasRoom(group: Waiting[]): boolean {
  const bytes = group.reduce((sum, { pieces: [piece] }) => sum + (piece?.length ?? 0), 0);
  return group.length > 0 && group.length < MAX_GROUP_REQUESTS && bytes < MAX_GROUP_BYTES;
}
