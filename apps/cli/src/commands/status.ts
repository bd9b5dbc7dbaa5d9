import { setTimeout as delay } from 'node:timers/promises';
import {
  type QueueStatus,
  readQueueStatus,
  readStoreStatus,
  SILENT_SECONDS,
  type Status,
  toCount,
  toDuration,
  toNumber,
  toP99Ms,
  toStatus,
} from '@opm/operations';
import { Command } from 'commander';
import { escapeControls, type PrintOptions, print, toJson, toTable } from '../print.js';
import { UserError, withInterrupt } from '../user-error.js';
import { findStores, withStore } from '../with-store.js';

const TIMEOUT_MS = 5_000;
const REDRAW_MS = 2_000;

/** Moves the cursor to the top left and clears the rest of the screen. */
const CLEAR = '\u001b[H\u001b[J';

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

async function readStatus(env: NodeJS.ProcessEnv): Promise<Status> {
  const options = { poolSize: 5, connectTimeoutMs: TIMEOUT_MS, statementTimeoutMs: TIMEOUT_MS };
  const [store, queue] = await Promise.all([
    withStore(env, readStoreStatus, options).catch(onlyUserError),
    readQueue(env).catch(onlyUserError),
  ]);
  return toStatus(store, queue);
}

async function readQueue(env: NodeJS.ProcessEnv): Promise<QueueStatus> {
  const { withQueue } = await import('../with-queue.js'); // loads slowly
  return withQueue(env, { force: true, answerTimeoutMs: TIMEOUT_MS }, readQueueStatus);
}

function onlyUserError(error: Error): UserError {
  if (error instanceof UserError) return error;
  throw error;
}

function toLines({ problems, processes, rates, queue, deadLetters, paused }: Status): string[] {
  const p99Ms = toP99Ms(processes);
  const toMs = (ms: number | undefined) => (ms === undefined ? '-' : `${toNumber(Math.ceil(ms))} ms`);
  return [
    problems.length === 0 ? 'Nothing is wrong.' : `${toCount(problems.length, 'problem')}:`,
    ...problems.flatMap(({ what, help }) => [`  ${what}`, `    -> ${help}`]),
    '',
    ...(rates
      ? [
          `accepted ${toNumber(rates.accepted)}/s, refused ${toNumber(rates.refused)}/s, ` +
            `persisted ${toNumber(rates.persisted)}/s (last minute)`,
          `p99 to the acknowledgement ${toMs(p99Ms.ingress)}, to the row ${toMs(p99Ms.worker)} (last seconds)`,
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
