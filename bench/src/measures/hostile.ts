import { randomUUID } from 'node:crypto';
import { Agent, request } from 'node:http';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { median, toTable } from '@opm/testkit';
import { startProject } from '../contenders.js';
import { HOSTILE, KIB_16, MIB, type Shape, VALID, VALID_NAME } from '../hostile/shapes.js';
import type { Target } from '../load/generators.js';
import { medianRatio, type Report, withRounds } from '../report.js';
import type { Servers } from '../servers.js';

type HostileOptions = { mib: number; rounds: number };

/** On SIGWINCH the ingress prints the longest turn of the event loop since the last print. */
const WATCH_TURNS = `
  import { monitorEventLoopDelay } from 'node:perf_hooks';
  const turns = monitorEventLoopDelay({ resolution: 1 });
  turns.enable();
  process.on('SIGWINCH', () => {
    process.stdout.write('longest turn: ' + turns.max / 1e6 + ' ms\\n');
    turns.reset();
  });`;

type Run = { shape: Shape; msPerMib: number[]; longestTurnMs: number[]; slowestPingMs: number[] };
type Ingress = Awaited<ReturnType<typeof startProject>>;

/**
 * Measures the CPU that a MiB of a hostile body costs in the ingress, and how long it delays others, next to a MiB of
 * valid entries. No worker runs.
 */
export async function measureHostile(servers: Servers, { mib, rounds }: HostileOptions): Promise<Report> {
  const groups = Object.entries(VALID).map(([name, valid]) => ({
    name,
    runs: [valid, ...(HOSTILE[name] ?? [])].map(
      (shape): Run => ({ shape, msPerMib: [], longestTurnMs: [], slowestPingMs: [] }),
    ),
  }));
  const env = {
    NODE_OPTIONS: `--import "data:text/javascript,${encodeURIComponent(WATCH_TURNS)}"`,
    EVENT_LOOP_MAX_DELAY_MS: '10000', // High enough that the ingress never refuses a request as overloaded.
  };
  await servers.inFreshPlace(async (place) => {
    const ingress = await startProject(place, env);
    // Lets the ingress compile its hot code.
    for (const { runs } of groups) for (const { shape } of runs) await uploadAll(ingress, shape, 1);
    for (let round = 1; round <= rounds; round++) {
      for (const { name, runs } of groups) {
        for (const run of runs) {
          await measure(ingress, run, mib);
          const [ms, turn, ping] = [run.msPerMib, run.longestTurnMs, run.slowestPingMs].map((all) =>
            all.at(-1)?.toFixed(1),
          );
          console.log(`round ${round}: ${name}, ${run.shape.name}: ${ms} ms per MiB, turn ${turn} ms, ping ${ping} ms`);
        }
      }
    }
  });
  const tables = groups.map(({ name, runs }) => {
    const valid = runs[0] as Run;
    return toTable(
      [`POST ${name}`, '#ms per MiB', '#÷ valid', '#longest turn, ms', '#slowest ping, ms'],
      runs.map(({ shape, msPerMib, longestTurnMs, slowestPingMs }) => [
        shape.name,
        median(msPerMib).toFixed(1),
        medianRatio(msPerMib, valid.msPerMib).toFixed(2),
        median(longestTurnMs).toFixed(1),
        median(slowestPingMs).toFixed(1),
      ]),
    );
  });
  return {
    name: 'hostile',
    tables: withRounds(tables.join('\n\n'), rounds),
    verdicts: groups.map(({ name, runs: [valid, ...hostile] }) => ({
      measure: `processor per MiB of the dearest body ÷ of valid entries, ${name}`,
      expected: { atMost: 1 },
      measured: Math.max(
        ...hostile
          .filter(({ shape }) => !shape.name.startsWith(VALID_NAME))
          .map(({ msPerMib }) => medianRatio(msPerMib, valid?.msPerMib ?? [])),
      ),
    })),
  };
}

async function measure(ingress: Ingress, run: Run, mib: number): Promise<void> {
  await readLongestTurn(ingress);
  const secondsBefore = await ingress.readMetric('process_cpu_seconds_total');
  await readLongestTurn(ingress);
  const stop = new AbortController();
  const pings = pingUntil(ingress, stop.signal);
  const sent = await uploadAll(ingress, run.shape, mib);
  const turn = await readLongestTurn(ingress);
  stop.abort();
  run.slowestPingMs.push(await pings);
  const seconds = (await ingress.readMetric('process_cpu_seconds_total')) - secondsBefore;
  run.msPerMib.push((seconds * 1_000) / sent);
  run.longestTurnMs.push(turn);
}

/**
 * Pings one request at a time.
 * @returns the slowest ping, in ms
 */
async function pingUntil({ url, apiKey }: Target, signal: AbortSignal): Promise<number> {
  let slowest = 0;
  while (!signal.aborted) {
    const startedAt = performance.now();
    await fetch(`${url}/ping`, { headers: { 'x-api-key': apiKey } }).then((response) => response.arrayBuffer());
    slowest = Math.max(slowest, performance.now() - startedAt);
    await delay(5);
  }
  return slowest;
}

async function readLongestTurn({ pid, output }: Ingress): Promise<number> {
  const readAll = () => Array.from(output().matchAll(/longest turn: ([\d.]+) ms/g), ([, ms]) => Number(ms));
  const before = readAll().length;
  process.kill(pid, 'SIGWINCH');
  while (readAll().length === before) await delay(1);
  return readAll().at(-1) ?? Number.NaN;
}

const UPLOADS = 4;

/** Single entries take so much longer that fewer of them are enough. */
const PART_OF_SINGLES = 1 / 16;

/**
 * Sends bodies of one shape, a few at the same time.
 * @returns MiB sent
 * @throws Error if an answer has a status that the shape does not allow
 */
async function uploadAll({ url, apiKey }: Target, shape: Shape, mib: number): Promise<number> {
  const agent = new Agent({ keepAlive: true, maxSockets: UPLOADS });
  let bytes = 0;
  const wanted = mib * MIB * (shape.isSingle ? PART_OF_SINGLES : 1);
  const sendSome = async () => {
    while (bytes < wanted) {
      const body = shape.next();
      bytes += countBytes(shape, body);
      await upload(body);
    }
  };
  await Promise.all(Array.from({ length: UPLOADS }, sendSome));
  agent.destroy();
  return bytes / MIB;

  async function upload(body: Buffer): Promise<void> {
    const { name, statuses, chunkBytes } = shape;
    const { status, answer } = await (chunkBytes ? sendChunks(body, chunkBytes) : send(body));
    if (status === 503) return upload(body); // Retries, as a partner does.
    if (!statuses.includes(status)) throw new Error(`${name}: ${status} ${answer.slice(0, 200)}`);
  }

  function toHeaders() {
    const { type, isKeyed, isGzip } = shape;
    return {
      'x-api-key': apiKey,
      'content-type': type,
      ...(isKeyed && { 'idempotency-key': randomUUID() }),
      ...(isGzip && { 'content-encoding': 'gzip' }),
    };
  }

  function send(body: Buffer): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const headers = { ...toHeaders(), 'content-length': body.length };
      const outgoing = request(url + shape.path, { method: 'POST', agent, headers }, async (response) => {
        resolve({ status: response.statusCode ?? 0, answer: await text(response) });
      });
      outgoing.on('error', reject).end(body);
    });
  }

  /** Writes to a socket: with Node's client, writing the chunks one by one would take longer than the ingress waits. */
  async function sendChunks(body: Buffer, bytes: number): Promise<Answer> {
    const { hostname, port } = new URL(url);
    const headers = { ...toHeaders(), host: hostname, connection: 'close', 'transfer-encoding': 'chunked' };
    const lines = Object.entries(headers).map(([header, value]) => `${header}: ${value}\r\n`);
    const socket = connect(Number(port), hostname);
    socket.write(`POST ${shape.path} HTTP/1.1\r\n${lines.join('')}\r\n${toChunks(body, bytes)}`);
    const answer = await text(socket);
    return { status: Number(answer.split(' ', 2)[1]), answer };
  }
}

/** Bytes that the body counts as, see docs/partners.md: those that arrive, twice if compressed, or those inflated. */
function countBytes({ path, chunkBytes, isGzip }: Shape, body: Buffer): number {
  // The frame of a chunk takes five bytes.
  if (!isGzip) return body.length * (chunkBytes ? 1 + 5 / chunkBytes : 1);
  const limit = path === '/entry' ? KIB_16 : MIB;
  const inflatedSize = body.readUInt32LE(body.length - 4); // of the last member
  return Math.max(2 * body.length, Math.min(limit, inflatedSize));
}

type Answer = { status: number; answer: string };

function toChunks(body: Buffer, bytes: number): string {
  const chunks = Array.from({ length: Math.ceil(body.length / bytes) }, (_, i) =>
    body.toString('latin1', i * bytes, (i + 1) * bytes),
  );
  return `${chunks.map((chunk) => `${chunk.length.toString(16)}\r\n${chunk}\r\n`).join('')}0\r\n\r\n`;
}
