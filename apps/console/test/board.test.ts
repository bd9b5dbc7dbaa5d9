import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { toChunkData } from '@opm/queue';
import { findChromium } from '@opm/testkit';
import axe from 'axe-core';
import { type Queue, UnrecoverableError, Worker, type WorkerOptions } from 'bullmq';
import express from 'express';
import { type Browser, chromium, type Page } from 'playwright-core';
import { serveConsole } from '../src/app.js';
import { createBoard } from '../src/board.js';
import { BACKENDS, type Backend, isOnRedis } from './backends.js';
import { basic, type Dashboard, openDashboard, PASSWORD } from './open-dashboard.js';

const LAST_NAME = 'Lovelace';
/** As @opm/queue adds them. */
const UNLIMITED = { attempts: 2_147_483_647, removeOnComplete: true };

const toEntry = (projectId: number, i: number) => ({
  projectId,
  customerId: `customer-${i}`,
  version: 1_700_000_000_000_001 + i,
  fields: { lastName: LAST_NAME },
});
const toData = (projectIds: number[]) => toChunkData({ entries: projectIds.map(toEntry) });

describe.each(Object.entries(BACKENDS))('the jobs of a queue on %s', (_, openBackend) => {
  let backend: Backend;
  let queue: Queue;
  let worker: Worker;
  let browser: Browser;

  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: await findChromium() });
    backend = await openBackend();
    queue = backend.queue;
    await queue.waitUntilReady();
    for (const id of ['failed-1', 'active-1', 'active-2', ...toIds('waiting', 7)]) {
      await queue.add('chunk', toData([7, 8, 7]), { ...UNLIMITED, jobId: id });
    }
    const prioritized = { 'prioritized-3': 2, 'prioritized-1': 1, 'prioritized-2': 1, 'prioritized-4': 2 };
    for (const [jobId, priority] of Object.entries(prioritized)) {
      await queue.add('chunk', toData([9]), { ...UNLIMITED, jobId, priority });
    }
    for (const [jobId, delay] of [['delayed-2', 7_200_000] as const, ['delayed-1', 3_600_000] as const]) {
      await queue.add('chunk', toData([9]), { attempts: 3, jobId, delay });
    }
    worker = new Worker(queue.name, null, queue.opts as WorkerOptions, backend.factory as undefined);
    const failed = await worker.getNextJob('zeroth');
    await failed.moveToFailed(new UnrecoverableError('refused for the test'), 'zeroth', false);
    for (const token of ['first', 'second']) await worker.getNextJob(token);
  }, 600_000);
  afterAll(async () => {
    await worker?.close();
    await backend?.release();
    await browser?.close();
  });

  const read = async (dashboard: Dashboard, query: string) => {
    const answer = await dashboard.getJson(`/queues/api/queues?activeQueue=entries-0&${query}`);
    return (answer as { queues: [{ statuses: string[]; jobs: { id: string }[] }] }).queues[0];
  };

  test.each([
    ['waiting', 7],
    ['prioritized', 4],
    ['delayed', 2],
    ['active', 2],
    ['failed', 1],
  ])('are listed in the order in which they run, on every page: %s', async (status, count) => {
    const dashboard = await openDashboard({ queues: [queue] });
    for (const jobsPerPage of [1, 3, 10]) {
      const pages = Math.ceil(count / jobsPerPage);
      const listed: string[] = [];
      for (let page = 1; page <= pages + 1; page++) {
        const { jobs } = await read(dashboard, `status=${status}&page=${page}&jobsPerPage=${jobsPerPage}`);
        listed.push(...jobs.map(({ id }) => id));
      }
      expect({ jobsPerPage, listed }).toEqual({ jobsPerPage, listed: toIds(status, count) });
    }
  });

  test('are counted by the states that they can have, without details of Redis if it is not the store', async () => {
    const dashboard = await openDashboard({ queues: [queue] });
    const { statuses } = await read(dashboard, '');
    expect(statuses).toEqual(['latest', 'active', 'waiting', 'prioritized', 'failed', 'delayed']);
    expect((await dashboard.get('/queues/api/redis/stats')).status).toBe(isOnRedis(queue) ? 200 : 403);
  });

  test.each([false, true])('show their entries by project and unlimited attempts (showData: %s)', async (showData) => {
    const dashboard = await openDashboard({ queues: [queue], showData });
    const { jobs } = await read(dashboard, 'status=waiting');
    const shown = {
      name: 'chunk: 3 entries of project 7, project 8',
      opts: { attempts: 'unlimited, until stored' },
      data: {
        entriesByProject: { 'project 7': 2, 'project 8': 1 },
        entries: [7, 8, 7].map((projectId, i) => ({
          projectId,
          customerId: showData ? `customer-${i}` : 'cu•••',
          fields: { lastName: showData ? LAST_NAME : '•••' },
        })),
      },
    };
    expect(jobs[0]).toMatchObject(shown);
    expect(await dashboard.getJson('/queues/api/queues/entries-0/waiting-1')).toMatchObject({ job: shown });
    expect(JSON.stringify(jobs)).not.toContain(String(UNLIMITED.attempts));
    expect(await dashboard.getJson('/queues/api/queues/entries-0/delayed-1')).toMatchObject({
      job: { opts: { attempts: 3 } },
    });
  });

  test('show the names of projects, which are read once for all jobs of a page', async () => {
    const asked: number[][] = [];
    const projectNamesOf = async (ids: number[]) => {
      asked.push(ids.toSorted());
      return new Map([[7, 'acme']]);
    };
    const board = createBoard({ queues: [queue], showData: false, readOnly: true, projectNamesOf });
    const server = await serveConsole({ app: express().use('/queues', board), port: 0, host: '127.0.0.1' });
    try {
      const answer = await fetch(`http://127.0.0.1:${server.port}/queues/api/queues?activeQueue=entries-0`);
      const { queues } = (await answer.json()) as { queues: { jobs: { name: string }[] }[] };
      const names = new Set(queues[0]?.jobs.map(({ name }) => name));
      expect(names).toEqual(new Set(['chunk: 3 entries of acme (7), project 8', 'chunk: 1 entry of project 9']));
      expect(asked).toEqual([[7, 8, 9]]);
    } finally {
      await server.close();
    }
  });

  test('are shown in a browser without errors, failed requests or other hosts, in both themes', async () => {
    const dashboard = await openDashboard({ queues: [queue] });
    const url = `http://127.0.0.1:${dashboard.port}`;
    const backgrounds = new Set<unknown>();
    for (const colorScheme of ['light', 'dark'] as const) {
      const extraHTTPHeaders = { authorization: basic(PASSWORD) };
      const page = await browser.newPage({ colorScheme, extraHTTPHeaders, timezoneId: 'America/New_York' });
      page.setDefaultTimeout(60_000);
      const [wrong, origins]: [string[], Set<string>] = [[], new Set()];
      page.on('console', (message) => {
        if (['error', 'warning'].includes(message.type())) wrong.push(message.text());
      });
      page.on('pageerror', (error) => wrong.push(error.message));
      page.on('request', (request) => origins.add(new URL(request.url()).origin));
      page.on(
        'response',
        (response) => response.status() < 400 || wrong.push(`${response.status()} of ${response.url()}`),
      );
      page.on('requestfailed', (request) => {
        const reason = request.failure()?.errorText;
        if (reason !== 'net::ERR_ABORTED') wrong.push(`${reason} of ${request.url()}`); // the page cancels its polls
      });

      await page.goto(`${url}/queues`);
      const tabs = page.locator('main a[href^="/queues/?status="]:visible span[data-text]');
      await tabs.first().waitFor();
      expect(await tabs.allTextContents()).toEqual(['ACTIVE', 'WAITING', 'PRIORITIZED', 'FAILED', 'DELAYED']);

      await page.goto(`${url}/queues/queue/entries-0?status=waiting`);
      const summary = page.getByText('chunk: 3 entries of project 7, project 8');
      await summary.first().waitFor();
      expect(await summary.count()).toBe(7);
      backgrounds.add(await page.evaluate('getComputedStyle(document.body).backgroundColor'));

      await page.goto(`${url}/queues/queue/entries-0/waiting-1`);
      await summary.waitFor();
      await page.getByText('entriesByProject').waitFor();
      await page
        .getByText(/^[A-Z][a-z]+ \d+, \d{4}, \d\d:\d\d:\d\d UTC$/)
        .first()
        .waitFor();
      // Browsers warn of these some seconds later.
      expect(await page.locator('link[rel="preload"][as="script"]').count()).toBe(0);
      await page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name: 'Overview' }).waitFor();
      await page.getByRole('tab', { name: 'Options' }).click();
      await page.getByText('unlimited, until stored').waitFor();
      await page.evaluate(axe.source);
      const { violations } = (await page.evaluate(
        "axe.run('.console', { runOnly: ['wcag2a', 'wcag2aa'] })",
      )) as axe.AxeResults;
      expect(violations.map(({ id }) => id)).toEqual([]);
      await page.getByRole('button', { name: 'Log out' }).click();
      await page.getByRole('heading', { name: 'Log in' }).waitFor();

      await page.close();
      expect({ colorScheme, wrong }).toEqual({ colorScheme, wrong: [] });
      expect([...origins].filter((origin) => origin !== 'null')).toEqual([url]);
    }
    expect(backgrounds.size).toBe(2);
  });

  /** The names of all visible buttons and items of menus below the header; of a button without a name, its icon. */
  const readButtons = async (page: Page): Promise<string[]> =>
    page.evaluate(`[...new Set([...document.querySelectorAll('main button, [role="menuitem"]')]
      .filter((button) => button.checkVisibility())
      .map((button) => button.ariaLabel || button.textContent.trim() || [...button.querySelector('svg').classList].at(-1))
    )].sort()`);

  const HARMLESS = ['Data', 'Error', 'Logs', 'Nothing is consuming this queue', 'Options', 'Progress', 'lucide-copy'];
  test.each([
    [true, { waiting: [], failed: [], delayed: [] }],
    [
      false,
      {
        waiting: ['Pause', 'Retry all 1 failed jobs'],
        failed: ['Pause', 'Retry all', 'Retry all 1 failed jobs', 'lucide-refresh-cw'],
        delayed: ['Pause', 'Promote all', 'Retry all 1 failed jobs', 'lucide-corner-up-left'],
      },
    ],
  ])('have exactly the buttons that do something (read-only: %s)', async (readOnly, buttons) => {
    const dashboard = await openDashboard({ queues: [queue], readOnly });
    const url = `http://127.0.0.1:${dashboard.port}`;
    const page = await browser.newPage({ extraHTTPHeaders: { authorization: basic(PASSWORD) } });
    page.setDefaultTimeout(60_000);
    for (const [status, own] of Object.entries(buttons)) {
      await page.goto(`${url}/queues/queue/entries-0?status=${status}`);
      await page.getByText('chunk: ').first().waitFor();
      const menu = page.locator('main button:has(.lucide-ellipsis-vertical)');
      if (own.length > 0) await menu.click();
      if (own.length > 0) await page.getByRole('menuitem', { name: 'Pause' }).waitFor();
      const shown = (await readButtons(page)).filter(
        (name) => ![...HARMLESS, 'lucide-ellipsis-vertical'].includes(name),
      );
      expect({ status, shown, menus: await menu.count() }).toEqual({
        status,
        shown: own,
        menus: Math.min(1, own.length),
      });
    }
    await queue.upsertJobScheduler('nightly', { pattern: '0 0 1 1 *' }, { name: 'clear-leftovers' });
    await page.goto(`${url}/queues/job-schedulers`);
    await page.getByText('clear-leftovers: corrects the backlog counts').waitFor();
    expect((await readButtons(page)).filter((name) => name !== 'Job template')).toEqual(['Filter by queue']);
    await queue.removeJobScheduler('nightly');
    await page.close();
  });
});

function toIds(status: string, count: number): string[] {
  return Array.from({ length: count }, (_, i) => `${status}-${i + 1}`);
}
