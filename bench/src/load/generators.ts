import { execFile, spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import autocannon from 'autocannon';

const SCRIPT = fileURLToPath(new URL('../../load/entries.lua', import.meta.url));
const PROBE_SECONDS = 1;

export async function loadWithWrk(stream: Stream): Promise<Measured> {
  return stream.rate === undefined ? runWrk(stream) : runWrk({ ...stream, thinkMs: await findThinkMs(stream) });
}

/** `wrk -v` exits with code 1 even if wrk is installed. */
export async function hasWrk(): Promise<boolean> {
  const error = await promisify(execFile)('wrk', ['-v']).catch((cause: NodeJS.ErrnoException) => cause);
  return !('code' in error && error.code === 'ENOENT');
}

/**
 * Finds the think time that gives the wanted rate. Each connection sends, waits for the answer and thinks; a short run
 * shows how long answers take.
 */
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
  const { target, path, seconds, connections, ids, customers, thinkMs = 0, batch = 0, isKeyed = false } = stream;
  const known = customers === 'new' ? 0 : customers.known;
  const options = ['-t1', `-c${connections}`, `-d${seconds}`, '--timeout', '10', '-s', SCRIPT, target.url + path];
  const settings = [known, thinkMs, batch, isKeyed].map(String);
  const wrk = spawn('wrk', [...options, '--', keys, ids, ...settings], { stdio: ['ignore', 'pipe', 'inherit'] });
  const kill = () => wrk.kill();
  process.once('exit', kill);
  const output = await text(wrk.stdout);
  process.off('exit', kill);
  const line = output.split('\n').findLast((it) => it.startsWith('{'));
  if (!line) throw new Error(`wrk did not finish:\n${output}`);
  return JSON.parse(line);
}

/** Sends the same entries as load/entries.lua if wrk is not installed. */
export async function loadWithAutocannon(stream: Stream): Promise<Measured> {
  const { target, seconds, path, connections, rate } = stream;
  const nextEntry = createEntries(stream);
  const nextBody = () => JSON.stringify(stream.batch ? Array.from({ length: stream.batch }, nextEntry) : nextEntry());
  const keys = target.turns ?? [target.apiKey];
  let turn = 0;
  const nextHeaders = () => ({
    'x-api-key': keys[turn++ % keys.length] as string,
    'content-type': 'application/json',
    ...(stream.isKeyed && { 'idempotency-key': `${stream.ids}${String(turn).padStart(28, '0')}` }),
  });
  const { requests, duration, non2xx, errors, latency } = await autocannon({
    url: target.url + path,
    connections,
    duration: seconds,
    requests: [
      { method: 'POST', setupRequest: (request) => ({ ...request, headers: nextHeaders(), body: nextBody() }) },
    ],
    ...(rate === undefined ? {} : { overallRate: rate }),
  });
  return {
    requests: requests.total,
    seconds: duration,
    refused: non2xx,
    socketErrors: errors,
    p50Ms: latency.p50,
    p99Ms: latency.p99,
  };
}

function createEntries({ ids, customers }: Stream): () => object {
  let requests = 0;
  return () => {
    const customer = customers === 'new' ? ++requests : 1 + Math.floor(Math.random() * customers.known);
    const n = String(customer).padStart(10, '0');
    return {
      customerId: `${ids}${n}`,
      customerEmail: `customer.${n}@example.com`,
      customerPhone: `+49 30 ${n}`,
      customerFirstName: 'First',
      customerLastName: `Last ${n}`,
      customerIP: '203.0.113.7',
    };
  };
}

/** The result of a load generator. */
export type Measured = LoadResult & { refused: number; socketErrors: number };

/** A load with everything that a generator needs. */
export type Stream = Load & { path: string; connections: number; ids: string; thinkMs?: number };

/** Prefix of the ids of stored customers; ten digits follow. */
export const KNOWN_IDS = 'known-';

export type Load = {
  target: Target;
  /** More targets of the same kind. All targets share the connections evenly. */
  besides?: Target[];
  seconds: number;
  /**
   * `new`: each entry is about a new customer. Otherwise about one of the first `known` customers of `fillCustomers`.
   */
  customers: 'new' | { known: number };
  /** Requests per second over all connections; by default as many as the target can answer. */
  rate?: number;
  /** Entries per request to POST /entries; by default each entry is one POST /entry. */
  batch?: number | undefined;
  /** Whether each request has an idempotency key of its own. Only for new customers. */
  isKeyed?: boolean | undefined;
  /** Number of connections; by default 100, or 10 for batches. */
  connections?: number;
};

export type LoadResult = { requests: number; seconds: number; p50Ms: number; p99Ms: number };

/** Where to send entries. */
export type Target = {
  url: string;
  apiKey: string;
  /** The API keys that requests use in turn; by default all use `apiKey`. */
  turns?: string[];
};
