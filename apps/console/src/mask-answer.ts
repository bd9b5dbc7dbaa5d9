import type { AppJob, AppJobScheduler, FlowNode } from '@bull-board/api/typings/app';
import type { ResponseSchemas } from '@bull-board/api/typings/responses';
import { maskErrorMessage, maskStackTrace } from './mask-error-text.js';
import { MASK, maskJobData } from './mask-job-data.js';

/**
 * Every page the board may ask for, with what leaves its answer free of personal data.
 * A route that a later bull-board adds isn't served until someone has looked at what it shows and put it here.
 */
export const MASKED_ANSWERS: Record<string, (body: never) => unknown> = {
  '/api/queues': ({ queues }: ResponseSchemas['GetQueuesResponse']) => ({
    queues: queues.map((queue) => ({ ...queue, jobs: queue.jobs.map(maskJob) })),
  }),
  '/api/queues/:queueName/:jobId': ({ job, status }: ResponseSchemas['GetJobResponse']) => ({
    job: maskJob(job),
    status,
  }),
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
  // Numbers and names of machines, nothing of an entry.
  '/api/redis/stats': asItIs,
  '/api/queues/:queueName/metrics': asItIs,
  '/api/queues/:queueName/workers': asItIs,
  '/api/queues/:queueName/rate-limit': asItIs,
  '/api/queues/:queueName/job-data-schema': asItIs,
};

function asItIs(body: unknown): unknown {
  return body;
}

/** Lists what stays, so that a property which a later bull-board adds is left out. */
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
    data: maskJobData(job.data),
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
    template: template && { data: maskJobData(template.data), opts: maskJobOptions(template.opts) },
  };
}

/** The one name that jobs with entries have; any other may be someone's data. */
function maskJobName(name: string): string {
  return name === 'chunk' ? name : MASK;
}

function maskProgress(progress: AppJob['progress']): AppJob['progress'] {
  return typeof progress === 'number' || typeof progress === 'boolean' ? progress : MASK;
}

const JOB_OPTIONS = [
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
  const given = JOB_OPTIONS.filter((name) => options?.[name] !== undefined);
  return Object.fromEntries(given.map((name) => [name, keepNumbers(options?.[name])]));
}

/** `{ type: 'exponential', delay: 500 }` → `{ type: MASK, delay: 500 }`: a setting is a number or a switch. */
function keepNumbers(setting: unknown): unknown {
  if (typeof setting === 'number' || typeof setting === 'boolean') return setting;
  if (typeof setting !== 'object' || setting === null) return MASK;
  return Object.fromEntries(Object.entries(setting).map(([name, value]) => [name, keepNumbers(value)]));
}
