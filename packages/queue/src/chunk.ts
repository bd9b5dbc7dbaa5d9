import { type CustomerEntry, FIELDS } from '@opm/core';
import { Ajv } from 'ajv';

/** What one job may hold. */
export const MAX_CHUNK_ENTRIES = 1_000;

/** The data of one job: entries of one project, all of the same shard, in version order. */
export type Chunk = { v: 1; projectId: number; entries: CustomerEntry[] };

const chunkSchema = {
  type: 'object',
  required: ['v', 'projectId', 'entries'],
  properties: {
    v: { const: 1 },
    projectId: { type: 'integer', minimum: 1, maximum: 2 ** 31 - 1 },
    entries: {
      type: 'array',
      minItems: 1,
      items: {
        type: 'object',
        required: ['customerId', 'version'],
        properties: {
          customerId: { type: 'string', minLength: 1 },
          version: { type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER },
          fields: {
            type: 'object',
            minProperties: 1,
            additionalProperties: false,
            properties: Object.fromEntries(FIELDS.map((field) => [field, { type: 'string', minLength: 1 }])),
          },
          erase: { const: true },
        },
        if: { required: ['erase'] },
        // biome-ignore lint/suspicious/noThenProperty: JSON Schema's word
        then: { properties: { fields: false } },
        else: { required: ['fields'] },
      },
    },
  },
};

const ajv = new Ajv({ strictRequired: false });
const isChunk = ajv.compile<Chunk>(chunkSchema);

/** Reads a job's data: a queue is a boundary, where an old job may meet a new worker. @throws Error that names what is wrong */
export function parseChunk(data: unknown): Chunk {
  if (isChunk(data)) return data;
  throw new Error(`job data is not a chunk: ${ajv.errorsText(isChunk.errors, { dataVar: 'data' })}`);
}
