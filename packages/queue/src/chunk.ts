import { type CustomerEntry, type EntryFields, FIELDS, type Field, type Version } from '@opm/core';
import { Ajv } from 'ajv';

/** What one job may hold. */
export const MAX_CHUNK_ENTRIES = 1_000;

/** An entry on its way through the queue. */
export type ChunkEntry = CustomerEntry & {
  projectId: number;
  /** The version of its claim, if that is not its own: it was admitted anew, and keeps its place among the others. */
  claim?: Version;
};

/** What one job holds: entries of one shard, of any projects, in version order but for dead letters that are replayed. */
export type Chunk = { entries: ChunkEntry[] };

/**
 * A chunk as the data of a job: in columns, for the names that each entry would repeat are a third of its text. The
 * entries' versions follow `version` one by one, unless `steps` says how far each is from it; `claims` says how far each
 * claim is from its entry's version, and `erased` are the places of erasures. A column in which nobody has a value is left out.
 * Version 2, of older releases, has one `projectId` for all, and no `claims`.
 */
export type ChunkData = {
  v: 2 | 3;
  projectId?: number;
  projectIds?: number[];
  version: number;
  steps?: number[];
  claims?: number[];
  customerIds: string[];
  erased?: number[];
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

const ajv = new Ajv();
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
  if (entries.some(({ erase }) => erase)) data.erased = entries.flatMap(({ erase }, i) => (erase ? i : []));
  for (const field of FIELDS) {
    const column = entries.map(({ fields }) => fields?.[field] ?? null);
    if (column.some((value) => value !== null)) data[field] = column;
  }
  return data;
}

/** Reads a job's data: a queue is a boundary, where an old job may meet a new worker. @throws Error that names what is wrong */
export function parseChunk(data: unknown): Chunk {
  if (!isChunkData(data)) throw toError(ajv.errorsText(isChunkData.errors, { dataVar: 'data' }));
  const { version, steps, claims, customerIds, erased, projectId = 0, projectIds } = data;
  const uneven = Object.entries({ projectIds, steps, claims, ...toColumns(data) }).find(
    ([, column]) => column && column.length !== customerIds.length,
  );
  if (uneven) throw toError(`data/${uneven[0]} must have ${customerIds.length} items`);
  const erasures = new Set(erased);
  const entries = customerIds.map((customerId, i): ChunkEntry => {
    const own = version + (steps?.[i] ?? i);
    if (!isVersion(own)) throw toError(`data/steps/${i} must lead to a version`);
    const entry: ChunkEntry = { projectId: projectIds?.[i] ?? projectId, customerId, version: own };
    const step = claims?.[i] ?? 0;
    if (!isVersion(own + step)) throw toError(`data/claims/${i} must lead to a version`);
    if (step !== 0) entry.claim = own + step;
    const fields = readFields(data, i);
    if (erasures.has(i) === (fields !== undefined)) throw toError(`entry ${i} must give fields or be erased`);
    if (fields) entry.fields = fields;
    else entry.erase = true;
    return entry;
  });
  return { entries };
}

const isVersion = (version: number) => Number.isSafeInteger(version) && version >= 1;

const toColumns = ({ email, phone, firstName, lastName, ip }: ChunkData) => ({ email, phone, firstName, lastName, ip });

/** One by one, for this is done for every entry. */
function readFields(data: ChunkData, i: number): EntryFields | undefined {
  const email = data.email?.[i];
  const phone = data.phone?.[i];
  const firstName = data.firstName?.[i];
  const lastName = data.lastName?.[i];
  const ip = data.ip?.[i];
  if (!(email || phone || firstName || lastName || ip)) return undefined;
  const fields: EntryFields = {};
  if (email) fields.email = email;
  if (phone) fields.phone = phone;
  if (firstName) fields.firstName = firstName;
  if (lastName) fields.lastName = lastName;
  if (ip) fields.ip = ip;
  return fields;
}

function toError(reason: string): Error {
  return new Error(`job data is not a chunk: ${reason}`);
}
