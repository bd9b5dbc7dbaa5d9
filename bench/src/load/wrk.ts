import { execFile, spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Measured, Stream } from './run-load.js';

const SCRIPT = fileURLToPath(new URL('../../load/entries.lua', import.meta.url));
const PROBE_SECONDS = 1;

export async function loadWithWrk(stream: Stream): Promise<Measured> {
  return stream.rate === undefined ? runWrk(stream) : runWrk({ ...stream, thinkMs: await findThinkMs(stream) });
}

/** wrk answers `-v` with exit code 1, and is there all the same. */
export async function hasWrk(): Promise<boolean> {
  const error = await promisify(execFile)('wrk', ['-v']).catch((cause: NodeJS.ErrnoException) => cause);
  return !('code' in error && error.code === 'ENOENT');
}

/** Each connection sends, waits for the answer and thinks. A short run without enough thinking shows how long answers take. */
async function findThinkMs(stream: Stream & { rate?: number }): Promise<number> {
  const { connections, customers, rate = 1 } = stream;
  const periodMs = (connections / rate) * 1_000;
  const ids = customers === 'new' ? `${stream.ids}probe-` : stream.ids;
  const { requests, seconds } = await runWrk({ ...stream, seconds: PROBE_SECONDS, ids, thinkMs: periodMs });
  const answerMs = (connections / (requests / seconds)) * 1_000 - periodMs;
  return Math.max(periodMs - answerMs, 0.5);
}

async function runWrk(stream: Stream): Promise<Measured> {
  const directory = await mkdtemp(join(tmpdir(), 'opm-bench-'));
  const keys = join(directory, 'keys');
  await writeFile(keys, (stream.target.turns ?? [stream.target.apiKey]).join('\n'));
  return runWrkWith(keys, stream).finally(() => rm(directory, { recursive: true }));
}

async function runWrkWith(keys: string, stream: Stream): Promise<Measured> {
  const { target, path, seconds, connections, ids, customers, thinkMs = 0, batch = 0 } = stream;
  const known = customers === 'new' ? 0 : customers.known;
  const options = ['-t1', `-c${connections}`, `-d${seconds}`, '--timeout', '10', '-s', SCRIPT, target.url + path];
  const wrk = spawn('wrk', [...options, '--', keys, ids, String(known), String(thinkMs), String(batch)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const kill = () => wrk.kill();
  process.once('exit', kill);
  const output = await text(wrk.stdout);
  process.off('exit', kill);
  const line = output.split('\n').findLast((it) => it.startsWith('{'));
  if (!line) throw new Error(`wrk did not finish:\n${output}`);
  return JSON.parse(line);
}
