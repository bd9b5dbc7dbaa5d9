import { connect, type Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from '@jest/globals';
import { type Answer, expectDocumented, parseAnswers } from './answers.js';

export type TalkOptions = {
  /** Hang up when that many answers are there; otherwise it is the server that ends the connection. */
  answers?: number;
  /** Say that no more comes, once all is sent. */
  end?: boolean;
};

/** Sends the pieces one after the other over a connection of its own. Every answer must be a documented one. */
export async function talk(
  port: number,
  pieces: (string | Uint8Array)[],
  options: TalkOptions = {},
): Promise<Answer[]> {
  const { answers = Number.POSITIVE_INFINITY, end = false } = options;
  const socket = dial(port);
  const closed = closing(socket);
  let text = '';
  socket.on('data', (part: string) => {
    text += part;
    if (parseAnswers(text).answers.length >= answers) socket.destroy();
  });
  for (const piece of pieces) {
    if (socket.destroyed) break;
    socket.write(typeof piece === 'string' ? Buffer.from(piece, 'latin1') : piece);
    if (pieces.length > 1) await nextTurn();
  }
  if (end) socket.end();
  await closed;
  const got = parseAnswers(text);
  expect(got.rest).toBe('');
  for (const answer of got.answers) expectDocumented(answer);
  return got.answers;
}

/** A connection that reads latin1. That the other side resets it is no error here. Half open, it goes on when that says no more. */
export function dial(port: number, { allowHalfOpen = false } = {}): Socket {
  return connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen })
    .setEncoding('latin1')
    .on('error', () => {});
}

/** Resolves when the connection has ended, in whatever way. */
export function closing(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    socket.once('close', () => resolve());
  });
}

/** All that comes until the connection has ended. */
export async function readAll(socket: Socket): Promise<string> {
  let text = '';
  socket.on('data', (part: string) => {
    text += part;
  });
  await closing(socket);
  return text;
}
