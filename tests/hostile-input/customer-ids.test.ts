import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { BACKENDS } from '@opm/testkit';
import fc from 'fast-check';
import { NAUGHTY_STRINGS, text } from './bodies.js';
import { toRequest } from './requests.js';
import { explore } from './runs.js';
import { type Project, Stack } from './stack.js';
import { valueToRow } from './to-row.js';

describe.each(BACKENDS)('with the queue on %s,', (queue, createBackend) => {
  let stack: Stack;
  beforeAll(async () => {
    stack = await Stack.start(await createBackend());
  });
  afterAll(async () => {
    await stack.expectUnharmed();
    await stack.stop();
  });

  /** Well-formed ids that fetch does not resolve as a path segment. */
  const canTravel = (id: string) => id.isWellFormed() && !/^\.{1,2}$/.test(id) && id !== '';
  const call = (project: Project, method: string, customerId: string) =>
    stack.fetch(project, `/entry/${encodeURIComponent(customerId)}`, { method });

  /**
   * Creates, reads and erases each of these customers, and checks that it is gone. Another customer must stay
   * untouched.
   */
  async function expectLives(drawn: string[]): Promise<void> {
    const project = await stack.createProject();
    const bystander = { customerId: 'a bystander', customerPhone: '0' };
    await stack.post(project, JSON.stringify(bystander));
    const ids = [...new Set(drawn)].filter((id) => canTravel(id) && id !== bystander.customerId);
    const isStorable = (customerId: string) => valueToRow({ customerId, customerPhone: '1' }) !== undefined;
    const statuses = async (make: (id: string) => Promise<{ status: number }>) =>
      (await Promise.all(ids.map(make))).map(({ status }) => status);
    const expected = (status: number) => ids.map((id) => (isStorable(id) ? status : 400));

    expect(await statuses((id) => stack.post(project, JSON.stringify({ customerId: id, customerPhone: '1' })))).toEqual(
      expected(201),
    );
    const answers = await Promise.all(ids.map((id) => call(project, 'GET', id)));
    for (const [i, { status, text }] of answers.entries()) {
      const customerId = ids[i] as string;
      expect(status).toBe(isStorable(customerId) ? 200 : 400);
      if (status === 200) expect(JSON.parse(text).customer).toMatchObject({ customerId });
    }
    expect(await statuses((id) => call(project, 'DELETE', id))).toEqual(expected(202));
    expect(await statuses((id) => call(project, 'GET', id))).toEqual(expected(404));
    expect(await statuses((id) => call(project, 'DELETE', id))).toEqual(expected(404));
    expect([...(await stack.readRows(project)).keys()]).toEqual([bystander.customerId]);
  }

  test('a customer with any naughty string as id is read and erased, and no other customer', async () => {
    for (let i = 0; i < NAUGHTY_STRINGS.length; i += 50) await expectLives(NAUGHTY_STRINGS.slice(i, i + 50));
  });

  test('a customer with any id is read and erased, and no other customer', async () => {
    await explore(fc.asyncProperty(fc.array(text, { minLength: 10, maxLength: 40 }), expectLives));
  });

  if (queue === 'PostgreSQL') return; // the rest is about paths; differential.test.ts compares the answers with both

  const piece = fc.oneof(
    fc.constantFrom('%', '%2', '%00', '%2f', '%2F', '/', '//', '..', '%2e%2e', '%ff', '%c0%af', '%ed%a0%80', '%f0%9f'),
    fc.constantFrom('?', '#', ';', '\\', '*', ':customerId', '+', '%20', '%0d%0a', '\xe4', '&', '=', '__proto__', '[]'),
    fc.stringMatching(/^[!-~]{1,10}$/),
    fc.constant('a'.repeat(300)),
  );
  const path = fc.array(piece, { maxLength: 5 }).map((pieces) => `/entry/${pieces.join('')}`);
  const method = fc.constantFrom('GET', 'DELETE', 'POST', 'PUT');

  test('whatever the path, the answer is documented, and nothing is stored', async () => {
    const property = fc.asyncProperty(
      fc.array(fc.tuple(method, path), { minLength: 10, maxLength: 40 }),
      async (calls) => {
        const project = await stack.createProject();
        const answers = calls.map(async ([verb, target]) => {
          const request = toRequest(`${verb} ${target}`, [`x-api-key: ${project.apiKey}`, 'connection: close']);
          return stack.talk([request]);
        });
        for (const [answer] of await Promise.all(answers)) {
          if (answer) expect([400, 404, 405]).toContain(answer.status);
        }
        expect(await stack.readRows(project)).toEqual(new Map());
      },
    );
    await explore(property);
  });
});
