import { setTimeout as delay } from 'node:timers/promises';
import {
  type QueueStatus,
  type ResendWindow,
  readQueueStatus,
  readResendWindow,
  readStoreStatus,
  SILENT_SECONDS,
  type Status,
  toCount,
  toDuration,
  toMemory,
  toNumber,
  toP99Ms,
  toStatus,
  toWaiting,
} from '@opm/operations';
import { Command } from 'commander';
import { type Moment, parseMoment } from '../parse.js';
import { confirm, escapeControls, type PrintOptions, print, toJson, toTable, YES } from '../print.js';
import { UserError, withInterrupt } from '../user-error.js';
import { findStores, recordChange, withStore } from '../with-store.js';

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
      await findStores(env); // fails here if the stack is unknown, instead of showing it as a problem
      if (options.watch) return watch(env, options);
      const status = await readStatus(env);
      print(options, status, toLines(status));
      if (status.problems.length > 0) process.exitCode = 1;
    });
}

export function restoredCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('restored')
    .option('--since <time>', 'start of the period to resend (default: the time recorded in PostgreSQL)', parseMoment)
    .option('--until <time>', 'end of the period (default: the newest entry in the queue)', parseMoment)
    .option('--dry-run', 'keep the idempotency keys')
    .option(...YES)
    .option('--force', 'run even if workers are connected')
    .option('--json', 'print JSON')
    .description(
      'After a restore of PostgreSQL and before ingresses and workers start: show what partners must send again, and ' +
        'forget all idempotency keys, so that what they send again is stored.',
    )
    .action(async (options: RestoredFlags) => {
      const isQueueRestored = !(await findStores(env)).REDIS_URL;
      if (!options.dryRun) await confirm('All idempotency keys of partners will be forgotten.', options);
      const { withQueue } = await import('../with-queue.js'); // loads slowly
      const window = await withQueue(env, { force: true }, (queue, shards) =>
        withStore(env, async (store) => {
          if (!options.force && (await queue.findIdle()).length < shards) {
            throw new UserError('workers run: stop ingresses and workers before a restore, or use --force');
          }
          const known = await readResendWindow(store, queue, { shards, isQueueRestored });
          const found = toGiven(known, options, await store.now());
          if (!options.dryRun) {
            const { from, to } = found;
            await recordChange(store, { action: 'restored', details: { from: toSeconds(from), to: toSeconds(to) } });
            await queue.idempotency.forget();
            // The restored table lists the processes of the backup's time. None of them runs.
            for (const { id } of await store.activity.processes()) await store.activity.end(id);
          }
          return found;
        }),
      );
      print(options, window, toWindowLines(window));
    });
}

type RestoredFlags = PrintOptions & { since?: Moment; until?: Moment; dryRun?: true; yes?: true; force?: true };

function toGiven(window: ResendWindow, { since, until }: RestoredFlags, now: Date): ResendWindow {
  return {
    ...window,
    ...(since && { from: since(now), isEmpty: false }),
    ...(until && { to: until(now), isEndKnown: true }),
  };
}

function toWindowLines({ from, to, isEndKnown, isEmpty, waiting }: ResendWindow): string[] {
  const start = from ? toSeconds(from) : 'the time of the backup, less the age of the oldest entry that waited then';
  return [
    isEmpty
      ? 'No entry is missing: each acknowledged one was stored before the time to which PostgreSQL was restored.'
      : `Partners must send again what they sent from ${start} to ${toSeconds(to, 999)} (UTC).`,
    ...(isEndKnown ? [] : ['The end is unknown: use the time at which the ingresses stopped.']),
    waiting.oldest
      ? `${toCount(waiting.entries, 'entry')} of these wait in the queue, the oldest from ${toSeconds(waiting.oldest)}, and come by themselves.`
      : 'None of these wait in the queue.',
  ];
}

/** @param roundUpMs 999 rounds up to whole seconds */
const toSeconds = (time: Date | undefined, roundUpMs = 0): string | null =>
  time ? `${new Date(time.getTime() + roundUpMs).toISOString().slice(0, 19)}Z` : null;

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
  const memory = queue && toMemory(queue);
  const toMs = (ms: number | undefined) => (ms === undefined ? '-' : `${toNumber(Math.ceil(ms))} ms`);
  return [
    problems.length === 0 ? 'Nothing is wrong.' : `${toCount(problems.length, 'problem')}:`,
    ...problems.flatMap(({ what, advice, help }) => [`  ${what}`, `    ${advice}`, `    -> ${help}`]),
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
          `waiting: ${toWaiting(queue)}, the oldest for ${toDuration(queue.oldestSeconds)}` +
            (memory ? `; memory of the queue ${memory}` : ''),
        ]
      : []),
    ...(deadLetters === undefined ? [] : [toCount(deadLetters, 'dead letter')]),
    ...(paused.length > 0 ? [`paused: ${paused.map(({ name }) => name).join(', ')}`] : []),
    '',
    ...toTable(
      processes.map(({ name, host, pid, version, uptimeSeconds, silentSeconds, state }) => ({
        process: name,
        host,
        pid,
        version,
        uptime: toDuration(uptimeSeconds),
        'last report': `${toDuration(silentSeconds)} ago`,
        state: silentSeconds >= SILENT_SECONDS ? 'does not report' : state.isPaused ? 'paused' : 'ok',
      })),
    ),
  ];
}
