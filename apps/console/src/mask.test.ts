import type { AppJob } from '@bull-board/api/typings/app';
import { describe, expect, test } from '@jest/globals';
import { toChunkData } from '@opm/queue';
import { createShowJobs, MASK, maskErrorMessage, maskJobData, maskStackTrace } from './mask.js';

const fields = { email: 'ada@example.com', phone: '+4915112345678', firstName: 'Ada', lastName: 'Lovelace', ip: '::1' };
const entry = { projectId: 7, customerId: 'customer-4711', version: 1_700_000_000_000_001, fields };
const data = toChunkData({ entries: [entry] });

describe('maskJobData', () => {
  test('keeps projects, versions and field names, and no values', () => {
    const erasure = { projectId: 8, customerId: 'käufer-12', version: 3, erase: true as const };
    const partial = { projectId: 7, customerId: 'customer-4712', version: 4, fields: { phone: '+1' } };
    expect(maskJobData(toChunkData({ entries: [entry, erasure, partial] }))).toEqual({
      entries: [
        {
          projectId: 7,
          customerId: `cu${MASK}`,
          version: 1_700_000_000_000_001,
          fields: { email: MASK, phone: MASK, firstName: MASK, lastName: MASK, ip: MASK },
        },
        { projectId: 8, customerId: `kä${MASK}`, version: 3, erase: true },
        { projectId: 7, customerId: `cu${MASK}`, version: 4, fields: { phone: MASK } },
      ],
    });
  });

  test.each(['a', 'ada', 'ada-1', '👩‍🚀'])('shows nothing of the short customer id %j', (customerId) => {
    expect(maskJobData({ ...data, customerIds: [customerId] })).toHaveProperty('entries.0.customerId', MASK);
  });

  test.each([
    ['a string', 'ada@example.com'],
    ['null', null],
    ['nothing', undefined],
    ['an array', [entry]],
    ['another version', { ...data, v: 1 }],
    ['no version', { ...data, v: undefined }],
    ['a project that is not a number', { ...data, projectIds: ['ada@example.com'] }],
    ['ids that are not an array', { ...data, customerIds: { ada: entry } }],
    ['a customer id that is not a string', { ...data, customerIds: [4711] }],
    ['a version that is not a number', { ...data, version: 'ada@example.com' }],
    ['an erasure that is not an index', { ...data, erased: ['ada@example.com'] }],
    ['a value that is not a string', { ...data, lastName: [['Lovelace']] }],
    ['one value too many', { ...data, lastName: ['Lovelace', 'Byron'] }],
    ['an unknown column', { ...data, 'ada@example.com': [1] }],
  ])('fully masks data that is not a chunk: %s', (_, broken) => {
    expect(maskJobData(broken)).toBe(MASK);
  });
});

describe('maskErrorMessage', () => {
  test.each([
    ['job stalled more than allowable limit', 'job stalled more than allowable limit'],
    [
      "job data is not a chunk: data must have required property 'version', data/v must be equal to constant",
      `job data is not a chunk: data must have required property 'version' ${MASK}`,
    ],
    ['connect ECONNREFUSED 10.0.0.5:5432', `connect ECONNREFUSED ${MASK}`],
    ['deadlock detected', 'deadlock detected'],
    ['Raw query failed. Code: `22P02`. Message: `… "ada@example.com"`', `Raw query failed. Code: \`22P02\` ${MASK}`],
    ['invalid input syntax for type inet: "ada@example.com"', `invalid input syntax for type inet ${MASK}`],
    ['value too long for type character varying(255)', 'value too long for type character varying(255)'],
  ])('keeps text that is known to hold no value: %s', (message, shown) => {
    expect(maskErrorMessage(message)).toBe(shown);
  });

  test.each(['ada@example.com', 'customer ada: deadlock detected', 'deadlock detected\nada', 'E4711', ''])(
    'fully masks %j',
    (message) => {
      expect(maskErrorMessage(message)).toBe(MASK);
    },
  );
});

describe('maskStackTrace', () => {
  test('keeps the class and the stack frames, not the message', () => {
    const frame = '    at async Worker.processJob (file:///app/node_modules/bullmq/dist/esm/classes/worker.js:4:2)';
    const stackTrace = `StoreError: Key (customer_id)=(ada)\nada@example.com\n    at ada@example.com\n${frame}`;
    expect(maskStackTrace(stackTrace)).toBe(`StoreError: ${MASK}\n${frame}`);
  });

  test('keeps a message that is known to hold no value', () => {
    expect(maskStackTrace('StoreError: deadlock detected')).toBe('StoreError: deadlock detected');
  });

  test('masks a trace that does not start with an error class', () => {
    expect(maskStackTrace('ada@example.com\n')).toBe(MASK);
  });
});

describe('createShowJobs', () => {
  const toJob = (projectIds: number[]) =>
    ({
      name: 'chunk',
      stacktrace: [],
      opts: {},
      data: toChunkData({
        entries: projectIds.map((projectId, i) => ({ ...entry, projectId, version: entry.version + i })),
      }),
    }) as unknown as AppJob;

  test.each([
    [[7], 'chunk: 1 entry of project 7'],
    [[9, 7, 9], 'chunk: 3 entries of project 9, project 7'],
    [[1, 2, 3], 'chunk: 3 entries of project 1, project 2, project 3'],
    [[1, 2, 3, 4, 4], 'chunk: 5 entries of 4 projects'],
  ])('says how many entries of which projects a job has: %j', async (projectIds, name) => {
    expect(await createShowJobs({ showData: false })([toJob(projectIds)])).toMatchObject([{ name }]);
  });

  test.each([
    ['cannot be read', () => Promise.reject(new Error('down'))],
    ['take too long', () => new Promise<never>(() => {})],
    ['are unknown', () => Promise.resolve(new Map<number, string>())],
  ])('shows ids if the names %s', async (_, projectNamesOf) => {
    const showJobs = createShowJobs({ showData: false, projectNamesOf });
    expect(await showJobs([toJob([7])])).toMatchObject([{ name: 'chunk: 1 entry of project 7' }]);
  });

  test.each([false, true])('adds nothing to a job without a chunk (showData: %s)', async (showData) => {
    const job = { ...toJob([7]), name: 'ada@example.com', data: { entries: [{ projectId: 'Lovelace' }] } };
    const [shown] = await createShowJobs({ showData })([job]);
    expect(shown).toMatchObject(showData ? job : { name: MASK, data: MASK });
  });

  test('says what a maintenance task does, and that it has no data', async () => {
    const [shown] = await createShowJobs({ showData: false })([
      { ...toJob([7]), name: 'purge-dead-letters', data: {} },
    ]);
    expect(shown).toMatchObject({
      name: 'purge-dead-letters: deletes old dead letters that were replayed or discarded',
      data: {},
    });
  });
});
