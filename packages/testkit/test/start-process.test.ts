import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { findFreePort } from '@opm/embedded';
import { isRunning, startProcess, waitFor } from '@opm/testkit';

let directory: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'opm-process-'));
});

afterAll(() => rm(directory, { recursive: true }));

describe('startProcess', () => {
  test('is ready once the output matches, and stops on the signal', async () => {
    const file = await script(`
      process.on('SIGTERM', () => { console.log('bye ' + process.env.NAME); process.exit(3); });
      setInterval(() => {}, 1000);
      console.log('listening');`);
    const child = await startProcess({ file, env: { NAME: 'opm' }, readyOutput: /listening/ });
    expect(await child.stop()).toEqual({ code: 3, signal: null });
    expect(child.output()).toBe('listening\nbye opm\n');
    expect(await child.stop('SIGKILL')).toEqual({ code: 3, signal: null });
  });

  test('is ready once the URL answers 2xx', async () => {
    const file = await script(`
      import { createServer } from 'node:http';
      let asked = 0;
      const server = createServer((_, response) => { response.statusCode = ++asked < 3 ? 503 : 200; response.end('x'); });
      server.listen(process.argv[2], '127.0.0.1');`);
    const port = String(await findFreePort());
    const child = await startProcess({ file, args: [port], readyUrl: `http://127.0.0.1:${port}/readyz` });
    expect(await child.stop('SIGKILL')).toEqual({ code: null, signal: 'SIGKILL' });
  });

  test('rejects at once if the process exits first, with its output', async () => {
    const file = await script(`console.error('DATABASE_URL is not set'); process.exitCode = 1;`);
    await expect(startProcess({ file, readyOutput: /never/ })).rejects.toThrow(
      /did not become ready.*DATABASE_URL is/s,
    );
  });

  test('a process ends with its parent, even if SIGKILL ends that', async () => {
    const grandchild = await script(`setInterval(() => {}, 1000); console.log('up');`);
    const parent = await script(`
      import { startProcess } from ${JSON.stringify(import.meta.resolve('@opm/testkit'))};
      const child = await startProcess({ file: ${JSON.stringify(grandchild)}, readyOutput: /up/ });
      console.log('pid=' + child.pid);`);
    const child = await startProcess({ file: parent, readyOutput: /pid=\d+/ });
    const pid = Number(/pid=(\d+)/.exec(child.output())?.[1]);
    expect(await isRunning(pid)).toBe(true);
    await child.stop('SIGKILL');
    await waitFor(async () => !(await isRunning(pid)), { description: 'the grandchild to exit' });
  });
});

let scripts = 0;

async function script(source: string): Promise<string> {
  scripts += 1;
  const file = join(directory, `script-${scripts}.mjs`);
  await writeFile(file, source);
  return file;
}
