import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { parseAnswers } from './answers.js';
import { dial } from './talk.js';

/** A connection that is silent for longer is ended. */
const PATIENCE_MS = 120_000;

/** Sends requests one at a time. Opens a new socket if the server has ended the last one. */
class Connection {
  #socket: Socket | undefined;
  /** What the server has sent since the last answer. Between an answer and the next request, it must send nothing. */
  #text = '';
  #onText: (() => void) | undefined;

  constructor(readonly port: number) {}

  /** @returns all bytes up to the end of the answer, or until the server ends the connection */
  async ask(pieces: Uint8Array[], isHead: boolean): Promise<string> {
    this.expectSilence();
    const socket = this.#socket ?? this.#dial();
    const answered = new Promise<void>((resolve) => {
      this.#onText = () => {
        const [answer] = parseAnswers(this.#text, { isHead }).answers;
        const isKeptAlive = answer && answer.headers.get('connection') !== 'close';
        if (isKeptAlive || socket.destroyed) resolve();
      };
    });
    for (const [i, piece] of pieces.entries()) {
      if (i > 0) await nextTurn();
      socket.write(piece);
    }
    await answered;
    const text = this.#text;
    this.#onText = undefined;
    this.#text = '';
    return text;
  }

  /** @throws Error if the server has sent what nobody asked for */
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

/** Connections to one server, used in turn. */
export class Connections {
  #all: Connection[] = [];
  #next = 0;

  constructor(
    readonly port: number,
    readonly count: number,
  ) {
    this.destroy();
  }

  /** Sends a request over the next connection, which must be free: so at most `count` requests go at once. */
  ask(pieces: Uint8Array[], { isHead }: { isHead: boolean }): Promise<string> {
    const connection = this.#all[this.#next++ % this.count] as Connection;
    return connection.ask(pieces, isHead);
  }

  expectSilence(): void {
    for (const connection of this.#all) connection.expectSilence();
  }

  /** Ends the connections with all that is under way. Later requests get new ones. */
  destroy(): void {
    for (const connection of this.#all) connection.destroy();
    this.#all = Array.from({ length: this.count }, () => new Connection(this.port));
  }
}
