import { connect, type Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from '@jest/globals';
import { type Answer, expectDocumented, parseAnswers } from './answers.js';

export type TalkOptions = {
  /** Closes the connection after this many answers; by default the server closes it. */
  answers?: number;
  /** Ends this side of the connection once everything is sent. */
  end?: boolean;
};

/** Sends the pieces one after another on a new connection. Every answer must be documented. */
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

/**
 * Opens a connection that reads latin1 and ignores resets.
 * @param allowHalfOpen whether the connection stays open for sending after the server ends its side
 */
export function dial(port: number, { allowHalfOpen = false } = {}): Socket {
  return connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen })
    .setEncoding('latin1')
    .on('error', () => {});
}

/** Resolves when the connection is closed for any reason. */
export function closing(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    socket.once('close', () => resolve());
  });
}

/** Returns everything received until the connection is closed. */
export async function readAll(socket: Socket): Promise<string> {
  let text = '';
  socket.on('data', (part: string) => {
    text += part;
  });
  await closing(socket);
  return text;
}
