import { type CustomerEntry, type EntryFields, FIELDS, type Field } from '@opm/core';
import { Ajv } from 'ajv';

/** What one job may hold. */
export const MAX_CHUNK_ENTRIES = 1_000;

/** What one job holds: entries of one project, all of the same shard, in version order but for dead letters that are replayed. */
export type Chunk = { projectId: number; entries: CustomerEntry[] };

/**
 * A chunk as the data of a job: in columns, for the names that each entry would repeat are a third of its text. The
 * entries' versions follow `version` one by one, unless `steps` says how far each is from it; `erased` are the places of
 * erasures. A column in which nobody has a value is left out.
 */
export type ChunkData = {
  v: 2;
  projectId: number;
  version: number;
  steps?: number[];
  customerIds: string[];
  erased?: number[];
} & { [F in Field]?: (string | null)[] };

const chunkDataSchema = {
  type: 'object',
  required: ['v', 'projectId', 'version', 'customerIds'],
  additionalProperties: false,
  properties: {
    v: { const: 2 },
    projectId: { type: 'integer', minimum: 1, maximum: 2 ** 31 - 1 },
    version: { type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER },
    steps: { type: 'array', items: { type: 'integer' } },
    customerIds: { type: 'array', minItems: 1, items: { type: 'string', minLength: 1 } },
    erased: { type: 'array', items: { type: 'integer', minimum: 0 } },
    ...Object.fromEntries(
      FIELDS.map((field) => [field, { type: 'array', items: { type: 'string', nullable: true, minLength: 1 } }]),
    ),
  },
};

const ajv = new Ajv();
const isChunkData = ajv.compile<ChunkData>(chunkDataSchema);

export function toChunkData({ projectId, entries }: Chunk): ChunkData {
  const version = entries[0]?.version ?? 0;
  const data: ChunkData = { v: 2, projectId, version, customerIds: entries.map(({ customerId }) => customerId) };
  if (entries.some((entry, i) => entry.version !== version + i)) {
    data.steps = entries.map((entry) => entry.version - version);
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
  const { projectId, version, steps, customerIds, erased } = data;
  const columns = Object.entries({ steps, ...toColumns(data) });
  const uneven = columns.find(([, column]) => column && column.length !== customerIds.length);
  if (uneven) throw toError(`data/${uneven[0]} must have ${customerIds.length} items`);
  const erasures = new Set(erased);
  const entries = customerIds.map((customerId, i): CustomerEntry => {
    const own = version + (steps?.[i] ?? i);
    if (!Number.isSafeInteger(own) || own < 1) throw toError(`data/steps/${i} must lead to a version`);
    const fields = readFields(data, i);
    if (erasures.has(i) === (fields !== undefined)) throw toError(`entry ${i} must give fields or be erased`);
    return fields ? { customerId, version: own, fields } : { customerId, version: own, erase: true };
  });
  return { projectId, entries };
}

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
