import { setTimeout as delay } from 'node:timers/promises';
import { median, toTable } from '@opm/testkit';
import { startProject, type Target } from '../contenders.js';
import { HOSTILE, type Shape, VALID } from '../hostile/shapes.js';
import { uploadAll } from '../hostile/upload.js';
import { medianRatio, type Report, withRounds } from '../report.js';
import type { Servers } from '../servers.js';

export type HostileOptions = { mib: number; rounds: number };

/** Prints the longest turn of the event loop since the last time, when it is told to. */
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

/** What a MiB that nobody should send takes of the ingress, and of others’ time, beside a MiB of valid entries. No worker runs. */
export async function measureHostile(servers: Servers, { mib, rounds }: HostileOptions): Promise<Report> {
  const groups = Object.entries(VALID).map(([name, valid]) => ({
    name,
    runs: [valid, ...(HOSTILE[name] ?? [])].map(
      (shape): Run => ({ shape, msPerMib: [], longestTurnMs: [], slowestPingMs: [] }),
    ),
  }));
  const env = {
    NODE_OPTIONS: `--import "data:text/javascript,${encodeURIComponent(WATCH_TURNS)}"`,
    EVENT_LOOP_MAX_DELAY_MS: '10000', // all is worked on, and nothing refused because of what it does to others
  };
  await servers.inFreshPlace(async (place) => {
    const ingress = await startProject(place, env);
    for (const { runs } of groups) for (const { shape } of runs) await uploadAll(ingress, shape, 1); // compiles what is hot
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
      measured: Math.max(...hostile.map(({ msPerMib }) => medianRatio(msPerMib, valid?.msPerMib ?? []))),
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

/** One after the other. @returns how long the slowest of them took */
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
