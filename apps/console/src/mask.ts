import type { AppJob, AppJobScheduler, FlowNode } from '@bull-board/api/typings/app';
import type { ResponseSchemas } from '@bull-board/api/typings/responses';
import { toHint, withTimeout } from '@opm/core';
import { toCount } from '@opm/operations';
import { type Chunk, type ChunkEntry, JOB_OPTIONS, MAINTENANCE_TASKS, parseChunk, toChunkData } from '@opm/queue';
import type { WholeDeadLetter } from '@opm/store';

type ShowJobs = (jobs: AppJob[]) => Promise<AppJob[]>;

/** The GET routes whose answers hold jobs, with the function that replaces the jobs. */
export const JOB_ANSWERS: Record<string, (body: never, showJobs: ShowJobs) => Promise<unknown>> = {
  '/api/queues': async ({ queues }: ResponseSchemas['GetQueuesResponse'], showJobs) => ({
    queues: await Promise.all(queues.map(async (queue) => ({ ...queue, jobs: await showJobs(queue.jobs) }))),
  }),
  '/api/queues/:queueName/:jobId': async ({ job, status }: ResponseSchemas['GetJobResponse'], showJobs) => {
    const [shown] = await showJobs([job]);
    return { job: shown, status };
  },
};

/**
 * Every other GET route that the console serves, with the function that removes personal data from its answer.
 * A route that a later bull-board adds is refused until it is reviewed and added here.
 */
export const MASKED_ANSWERS: Record<string, (body: never) => unknown> = {
  '/api/queues/:queueName/:jobId/logs': (logs: ResponseSchemas['GetJobLogsResponse']) => logs.map(() => MASK),
  '/api/queues/:queueName/:jobId/flow': ({ nodeId, isFlowNode, flowRoot }: ResponseSchemas['GetJobFlowResponse']) => ({
    nodeId,
    isFlowNode,
    flowRoot: flowRoot && maskFlowNode(flowRoot),
  }),
  '/api/job-schedulers': ({ schedulers }: ResponseSchemas['GetJobSchedulersResponse']) => ({
    schedulers: schedulers.map(maskScheduler),
  }),
  '/api/queues/:queueName/default-job-options': maskJobOptions,
  // These answers hold numbers and machine names, and no data of entries.
  '/api/redis/stats': unchanged,
  '/api/queues/:queueName/metrics': unchanged,
  '/api/queues/:queueName/workers': unchanged,
  '/api/queues/:queueName/rate-limit': unchanged,
  '/api/queues/:queueName/job-data-schema': unchanged,
};

function unchanged(body: unknown): unknown {
  return body;
}

export type JobViewOptions = {
  /** Shows customer data unmasked. */
  showData: boolean;
  /** Reads the names of projects. Without it, or if it fails or takes longer than a second, jobs show project ids. */
  projectNamesOf?: ((ids: number[]) => Promise<Map<number, string>>) | undefined;
};

const NAMES_TIMEOUT_MS = 1_000;

/** Masks jobs unless `showData`, and adds to each job the number of its entries by project. */
export function createShowJobs({ showData, projectNamesOf }: JobViewOptions): ShowJobs {
  return async (jobs) => {
    const chunks = jobs.map(({ data }) => readChunk(data));
    const names = await readNames(new Set(chunks.flatMap((chunk) => chunk?.entries.map(toProjectId) ?? [])));
    return jobs.map((job, i) => {
      const shown = showData ? job : maskJob(job);
      const described = { ...shown, opts: nameUnlimitedAttempts(shown.opts) };
      const chunk = chunks[i];
      if (!chunk) return described;
      const entriesByProject = countByProject(chunk, names);
      const entries = showData ? chunk.entries : chunk.entries.map(maskEntry);
      return {
        ...described,
        name: `${shown.name}: ${summarize(entriesByProject)}`,
        data: { entriesByProject, entries },
      };
    });
  };

  async function readNames(ids: Set<number>): Promise<Map<number, string>> {
    const none = new Map<number, string>();
    if (!projectNamesOf || ids.size === 0) return none;
    return withTimeout(projectNamesOf([...ids]), NAMES_TIMEOUT_MS).catch(() => none);
  }
}

const toProjectId = ({ projectId }: ChunkEntry) => projectId;

/** Returns the number of entries by project, such as `{ 'acme (7)': 3, 'project 8': 1 }`. */
function countByProject({ entries }: Chunk, names: Map<number, string>): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { projectId } of entries) {
    const name = names.get(projectId);
    const label = name === undefined ? `project ${projectId}` : `${name} (${projectId})`;
    counts[label] = (counts[label] ?? 0) + 1;
  }
  return counts;
}

const MAX_LISTED_PROJECTS = 3;

/** `{ 'acme (7)': 3, 'project 8': 1 }` → `4 entries of acme (7), project 8`. */
function summarize(entriesByProject: Record<string, number>): string {
  const labels = Object.keys(entriesByProject);
  const entries = Object.values(entriesByProject).reduce((sum, count) => sum + count, 0);
  const listed = labels.length > MAX_LISTED_PROJECTS ? `${labels.length} projects` : labels.join(', ');
  return `${toCount(entries, 'entry')} of ${listed}`;
}

/**
 * Replaces the number of attempts, which is practically unlimited, by a text. The job is retried until its entries are
 * stored.
 */
function nameUnlimitedAttempts(options: Record<string, unknown> | undefined): Record<string, unknown> | undefined {
  return options?.attempts === JOB_OPTIONS.attempts ? { ...options, attempts: 'unlimited, until stored' } : options;
}

/** Copies known properties only, so a property that a later bull-board adds is left out. Masks all data. */
function maskJob(job: AppJob): AppJob {
  return {
    id: job.id,
    name: maskJobName(job.name),
    timestamp: job.timestamp,
    processedOn: job.processedOn,
    processedBy: job.processedBy,
    finishedOn: job.finishedOn,
    progress: maskProgress(job.progress),
    attempts: job.attempts,
    attemptsStarted: job.attemptsStarted,
    stalledCounter: job.stalledCounter,
    delay: job.delay,
    priority: job.priority,
    isFailed: job.isFailed,
    failedReason: job.failedReason && maskErrorMessage(job.failedReason),
    deferredFailure: job.deferredFailure && maskErrorMessage(job.deferredFailure),
    stacktrace: job.stacktrace.map(maskStackTrace),
    data: isEmpty(job.data) ? job.data : MASK,
    returnValue: job.returnValue == null ? job.returnValue : MASK,
    opts: maskJobOptions(job.opts),
  };
}

function maskFlowNode({ id, name, state, queueName, children, truncated, dependencies, progress }: FlowNode): FlowNode {
  return {
    id,
    name: maskJobName(name),
    state,
    progress: maskProgress(progress),
    queueName,
    children: children.map(maskFlowNode),
    truncated,
    dependencies,
  };
}

function maskScheduler(scheduler: AppJobScheduler): AppJobScheduler {
  const { template } = scheduler;
  return {
    id: scheduler.id,
    queueName: scheduler.queueName,
    name: maskJobName(scheduler.name),
    pattern: scheduler.pattern,
    every: scheduler.every,
    tz: scheduler.tz,
    limit: scheduler.limit,
    startDate: scheduler.startDate,
    endDate: scheduler.endDate,
    next: scheduler.next,
    nextRunJobId: scheduler.nextRunJobId,
    lastRun: scheduler.lastRun,
    lastRunJobId: scheduler.lastRunJobId,
    iterationCount: scheduler.iterationCount,
    template: template && {
      data: isEmpty(template.data) ? template.data : maskJobData(template.data),
      opts: maskJobOptions(template.opts),
    },
  };
}

/**
 * Keeps `chunk`, the name of all jobs with entries, and adds a description to the name of a maintenance task. Any other
 * name may hold personal data.
 */
function maskJobName(name: string): string {
  if (Object.hasOwn(MAINTENANCE_TASKS, name)) return `${name}: ${MAINTENANCE_TASKS[name]}`;
  return name === 'chunk' ? name : MASK;
}

function maskProgress(progress: AppJob['progress']): AppJob['progress'] {
  return typeof progress === 'number' || typeof progress === 'boolean' ? progress : MASK;
}

const SHOWN_OPTIONS = [
  'attempts',
  'backoff',
  'delay',
  'lifo',
  'priority',
  'removeOnComplete',
  'removeOnFail',
  'timestamp',
];

function maskJobOptions(options: Record<string, unknown> | undefined): Record<string, unknown> {
  const given = SHOWN_OPTIONS.filter((name) => options?.[name] !== undefined);
  return Object.fromEntries(given.map((name) => [name, keepNumbers(options?.[name])]));
}

/** Keeps numbers and booleans: `{ type: 'exponential', delay: 500 }` → `{ type: MASK, delay: 500 }`. */
function keepNumbers(setting: unknown): unknown {
  if (typeof setting === 'number' || typeof setting === 'boolean') return setting;
  if (typeof setting !== 'object' || setting === null) return MASK;
  return Object.fromEntries(Object.entries(setting).map(([name, value]) => [name, keepNumbers(value)]));
}

/** Replaces a masked value. */
export const MASK = '•••';

/**
 * Shows the project, version and field names of each entry, and no personal data.
 * Data that is not exactly a chunk is masked as a whole: old or corrupt data may hold a value anywhere.
 */
export function maskJobData(data: unknown): unknown {
  const chunk = readChunk(data);
  return chunk ? { entries: chunk.entries.map(maskEntry) } : MASK;
}

/**
 * The payload of a letter with a project is one entry, without its project; of a letter without one, the data of a job.
 */
export function maskLetterData({ projectId, payload }: Pick<WholeDeadLetter, 'projectId' | 'payload'>): unknown {
  if (projectId === null) return maskJobData(payload);
  try {
    return maskJobData(
      toChunkData({ entries: [{ ...(payload as { customerId: string; version: number }), projectId }] }),
    );
  } catch {
    return MASK;
  }
}

/** Whether a job has no data. Maintenance tasks have none. */
const isEmpty = (data: unknown): boolean => data === undefined || JSON.stringify(data) === '{}';

function maskEntry({ projectId, customerId, version, fields, erase }: ChunkEntry) {
  return {
    projectId,
    customerId: maskCustomerId(customerId),
    version,
    ...(fields && { fields: Object.fromEntries(Object.keys(fields).map((name) => [name, MASK])) }),
    ...(erase && { erase }),
  };
}

function readChunk(data: unknown) {
  try {
    return parseChunk(data);
  } catch {
    return undefined;
  }
}

export const maskCustomerId = (customerId: string): string => `${toHint(customerId)}${MASK}`;

/** Beginnings of error messages that hold no value of an entry. The text after them may, so it is masked. */
const SAFE_PREFIXES = [
  /^job stalled more than allowable limit$/,
  /^job data is not a chunk(?:: data[\w/]* must [\w ']+)?/,
  /^(?:connect |read |write )?E(?:CONNREFUSED|CONNRESET|TIMEDOUT|PIPE|HOSTUNREACH|NOTFOUND)\b/,
  /^Connection terminated(?: unexpectedly)?$/,
  /^\s*(?:Invalid `[\w.$]+\(\)` invocation:\s+)?Raw query failed\. Code: `[0-9A-Z]{5}`/,
  /^deadlock detected$/,
  /^canceling statement due to [a-z ]+$/,
  /^terminating connection due to [a-z ]+$/,
  /^invalid byte sequence for encoding "\w+"/,
  /^invalid input syntax for type \w+/,
  /^value too long for type [a-z ]+\(\d+\)$/,
  /^new row for relation "\w+" violates check constraint "\w+"/,
  /^null value in column "\w+" of relation "\w+" violates not-null constraint/,
  /^duplicate key value violates unique constraint "\w+"/,
];
const ERROR_HEAD = /^([A-Z][A-Za-z]{0,60}(?:Error|Fault|Chunk)): (.*)$/;
const STACK_FRAME = /^ {4}at (?:[\w$.<>#[\] ]+ \()?(?:file:|node:|\/)[\w$@./:%+-]+:\d+:\d+\)?$/;

/** Keeps the beginning of a known error message, such as its SQLSTATE. PostgreSQL may quote values in the rest. */
export function maskErrorMessage(message: string): string {
  for (const prefix of SAFE_PREFIXES) {
    const [safe] = prefix.exec(message) ?? [];
    if (safe !== undefined) return safe === message ? message : `${safe.trim()} ${MASK}`;
  }
  return MASK;
}

/** Keeps the error's class, what {@link maskErrorMessage} keeps of its message, and the stack frames. */
export function maskStackTrace(stackTrace: string): string {
  const [firstLine = '', ...lines] = stackTrace.split('\n');
  const [, errorClass, message] = ERROR_HEAD.exec(firstLine) ?? [];
  const head = errorClass && message !== undefined ? `${errorClass}: ${maskErrorMessage(message)}` : MASK;
  return [head, ...lines.filter((line) => STACK_FRAME.test(line))].join('\n');
}
