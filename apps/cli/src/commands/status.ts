import { setTimeout as delay } from 'node:timers/promises';
import type { Store } from '@opm/store';
import { Command } from 'commander';
import { countAll } from '../dead-letters/filter-options.js';
import { escapeControls, type PrintOptions, print, toJson, toTable } from '../print.js';
import {
  findProblems,
  type QueueStatus,
  SILENT_SECONDS,
  toCount,
  toDuration,
  toNumber,
} from '../status/find-problems.js';
import { UserError, withInterrupt } from '../user-error.js';
import { findStores, withStore } from '../with-store.js';

const TIMEOUT_MS = 5_000;
const REDRAW_MS = 2_000;
const HOUR_MS = 3_600_000;

/** Moves the cursor to the top left and clears the rest of the screen. */
const CLEAR = '\u001b[H\u001b[J';

type Status = Awaited<ReturnType<typeof readStatus>>;

export function statusCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('status')
    .option('--watch', 'redraw every two seconds, until Ctrl-C')
    .option('--json', 'print JSON')
    .description('Show what is wrong, what to do, and how busy everything is. Exits with 1 if something is wrong.')
    .action(async (options: PrintOptions & { watch?: true }) => {
      await findStores(env); // an unknown stack is an error of the command
      if (options.watch) return watch(env, options);
      const status = await readStatus(env);
      print(options, status, toLines(status));
      if (status.problems.length > 0) process.exitCode = 1;
    });
}

function watch(env: NodeJS.ProcessEnv, { json }: PrintOptions): Promise<void> {
  return withInterrupt(async (signal) => {
    while (!signal.aborted) {
      const status = await readStatus(env);
      const text = json ? toJson(status) : toLines(status).map(escapeControls).join('\n');
      console.log(process.stdout.isTTY && !json ? `${CLEAR}${text}` : text);
      await delay(REDRAW_MS, undefined, { signal }).catch(() => {});
    }
  });
}

async function readStatus(env: NodeJS.ProcessEnv) {
  const [store, queue] = await Promise.all([readStore(env), readQueue(env)]);
  const known = store instanceof Error ? undefined : store;
  return {
    problems: findProblems(store, queue),
    processes: known?.processes ?? [],
    rates: known?.rates,
    queue: queue instanceof Error ? undefined : queue,
    deadLetters: known?.deadLetters,
    paused: known?.projects.flatMap(({ name, pausedAt }) => (pausedAt ? name : [])) ?? [],
  };
}

function readStore(env: NodeJS.ProcessEnv) {
  const options = { poolSize: 5, connectTimeoutMs: TIMEOUT_MS, statementTimeoutMs: TIMEOUT_MS };
  return withStore(env, readActivity, options).catch(onlyUserError);
}

async function readActivity(store: Store) {
  const now = await store.now();
  const [processes, projects, lastHour, silentProjects, letters] = await Promise.all([
    store.activity.processes(),
    store.projects.list(),
    store.activity.projects(new Date(now.getTime() - HOUR_MS)),
    store.activity.silentProjects(),
    store.deadLetters.count({}),
  ]);
  const sum = (rate: 'acceptedPerSecond' | 'refusedPerSecond' | 'persistedPerSecond') =>
    lastHour.reduce((total, project) => total + project[rate], 0);
  const rates = {
    accepted: sum('acceptedPerSecond'),
    refused: sum('refusedPerSecond'),
    persisted: sum('persistedPerSecond'),
  };
  return { now, processes, projects, lastHour, silentProjects, rates, deadLetters: countAll(letters) };
}

async function readQueue(env: NodeJS.ProcessEnv): Promise<QueueStatus | Error> {
  const { withQueue } = await import('../with-queue.js'); // loads slowly
  return withQueue(env, { force: true, answerTimeoutMs: TIMEOUT_MS }, async (queue) => {
    const [{ entries, memory }, backlog, idle, check] = await Promise.all([
      queue.load(),
      queue.readBacklog(),
      queue.findIdle(),
      queue.check().catch(({ message }: Error) => message),
    ]);
    const { waiting, prioritized, active, delayed } = backlog.jobs;
    const jobs = waiting + prioritized + active + delayed;
    return { entries, jobs, oldestSeconds: backlog.oldestMs / 1_000, memory, idle, check: check ?? undefined };
  }).catch(onlyUserError);
}

function onlyUserError(error: Error): UserError {
  if (error instanceof UserError) return error;
  throw error;
}

function toLines({ problems, processes, rates, queue, deadLetters, paused }: Status): string[] {
  const latency = (name: string) =>
    Math.max(
      ...processes.flatMap(({ name: own, state, silentSeconds }) =>
        own === name && silentSeconds < SILENT_SECONDS ? (state.p99Ms ?? []) : [],
      ),
    );
  const toMs = (ms: number) => (Number.isFinite(ms) ? `${toNumber(Math.ceil(ms))} ms` : '-');
  return [
    problems.length === 0 ? 'Nothing is wrong.' : `${toCount(problems.length, 'problem')}:`,
    ...problems.flatMap(({ what, help }) => [`  ${what}`, `    -> ${help}`]),
    '',
    ...(rates
      ? [
          `accepted ${toNumber(rates.accepted)}/s, refused ${toNumber(rates.refused)}/s, ` +
            `persisted ${toNumber(rates.persisted)}/s (last minute)`,
          `p99 to the acknowledgement ${toMs(latency('ingress'))}, to the row ${toMs(latency('worker'))} (last seconds)`,
        ]
      : []),
    ...(queue
      ? [
          `waiting: ${toCount(queue.entries, 'entry')} in ${toCount(queue.jobs, 'job')}, the oldest for ` +
            `${toDuration(queue.oldestSeconds)}; memory of the queue ${Math.round(100 * queue.memory)} %`,
        ]
      : []),
    ...(deadLetters === undefined ? [] : [toCount(deadLetters, 'dead letter')]),
    ...(paused.length > 0 ? [`paused: ${paused.join(', ')}`] : []),
    '',
    ...toTable(
      processes.map(({ name, host, pid, version, uptimeSeconds, silentSeconds, state }) => ({
        ...{ process: name, host, pid, version },
        ...{ uptime: toDuration(uptimeSeconds), 'last report': `${toDuration(silentSeconds)} ago` },
        state: silentSeconds >= SILENT_SECONDS ? 'does not report' : state.isPaused ? 'paused' : 'ok',
      })),
    ),
  ];
}
