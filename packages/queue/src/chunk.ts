import { randomUUID } from 'node:crypto';
import { type CustomerEntry, type EntryFields, FIELDS, type Field, type RequestIds, type Version } from '@opm/core';
import { Ajv } from 'ajv';

/** Maximum entries in one job. */
export const MAX_CHUNK_ENTRIES = 1_000;

/** An entry in the queue. */
export type ChunkEntry = CustomerEntry & {
  projectId: number;
  /** The version of its claim, if it differs from `version`: the entry was admitted again but keeps its version. */
  claim?: Version;
  /** Entries of one request share the object. */
  requestIds?: RequestIds;
};

/**
 * The entries of one job: one shard, any projects, in version order, except replayed dead letters and repeated
 * requests.
 */
export type Chunk = { entries: ChunkEntry[] };

/**
 * A chunk as job data. Columns save a third of the JSON text: the property names that each entry would repeat.
 *
 * - `version`: version of the first entry. The others follow one by one, unless `steps` gives their distances from it.
 * - `claims`: distance of each claim from its entry's version.
 * - `erased`: indexes of the erasures.
 * - `requestIds`: of each request once; `requestOf`: for each entry the index of its request, -1 if it has none.
 * - A column without any value is absent.
 *
 * Format 2 (older releases) has one `projectId` for all entries, no `claims` and no `requestIds`.
 */
type ChunkData = {
  v: 2 | 3;
  projectId?: number;
  projectIds?: number[];
  version: number;
  steps?: number[];
  claims?: number[];
  customerIds: string[];
  erased?: number[];
  requestIds?: RequestIds[];
  requestOf?: number[];
} & { [F in Field]?: (string | null)[] };

const project = { type: 'integer', minimum: 1, maximum: 2 ** 31 - 1 };
const columns = {
  version: { type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER },
  steps: { type: 'array', items: { type: 'integer' } },
  customerIds: { type: 'array', minItems: 1, items: { type: 'string', minLength: 1 } },
  erased: { type: 'array', items: { type: 'integer', minimum: 0 } },
  ...Object.fromEntries(
    FIELDS.map((field) => [field, { type: 'array', items: { type: 'string', nullable: true, minLength: 1 } }]),
  ),
};

const requestIds = {
  type: 'object',
  properties: { idempotencyKey: { type: 'string' }, requestId: { type: 'string' } },
  additionalProperties: false,
};

const ajv = new Ajv({ meta: false, validateSchema: false }); // as in packages/contract/src/entry.ts
const isChunkData = ajv.compile<ChunkData>({
  type: 'object',
  required: ['v', 'version', 'customerIds'],
  properties: { v: { enum: [2, 3] } },
  if: { properties: { v: { const: 2 } } },
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  then: {
    required: ['projectId'],
    properties: { v: true, projectId: project, ...columns },
    additionalProperties: false,
  },
  else: {
    required: ['projectIds'],
    properties: {
      v: true,
      projectIds: { type: 'array', items: project },
      claims: { type: 'array', items: { type: 'integer' } },
      requestIds: { type: 'array', items: requestIds },
      requestOf: { type: 'array', items: { type: 'integer', minimum: -1 } },
      ...columns,
    },
    additionalProperties: false,
  },
});

export function toChunkData({ entries }: Chunk): ChunkData {
  const version = entries[0]?.version ?? 0;
  const data: ChunkData = {
    v: 3,
    projectIds: entries.map(({ projectId }) => projectId),
    version,
    customerIds: entries.map(({ customerId }) => customerId),
  };
  if (entries.some((entry, i) => entry.version !== version + i)) {
    data.steps = entries.map((entry) => entry.version - version);
  }
  if (entries.some(({ claim }) => claim !== undefined)) {
    data.claims = entries.map((entry) => (entry.claim ?? entry.version) - entry.version);
  }
  if (entries.some((entry) => entry.requestIds)) Object.assign(data, toRequestColumns(entries));
  if (entries.some(({ erase }) => erase)) data.erased = entries.flatMap(({ erase }, i) => (erase ? i : []));
  for (const field of FIELDS) {
    const column = entries.map(({ fields }) => fields?.[field] ?? null);
    if (column.some((value) => value !== null)) data[field] = column;
  }
  return data;
}

function toRequestColumns(entries: ChunkEntry[]): Pick<ChunkData, 'requestIds' | 'requestOf'> {
  const places = new Map<RequestIds, number>();
  const requestOf = entries.map(({ requestIds }) => {
    if (!requestIds) return -1;
    const place = places.get(requestIds) ?? places.size;
    places.set(requestIds, place);
    return place;
  });
  return { requestIds: [...places.keys()], requestOf };
}

/**
 * Parses job data. The queue is a boundary: a new worker may read a job of an older release.
 * @throws Error that names the first invalid property
 */
export function parseChunk(data: unknown): Chunk {
  if (!isChunkData(data)) throw toError(ajv.errorsText(isChunkData.errors, { dataVar: 'data' }));
  const { version, steps, claims, customerIds, erased, projectId = 0, projectIds, requestIds, requestOf } = data;
  const mismatch = Object.entries({ projectIds, steps, claims, requestOf, ...toColumns(data) }).find(
    ([, column]) => column && column.length !== customerIds.length,
  );
  if (mismatch) throw toError(`data/${mismatch[0]} must have ${customerIds.length} items`);
  const erasures = new Set(erased);
  const entries = customerIds.map((customerId, i): ChunkEntry => {
    const own = version + (steps?.[i] ?? i);
    if (!isVersion(own)) throw toError(`data/steps/${i} must lead to a version`);
    const entry: ChunkEntry = { projectId: projectIds?.[i] ?? projectId, customerId, version: own };
    const step = claims?.[i] ?? 0;
    if (!isVersion(own + step)) throw toError(`data/claims/${i} must lead to a version`);
    if (step !== 0) entry.claim = own + step;
    const request = requestOf?.[i] ?? -1;
    if (request >= 0) {
      const ids = requestIds?.[request];
      if (!ids) throw toError(`data/requestOf/${i} must be an index of data/requestIds`);
      entry.requestIds = ids;
    }
    const fields = readFields(data, i);
    if (erasures.has(i) === (fields !== undefined)) throw toError(`entry ${i} must give fields or be erased`);
    if (fields) entry.fields = fields;
    else entry.erase = true;
    return entry;
  });
  return { entries };
}

const isVersion = (version: number) => Number.isSafeInteger(version) && version >= 1;

const toColumns = (data: ChunkData) => Object.fromEntries(FIELDS.map((field) => [field, data[field]]));

function readFields(data: ChunkData, i: number): EntryFields | undefined {
  const fields: EntryFields = {};
  let isEmpty = true;
  for (const field of FIELDS) {
    const value = data[field]?.[i];
    if (!value) continue;
    fields[field] = value;
    isEmpty = false;
  }
  return isEmpty ? undefined : fields;
}

function toError(reason: string): Error {
  return new Error(`job data is not a chunk: ${reason}`);
}

/** The lowest and the highest version of a job's entries. */
export type VersionRange = [first: Version, last: Version];

/** The summary of a chunk in its job id. */
export type JobSummary = {
  /** The oldest version among the claims. */
  oldest: Version;
  entries: number;
  /** The versions of the entries. In a repeat with an idempotency key they are older than the claims. */
  versions: VersionRange;
  /** Sampled counts for the projects' backlogs, see `countSampled`. */
  ofProjects: [projectId: number, entries: number][];
};

const FORM = /^(\d+)(?:-(\d+))?(?:-v(\d+)-(\d+))?((?:-\d+x\d+)*)-[0-9a-f]{8}$/;

/**
 * Returns an id such as `1764000000000000-200-7x32-9x16-1f3a9c2e`: oldest claim, entries, sampled count per project,
 * random part. If the entries' versions do not follow one another from the oldest claim on, the first and last version
 * are added, such as `-v1763999000000000-1763999000000007`. BullMQ lists ids without job data, so backlogs can be
 * counted and versions found cheaply. The random part is needed because BullMQ drops a job whose id exists, and replays
 * may have a version in common.
 */
export function toJobId({ entries }: Chunk): string {
  let [oldest, first, last] = [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, 0];
  for (const entry of entries) {
    oldest = Math.min(oldest, claimOf(entry));
    first = Math.min(first, entry.version);
    last = Math.max(last, entry.version);
  }
  const versions = first === oldest && last === oldest + entries.length - 1 ? '' : `-v${first}-${last}`;
  const counts = [...countSampled(entries)].map(([projectId, count]) => `-${projectId}x${count}`).join('');
  return `${oldest}-${entries.length}${versions}${counts}-${randomUUID().slice(0, 8)}`;
}

/**
 * @returns undefined for an id that BullMQ generated, as for jobs of older releases. An id of the last release, such as
 * `1764000000000000-7x200-1f3a9c2e`, has one project with all entries.
 */
export function parseJobId(id: string): JobSummary | undefined {
  const [, claim, count, first, last, counts = ''] = FORM.exec(id) ?? [];
  if (!claim || !(count || counts)) return undefined;
  const ofProjects = [...counts.matchAll(/(\d+)x(\d+)/g)].map(([, projectId, count]): [number, number] => [
    Number(projectId),
    Number(count),
  ]);
  const oldest = Number(claim);
  const entries = Number(count ?? ofProjects.reduce((sum, [, own]) => sum + own, 0));
  const versions: VersionRange = [Number(first ?? oldest), Number(last ?? oldest + entries - 1)];
  return { oldest, entries, versions, ofProjects };
}

/**
 * Projects' backlogs are sampled: an entry whose version is divisible by 16 counts 16, any other entry counts 0. A
 * chunk of 200 entries changes at most 13 counts, whatever its projects, and the same entries are counted when they
 * leave. The error is about four times the square root of the backlog.
 */
export const SAMPLE = 16;

export type Countable = { projectId: number; version: Version; claim?: Version };

/** The version that admission gave an entry. The entry's claim and its count depend on it. */
export const claimOf = ({ version, claim }: Pick<Countable, 'version' | 'claim'>): Version => claim ?? version;

/**
 * Whether an entry counts for its project's backlog. Tests the low bits, because `%` is slow for such large numbers.
 */
export const isSampled = (entry: Pick<Countable, 'version' | 'claim'>): boolean =>
  (claimOf(entry) & (SAMPLE - 1)) === 0;

/** Sampled counts of these entries, by project id. */
export function countSampled(entries: Countable[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const entry of entries) {
    if (isSampled(entry)) counts.set(entry.projectId, (counts.get(entry.projectId) ?? 0) + SAMPLE);
  }
  return counts;
}
