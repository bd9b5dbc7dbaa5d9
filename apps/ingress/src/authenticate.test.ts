import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { createApiKey, hashApiKey } from '@opm/core';
import { type Asker, type Authenticator, createAuthenticator } from './authenticate.js';
import { OutagePause } from './outage-pause.js';

const OWNER = { projectId: 1, limit: undefined };
const LIMITED = expect.objectContaining({ code: 'TOO_MANY_UNKNOWN_KEYS', retryAfterSeconds: 7 });

const good = createApiKey();
let queries: string[][];
let answerQueries: () => void;
let authenticator: Authenticator;

/** Every address has tried too many keys. No query is answered before `answerQueries`. */
beforeEach(() => {
  queries = [];
  const held = new Promise<void>((resolve) => {
    answerQueries = resolve;
  });
  authenticator = createAuthenticator({
    async findOwners(hashes) {
      queries.push(hashes);
      await held;
      return new Map(hashes.filter((hash) => hash === hashApiKey(good)).map((hash) => [hash, OWNER]));
    },
    pause: new OutagePause({ onFailure: () => {} }),
    unknownKeys: { take: () => undefined, secondsLeft: () => 7 },
  });
});
afterEach(() => authenticator.close());

const createConnection = () => ({ destroyed: false }) as Asker['socket'] & { destroyed: boolean };

const authenticate = async (apiKey: string, socket: Asker['socket']) => {
  try {
    return await authenticator.authenticate(apiKey, { socket, ip: '203.0.113.1' });
  } catch (error) {
    return error;
  }
};

test('however many keys an address tries, a new good one from there is looked up with the next query', async () => {
  const guesses = Array.from({ length: 70 }, createConnection).flatMap((connection) =>
    Array.from({ length: 90 }, () => authenticate(createApiKey(), connection)),
  );
  const answer = authenticate(good, createConnection());
  answerQueries();
  expect(await answer).toMatchObject(OWNER);
  expect(await Promise.all(guesses)).toEqual(guesses.map(() => LIMITED));
  expect(queries.map((hashes) => hashes.length)).toEqual([1, 70]);
});

test('a good key that comes many times over one connection is looked up once', async () => {
  const connection = createConnection();
  const answers = Array.from({ length: 90 }, () => authenticate(good, connection));
  answerQueries();
  for (const answer of await Promise.all(answers)) expect(answer).toMatchObject(OWNER);
  expect(queries).toEqual([[hashApiKey(good)]]);
});

test('keys of connections that are closed are not looked up', async () => {
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
