import { expect, test } from '@jest/globals';
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { parseCustomerId, parseEntry } from '../entry.js';
import { ANSWERS, FAULTS, Fault } from '../faults.js';
import { LIMITS } from '../limits.js';
import { toOpenApiDocument } from './to-openapi-document.js';

type Body = { statusCode: number; error?: string; message: string };

const document = toOpenApiDocument({ version: '1.2.3' });
const ajv = new Ajv2020({ strict: false, validateFormats: false });
ajv.addSchema({ $id: 'openapi', ...document });
const compile = (pointer: string) => ajv.compile({ $ref: `openapi#${pointer}` });

/** All example bodies of answers in the document. */
function findBodies(value: unknown): Body[] {
  if (typeof value !== 'object' || value === null) return [];
  if ('statusCode' in value && typeof value.statusCode === 'number') return [value as Body];
  return Object.values(value).flatMap(findBodies);
}
const bodies = findBodies(document);

test('the document has every fault with its text, and no other', () => {
  const statuses = new Map(bodies.map(({ message, statusCode, error }) => [message, { statusCode, error }]));
  const { BODY_INVALID, PATH_INVALID, QUERY_INVALID, ...fixed } = FAULTS; // their messages name a property
  for (const { message, statusCode, error } of Object.values(fixed)) {
    expect([message, statuses.get(message)]).toEqual([message, { statusCode, error }]);
  }
  const known = new Set<string>([...Object.values(fixed), ...Object.values(ANSWERS)].map(({ message }) => message));
  for (const { message, statusCode } of bodies) {
    if (message === undefined || known.has(message)) continue; // customers, keys and usage have no message
    expect([message, statusCode]).toEqual([expect.stringMatching(/^(body[ /]|path\/customerId |query[ /])/), 400]);
  }
  expect([BODY_INVALID, PATH_INVALID, QUERY_INVALID].map(({ statusCode }) => statusCode)).toEqual([400, 400, 400]);
});

test('the document has every answer', () => {
  for (const answer of Object.values(ANSWERS)) expect(bodies).toContainEqual(expect.objectContaining(answer));
});

const isAccepted = (read: () => unknown): boolean => {
  try {
    read();
    return true;
  } catch (error) {
    if (error instanceof Fault) return false;
    throw error;
  }
};

test('a body is valid by the document if and only if it is an entry', () => {
  const isValid = compile('/components/schemas/Entry');
  const text = (maxLength: number) =>
    fc.oneof(
      fc.string({ unit: 'grapheme', maxLength: 3 }).filter((it) => !it.includes('\0')),
      fc.integer({ min: maxLength - 1, max: maxLength + 1 }).map((length) => '😀'.repeat(length)),
    );
  const given = (maxLength: number) => fc.oneof(text(maxLength), fc.constantFrom(null, '', 1, true, []));
  const id = fc.oneof(text(255), fc.maxSafeInteger(), fc.constantFrom(2 ** 53, -(2 ** 53), 0.5, null, '', false));
  const entry = fc.record(
    {
      customerId: id,
      customerEmail: given(320),
      customerPhone: given(64),
      customerIP: given(64),
      other: fc.jsonValue(),
    },
    { requiredKeys: [] },
  );
  const seen = new Set<boolean>();
  fc.assert(
    fc.property(fc.oneof(entry, fc.jsonValue()), (body) => {
      const accepted = isAccepted(() => parseEntry(body));
      expect(isValid(body)).toBe(accepted);
      seen.add(accepted);
    }),
    { numRuns: 1_000 },
  );
  expect([...seen].sort()).toEqual([false, true]);
});

test.each(['', '1', 'x'.repeat(255), 'x'.repeat(256)])(
  'an id in a path is valid by the document if and only if it is accepted: %#',
  (id) => {
    const isValid = compile('/components/parameters/customerId/schema');
    expect(isValid(id)).toBe(isAccepted(() => parseCustomerId(id)));
  },
);

test('only answers that can be replayed may have the header idempotent-replayed', () => {
  type Responses = Record<string, { headers?: object }>;
  const paths = document.paths as Record<string, Record<string, { operationId: string; responses: Responses }>>;
  const operations = Object.values(paths).flatMap((methods) => Object.values(methods));
  const replayed = operations.map(({ operationId, responses }): [string, string[]] => [
    operationId,
    Object.keys(responses).filter((status) => 'idempotent-replayed' in (responses[status]?.headers ?? {})),
  ]);
  expect(Object.fromEntries(replayed)).toEqual({
    ...{ postEntry: ['201', '202'], postEntries: ['207'], deleteEntry: ['202', '404'] },
    ...{ getEntry: [], getReceipt: [], postReceipts: [], getRefused: [], getPing: [], getKeys: [], getUsage: [] },
  });
});

test.each([
  ['/usage', /^query\/(from|to|since) /],
  ['/entries/refused', /^query\/(since|limit|from) /],
])('the examples of a wrong query of %s are its own', (path, own) => {
  const { paths } = document as { paths: Record<string, { get: { responses: Record<string, unknown> } }> };
  const messages = findBodies(paths[path]?.get.responses['400']).map(({ message }) => message);
  const ofQuery = messages.filter((message) => message.startsWith('query'));
  expect(ofQuery).toHaveLength(3);
  for (const message of ofQuery) expect(message).toMatch(own);
});

test('the example entries are accepted, and the limits are the real ones', () => {
  const paths = document.paths as Record<string, { post: { requestBody: { content: Record<string, unknown> } } }>;
  const contents = ['/entry', '/entries'].map((path) => paths[path]?.post.requestBody.content['application/json']);
  const [entry, entries] = contents as { schema: object; examples: Record<string, { value: unknown }> }[];
  for (const { value } of Object.values(entry?.examples ?? {})) parseEntry(value);
  for (const { value } of Object.values(entries?.examples ?? {})) for (const it of value as unknown[]) parseEntry(it);
  expect(entries?.schema).toMatchObject({ minItems: 1, maxItems: LIMITS.batchEntries });
  expect(document.info).toMatchObject({ version: '1.2.3' });
});
