import { appRoutes } from '@bull-board/api/dist/routes.js';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Queue } from 'bullmq';
import { JOB_ANSWERS, MASKED_ANSWERS } from '../src/mask.js';
import { BACKENDS, type Backend, isOnRedis } from './backends.js';
import { addScheduler, fillQueue, PERSONAL } from './fill-queue.js';
import { type Dashboard, openDashboard } from './open-dashboard.js';

const PAGES = appRoutes.api.filter(({ method }) => method === 'get');
const ACTIONS = appRoutes.api.filter(({ method }) => method !== 'get');

describe.each(Object.entries(BACKENDS))('the console over queues on %s', (_, openBackend) => {
  let backend: Backend;
  let queue: Queue;

  beforeAll(async () => {
    backend = await openBackend();
    queue = backend.queue;
    await queue.waitUntilReady();
    await fillQueue(queue, backend.factory);
    await addScheduler(queue);
  });
  afterAll(() => backend.release());

  test('shows the dashboard and the counts of the queue', async () => {
    const dashboard = await openDashboard({ queues: [queue] });
    const page = await dashboard.get('/queues');
    expect(page.status).toBe(200);
    expect(await page.text()).toContain('OPM Partners API');

    const counts = { completed: 1, failed: 1, waiting: 3, 'waiting-children': 1 };
    expect(await queue.getJobCounts()).toMatchObject(counts);
    expect(await dashboard.getJson('/queues/api/queues')).toMatchObject({
      queues: [{ name: 'entries-0', readOnlyMode: true, isPaused: false, counts }],
    });
  });

  test('shows no personal data on any page', async () => {
    const dashboard = await openDashboard({ queues: [queue] });
    for (const { url, text } of await readAllPages(dashboard, queue)) {
      for (const value of Object.values(PERSONAL))
        expect({ url, leaked: text.includes(value) }).toEqual({ url, leaked: false });
    }
  });

  test('shows the structure of a job and the stack frames of its failure', async () => {
    const dashboard = await openDashboard({ queues: [queue] });
    const [job] = await queue.getFailed();
    const fields = { email: '•••', phone: '•••', firstName: '•••', lastName: '•••', ip: '•••' };
    expect(await dashboard.getJson(`/queues/api/queues/entries-0/${job?.id}`)).toMatchObject({
      status: 'failed',
      job: {
        name: 'chunk: 1 entry of project 7',
        failedReason: '•••',
        stacktrace: [expect.stringMatching(/^UnrecoverableError: •••\n {4}at .*fill-queue/)],
        opts: { attempts: 'unlimited, until stored', backoff: { type: '•••' } },
        data: { entries: [{ projectId: 7, customerId: 'cu•••', version: 1_700_000_000_000_001, fields }] },
      },
    });
  });

  test('with showData, shows the data on every page that otherwise masks it', async () => {
    const dashboard = await openDashboard({ queues: [queue], showData: true });
    const revealing = (await readAllPages(dashboard, queue)).filter(({ text }) => text.includes(PERSONAL.lastName));
    expect(new Set(revealing.map(({ route }) => route))).toEqual(
      new Set([
        '/api/queues',
        '/api/queues/:queueName/:jobId',
        '/api/queues/:queueName/:jobId/logs',
        '/api/queues/:queueName/:jobId/flow',
        '/api/job-schedulers',
      ]),
    );
  });

  test('shows at most 100 jobs at once', async () => {
    const dashboard = await openDashboard({ queues: [queue] });
    const get = (jobs: string) => dashboard.get(`/queues/api/queues?activeQueue=entries-0&status=waiting&${jobs}`);
    expect((await get('jobsPerPage=100')).status).toBe(200);
    for (const jobs of ['jobsPerPage=101', 'jobsPerPage=1e6', 'jobsPerPage=100&jobsPerPage=1000000']) {
      expect((await get(jobs)).status).toBe(403);
    }
  });

  test('refuses every change by default', async () => {
    const dashboard = await openDashboard({ queues: [queue] });
    const before = await queue.getJobCounts();
    const [job] = await queue.getFailed();
    for (const { method, route } of ACTIONS) {
      const answer = await dashboard.send(String(method), fillIn(route, job?.id));
      expect({ route, status: answer.status }).toEqual({ route, status: 403 });
    }
    expect(await queue.getJobCounts()).toEqual(before);
    expect(await queue.isPaused()).toBe(false);
  });

  test('lets an operator pause, resume and retry, but neither add, edit nor remove jobs', async () => {
    const dashboard = await openDashboard({ queues: [queue], readOnly: false });
    const [job] = await queue.getFailed();

    const allowed = new Set<unknown>();
    for (const { method, route } of ACTIONS.filter(({ route }) => !/pause|resume|retry|promote/.test(String(route)))) {
      const answer = await dashboard.send(String(method), fillIn(route, job?.id));
      if (answer.status !== 403) allowed.add(route);
    }
    expect(allowed).toEqual(new Set());

    await dashboard.send('PUT', '/queues/api/queues/entries-0/pause');
    expect(await queue.isPaused()).toBe(true);
    await dashboard.send('PUT', '/queues/api/queues/entries-0/resume');
    expect(await queue.isPaused()).toBe(false);
    await dashboard.send('PUT', `/queues/api/queues/entries-0/${job?.id}/retry`);
    expect(await job?.getState()).toBe('waiting');
  });
});

test('serves exactly the pages of this bull-board release, so a new page of a later release needs a review', () => {
  expect(new Set(PAGES.map(({ route }) => route))).toEqual(new Set(Object.keys({ ...JOB_ANSWERS, ...MASKED_ANSWERS })));
});

/** Reads every page of the API, for every status and every job of the queue. */
async function readAllPages(dashboard: Dashboard, queue: Queue) {
  const jobs = await queue.getJobs();
  const statuses = ['latest', ...Object.keys(await queue.getJobCounts())];
  const urls = PAGES.flatMap(({ route }) => {
    if (route === '/api/queues') {
      return statuses.map((status) => ({ route, url: `/queues/api/queues?activeQueue=entries-0&status=${status}` }));
    }
    const ids = String(route).includes(':jobId') ? jobs.map(({ id }) => id) : [undefined];
    return ids.map((id) => ({ route, url: fillIn(route, id) }));
  });
  return Promise.all(
    urls.map(async ({ route, url }) => {
      const answer = await dashboard.get(url);
      const isHidden = route === '/api/redis/stats' && !isOnRedis(queue);
      expect({ url, status: answer.status }).toEqual({ url, status: isHidden ? 403 : 200 });
      return { route, url, text: await answer.text() };
    }),
  );
}

function fillIn(route: string | string[], jobId = 'none'): string {
  const path = String(route).replace(':queueName', 'entries-0').replace(':jobId', jobId);
  return `/queues${path.replace(':schedulerId', 'nightly').replace(':queueStatus', 'failed')}`;
}
