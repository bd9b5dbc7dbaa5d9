import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { startProcess } from '@opm/testkit';

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'opm-process-'));
});
afterAll(() => rm(directory, { recursive: true }));

/** Runs a process with this code as its `start`, which may call `onClose`. Resolves at `readyOutput`. */
async function run(start: string, readyOutput = /started/, env: NodeJS.ProcessEnv = {}) {
  const file = join(directory, 'main.mjs');
  await writeFile(
    file,
    `import { setTimeout as delay } from 'node:timers/promises';
    import { port, runProcess, PROCESS_ENV } from ${JSON.stringify(import.meta.resolve('@opm/runtime'))};
    const spec = { ...PROCESS_ENV, INTERNAL_PORT: port({ default: 0 }) };
    await runProcess({ name: 'test', env: process.env, spec, start: async ({ onClose }) => { ${start} } });
    console.log('started');`,
  );
  return startProcess({
    file,
    env: { DATABASE_URL: 'postgresql://nobody', INTERNAL_HOST: '127.0.0.1', SHUTDOWN_TIMEOUT_MS: '60000', ...env },
    readyOutput,
  });
}

test('unhandled errors during a shutdown do not stop it, and the process exits with 0', async () => {
  const child = await run(`
    onClose('second', () => console.log('closed the second'));
    onClose('first', async () => {
      setImmediate(() => { throw new Error('late'); });
      await delay(50);
      void Promise.reject(new Error('later'));
      await delay(50);
    })`);
  expect(await child.stop()).toEqual({ code: 0, signal: null });
  expect(child.output()).toMatch(/"late".*"later".*closed the second.*"stopped"/s);
});

test('an unhandled error stops a process, which closes its resources and exits with 1', async () => {
  const child = await run(
    `
    onClose('first', () => console.log('closed the first'));
    setTimeout(() => { throw new Error('unexpected'); }, 50)`,
    /unexpected/,
  );
  expect(await child.exited).toEqual({ code: 1, signal: null });
  expect(child.output()).toMatch(/"unexpected".*closed the first.*"stopped"/s);
});

test('a process whose start fails exits with 1, even if a resource does not close', async () => {
  const start = `
    onClose('first', () => delay(600_000));
    throw new Error('nothing there');`;
  const child = await run(start, /nothing there/, { SHUTDOWN_TIMEOUT_MS: '1000' });
  expect(await child.exited).toEqual({ code: 1, signal: null });
  expect(child.output()).toBe('test: nothing there\n');
});

test('a process told to stop after its start failed closes all once, in reverse order, and exits with 1', async () => {
  const start = `
    onClose('first', () => console.log('closed the first'));
    onClose('second', async () => {
      process.kill(process.pid, 'SIGTERM');
      await delay(100);
      console.log('closed the second');
    });
    onClose('third', () => console.log('closed the third'));
    throw new Error('nothing there');`;
  const child = await run(start, /nothing there/);
  expect(await child.exited).toEqual({ code: 1, signal: null });
  const closed = child.output().match(/closed the \w+/g);
  expect(closed).toEqual(['closed the third', 'closed the second', 'closed the first']);
});

test('a variable that has been removed and is still set is named in a warning, without its value', async () => {
  const child = await run('', /started/, { STATEMENTS_IN_FLIGHT: 'a secret', DATABASE_POOL_SIZE: '' });
  expect(await child.stop()).toEqual({ code: 0, signal: null });
  const warnings = child
    .output()
    .split('\n')
    .filter((line) => line.includes('"level":"warn"'));
  expect(warnings).toEqual([expect.stringMatching(/"variables":\["STATEMENTS_IN_FLIGHT"\].*no effect any more/)]);
  expect(warnings.join()).not.toContain('a secret');
});
