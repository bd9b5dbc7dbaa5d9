import { EventEmitter, once } from 'node:events';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { createApiKey, hashApiKey } from '@opm/core';
import type { KeyOwner } from '@opm/store';
import { CircuitBreaker } from '../ingest/circuit-breaker.js';
import { type Authenticator, createAuthenticator, type KeySender } from './authenticate.js';

const OWNER: KeyOwner = { keyId: 1, projectId: 1, isPaused: false, limit: undefined };
const OTHER: KeyOwner = { keyId: 2, projectId: 2, isPaused: false, limit: undefined };
/** Its key has already ended when it is read. */
const ENDED: KeyOwner = { keyId: 3, projectId: 3, isPaused: false, limit: undefined, endsInMs: 0 };
const LIMITED = expect.objectContaining({ code: 'TOO_MANY_UNKNOWN_KEYS', retryAfterSeconds: 7 });

const good = createApiKey();
let owners: Map<string, KeyOwner>;
let revision: string;
let polls: EventEmitter;
let outage: CircuitBreaker;
let queries: string[][];
let answerQueries: () => void;
let authenticator: Authenticator;

/** Every address is over its limit of unknown keys. Queries are answered only after `answerQueries`. */
beforeEach(() => {
  queries = [];
  owners = new Map([[hashApiKey(good), OWNER]]);
  revision = 'first';
  polls = new EventEmitter();
  outage = new CircuitBreaker({ onFailure: () => {} });
  const held = new Promise<void>((resolve) => {
    answerQueries = resolve;
  });
  authenticator = createAuthenticator({
    async findOwners(hashes) {
      queries.push(hashes);
      await held;
      return new Map([...owners].filter(([hash]) => hashes.includes(hash)));
    },
    async readRevision() {
      polls.emit('poll');
      return revision;
    },
    breaker: outage,
    unknownKeys: { take: () => undefined, secondsLeft: () => 7 },
  });
});
afterEach(() => authenticator.close());

const createConnection = () => ({ destroyed: false }) as KeySender['socket'] & { destroyed: boolean };

const authenticate = async (apiKey: string, socket: KeySender['socket']) => {
  try {
    return await authenticator.authenticate(apiKey, { socket, ip: '203.0.113.1' });
  } catch (error) {
    return error;
  }
};

test('however many keys an address tries, its new valid key is looked up with the next query', async () => {
  const guesses = Array.from({ length: 70 }, createConnection).flatMap((connection) =>
    Array.from({ length: 90 }, () => authenticate(createApiKey(), connection)),
  );
  const answer = authenticate(good, createConnection());
  answerQueries();
  expect(await answer).toMatchObject(OWNER);
  expect(await Promise.all(guesses)).toEqual(guesses.map(() => LIMITED));
  expect(queries.map((hashes) => hashes.length)).toEqual([1, 70]);
});

test('a valid key that arrives many times over one connection is looked up once', async () => {
  const connection = createConnection();
  const answers = Array.from({ length: 90 }, () => authenticate(good, connection));
  answerQueries();
  for (const answer of await Promise.all(answers)) expect(answer).toMatchObject(OWNER);
  expect(queries).toEqual([[hashApiKey(good)]]);
});

test('keys of closed connections are not looked up', async () => {
  const first = authenticate(createApiKey(), createConnection());
  const closed = Array.from({ length: 5_000 }, createConnection);
  const guesses = closed.map((connection) => authenticate(createApiKey(), connection));
  for (const connection of closed) connection.destroyed = true;
  const answer = authenticate(good, createConnection());
  answerQueries();
  expect(await answer).toMatchObject(OWNER);
  await Promise.all([first, ...guesses]);
  expect(queries.map((hashes) => hashes.length)).toEqual([1, 1]);
});

/** Resolves after two polls; the second one has begun after this call. */
async function untilPolled(): Promise<void> {
  for (let i = 0; i < 2; i++) await once(polls, 'poll');
}

test('cached keys are looked up again only if the revision changes, and then all of them', async () => {
  const other = createApiKey();
  owners.set(hashApiKey(other), OTHER);
  answerQueries();
  await untilPolled();
  for (const key of [good, other]) expect(await authenticate(key, createConnection())).toHaveProperty('projectId');
  await untilPolled();
  for (let i = 0; i < 100; i++) expect(await authenticate(good, createConnection())).toMatchObject(OWNER);
  expect(queries).toEqual([[hashApiKey(good)], [hashApiKey(other)]]);

  owners.delete(hashApiKey(other));
  revision = 'second';
  await untilPolled();
  expect(queries.slice(2)).toEqual([[hashApiKey(good), hashApiKey(other)]]);
  expect(await authenticate(other, createConnection())).toMatchObject({ code: 'KEY_UNKNOWN' });
  expect(await authenticate(good, createConnection())).toMatchObject(OWNER);
  expect(queries).toHaveLength(3);
});

test('during an outage of PostgreSQL a cached key stays valid until its end', async () => {
  const ending = createApiKey();
  owners.set(hashApiKey(ending), ENDED);
  answerQueries();
  for (const key of [good, ending]) expect(await authenticate(key, createConnection())).toHaveProperty('projectId');
  await expect(outage.run(() => Promise.reject(new Error('away')))).rejects.toThrow('away');
  expect(await authenticate(good, createConnection())).toMatchObject(OWNER);
  expect(await authenticate(ending, createConnection())).toMatchObject({ code: 'KEYS_UNAVAILABLE' });
});

test('what was known of keys before an outage of PostgreSQL holds in it: an end, and a pause', async () => {
  const [revoked, paused] = [createApiKey(), createApiKey()];
  owners.set(hashApiKey(revoked), OTHER).set(hashApiKey(paused), OTHER);
  answerQueries();
  await untilPolled();
  for (const key of [revoked, paused, revoked, paused]) {
    expect(await authenticate(key, createConnection())).toMatchObject(OTHER);
  }
  owners.delete(hashApiKey(revoked));
  owners.set(hashApiKey(paused), { ...OTHER, isPaused: true });
  revision = 'second';
  await untilPolled();
  await expect(outage.run(() => Promise.reject(new Error('away')))).rejects.toThrow('away');
  expect(await authenticate(revoked, createConnection())).toMatchObject({ code: 'KEY_UNKNOWN' });
  expect(await authenticate(paused, createConnection())).toMatchObject({ isPaused: true });
});

test('a slow answer about a key does not undo a newer one', async () => {
  const answers: (() => void)[] = [];
  const questions = new EventEmitter();
  const asked = () => once(questions, 'question');
  const other = createAuthenticator({
    findOwners: (hashes) =>
      new Promise((resolve) => {
        const found = new Map([...owners].filter(([hash]) => hashes.includes(hash)));
        answers.push(() => resolve(found));
        questions.emit('question');
      }),
    async readRevision() {
      polls.emit('poll');
      return revision;
    },
    breaker: outage,
    unknownKeys: { take: () => () => {}, secondsLeft: () => 7 },
  });
  const from = { socket: createConnection(), ip: '203.0.113.1' };
  await untilPolled();
  const isAsked = asked();
  const first = other.authenticate(good, from);
  await isAsked;
  answers[0]?.();
  expect(await first).toMatchObject(OWNER);
  revision = 'second';
  await asked();
  owners.delete(hashApiKey(good));
  revision = 'third';
  await asked();
  answers[2]?.();
  await turn();
  answers[1]?.();
  await turn();
  expect(() => other.authenticate(good, from)).toThrow(expect.objectContaining({ code: 'KEY_UNKNOWN' }));
  other.close();
});

test('a key that has ended is not accepted because its look-up fails', async () => {
  const ending = createApiKey();
  owners.set(hashApiKey(ending), ENDED);
  answerQueries();
  expect(await authenticate(ending, createConnection())).toHaveProperty('projectId');
  owners = {
    get [Symbol.iterator](): never {
      throw new Error('away');
    },
  } as unknown as typeof owners;
  expect(await authenticate(ending, createConnection())).toMatchObject({ code: 'KEYS_UNAVAILABLE' });
  expect(outage.isOpen).toBe(true);
});
