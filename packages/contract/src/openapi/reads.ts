import { FIELDS, type Field, MAX_REFUSED_OF_CUSTOMER, SCOPES } from '@opm/core';
import { askedReceiptSchema, FIELD_ENTRIES, FIELD_PROPERTIES, toCustomerAnswer } from '../entry.js';
import { LIMITS } from '../limits.js';
import {
  parseDays,
  parseRefusedQuery,
  RECEIPT_EXAMPLE,
  RECEIPT_FORM,
  REFUSALS,
  REFUSED_PAGE,
  REFUSED_STATES,
  type RefusedEntry,
  toRefusedEntry,
  toUsageAnswer,
} from '../reads.js';
import type { Operation, Success } from './operations.js';
import { CUSTOMER_ID, type Json } from './schemas.js';

const REFUSED_ENTRY = { $ref: '#/components/schemas/RefusedEntry' };
const REFUSED_LIST = {
  type: 'array',
  description: 'Refused entries that nothing newer covers, newest first. Absent if there are none.',
  items: REFUSED_ENTRY,
};

const STORED = {
  ...(Object.fromEntries(FIELDS.map((field) => [field, FIELD_PROPERTIES[field].example])) as Record<Field, string>),
  ip: null,
  createdAt: new Date('2026-11-24T17:00:00Z'),
  updatedAt: new Date('2026-11-24T17:05:30Z'),
};

const REFUSED: RefusedEntry = toRefusedEntry({
  customerId: '7519',
  receipt: RECEIPT_EXAMPLE,
  state: 'refused',
  sqlState: '22001',
  isReadable: true,
  field: 'phone',
  requestIds: { requestId: 'import-42' },
  refusedAt: new Date('2026-11-30T12:00:01Z'),
});
const REASONS = Object.entries(REFUSALS).map(([code, message]) => `- \`${code}\`: ${message}`);

export const getReceipt: Operation = {
  method: 'get',
  path: '/entry/{customerId}/receipts/{receipt}',
  operationId: 'getReceipt',
  tag: 'Entries',
  summary: 'Ask what became of an entry',
  description:
    'Each accepted entry and erasure has a receipt. It is `stored` (it took effect, or newer ones cover it), `pending` (not stored yet), `refused` by our database, or `unknown` (we have no such entry, or no longer).',
  parameters: ['customerId', 'receipt', 'requestId'],
  successes: toRead('ReceiptAnswer', 'What became of the entry.', {
    stored: { summary: 'The entry is stored', value: { statusCode: 200, state: 'stored' } },
    refused: { summary: 'The entry was refused', value: { statusCode: 200, state: 'refused', refused: REFUSED } },
  }),
  faults: ['PATH_MALFORMED', 'PATH_INVALID', 'RECEIPT_INVALID', 'CUSTOMERS_UNAVAILABLE'],
};

export const getRefused: Operation = {
  method: 'get',
  path: '/entries/refused',
  operationId: 'getRefused',
  tag: 'Entries',
  summary: 'List refused entries',
  description: `Accepted entries that our database refused, newest first. An entry that we tried again (\`replayed\`) or gave up (\`discarded\`) stays for 30 days. Reasons:\n\n${REASONS.join('\n')}`,
  parameters: ['since', 'cursor', 'limit', 'requestId'],
  successes: toRead('RefusedAnswer', 'A page of the list.', {
    page: { summary: 'The only page', value: { statusCode: 200, refused: [REFUSED], cursor: null } },
  }),
  faults: ['QUERY_INVALID', 'REFUSED_UNAVAILABLE'],
  mistakes: {
    QUERY_INVALID: {
      'a time that is none': () => parseRefusedQuery({ since: 'yesterday' }),
      'a page that is too long': () => parseRefusedQuery({ limit: '1001' }),
      'an unknown parameter': () => parseRefusedQuery({ from: '2026-11-30' }),
    },
  },
};

export const getEntry: Operation = {
  method: 'get',
  path: '/entry/{customerId}',
  operationId: 'getEntry',
  tag: 'Customers',
  summary: 'Read a customer',
  description: `Returns the stored customer, and whether a newer entry is not stored yet. Once an erasure is accepted, the answer is a 404. If you send an entry meanwhile, it is pending, and the old data is shown until the erasure is done. Either answer lists up to ${MAX_REFUSED_OF_CUSTOMER} \`refused\` entries of the customer that nothing newer covers, if there are any.`,
  parameters: ['customerId', 'requestId'],
  successes: toRead(
    'CustomerAnswer',
    'The customer. If its first entry is not stored yet, all properties except the id are `null`.',
    {
      stored: { summary: 'All entries are stored', value: toCustomerAnswer('7519', STORED, false) },
      pending: { summary: 'The first entry is pending', value: toCustomerAnswer('7519', undefined, true) },
      refused: { summary: 'An entry was refused', value: toCustomerAnswer('7519', STORED, false, [REFUSED]) },
    },
  ),
  faults: ['PATH_MALFORMED', 'PATH_INVALID', 'CUSTOMER_UNKNOWN', 'CUSTOMER_ERASED', 'CUSTOMERS_UNAVAILABLE'],
  faultProperties: { 404: { refused: REFUSED_LIST } },
};

const KEY = {
  hint: 'opm_4fTk2a',
  label: 'billing',
  scopes: ['write'],
  addresses: ['203.0.113.0/24'],
  createdAt: '2026-11-24T17:00:00.000Z',
  expiresAt: null,
  lastUsedAt: '2026-11-30T08:15:42.000Z',
};

export const getKeys: Operation = {
  method: 'get',
  path: '/keys',
  operationId: 'getKeys',
  tag: 'API key',
  summary: 'List your keys',
  description: 'Lists the keys of your project that work, newest first, at most 100. The list may be a second old.',
  parameters: ['requestId'],
  successes: toRead('KeysAnswer', 'The keys. Only their first 10 characters are known to us.', {
    keys: { summary: 'One key', value: { statusCode: 200, keys: [KEY] } },
  }),
  faults: ['KEY_LIST_UNAVAILABLE'],
};

export const getUsage: Operation = {
  method: 'get',
  path: '/usage',
  operationId: 'getUsage',
  tag: 'Usage',
  summary: 'Count your entries per day',
  description: `Counts your entries per day (UTC) by what became of them. Counts are some seconds late, and miss what one of our processes counted in its last seconds before it crashed. We keep ${LIMITS.days} days.`,
  parameters: ['from', 'to', 'requestId'],
  successes: toRead('UsageAnswer', 'Every day, in order.', {
    day: { summary: 'One day', value: toUsageAnswer({ from: '2026-11-30', to: '2026-11-30' }, []) },
  }),
  faults: ['QUERY_INVALID', 'USAGE_UNAVAILABLE'],
  mistakes: {
    QUERY_INVALID: {
      'no day': () => parseDays({ from: '30.11.2026' }, new Date()),
      'too many days': () => parseDays({ from: '2020-01-01', to: '2026-11-30' }, new Date()),
      'an unknown parameter': () => parseDays({ since: '2026-11-30' }, new Date()),
    },
  },
};

function toRead(schema: string, description: string, examples: Json): Success[] {
  return [{ statusCode: 200, description, schema: { $ref: `#/components/schemas/${schema}` }, examples }];
}

/** The schemas of the answers, by name. */
export function toReadSchemas(): Json {
  return {
    CustomerAnswer: toCustomerAnswerSchema(),
    ReceiptAnswer: {
      oneOf: [
        toExactObject({ statusCode: OK, state: { type: 'string', enum: ['stored', 'pending', 'unknown'] } }),
        toExactObject({ statusCode: OK, state: { type: 'string', const: 'refused' }, refused: REFUSED_ENTRY }),
      ],
    },
    AskedReceipt: {
      type: 'object',
      required: askedReceiptSchema.required,
      properties: { customerId: CUSTOMER_ID, receipt: { type: 'string', pattern: RECEIPT_FORM.source } },
    },
    ReceiptsAnswer: toExactObject({
      statusCode: OK,
      results: {
        type: 'array',
        description: 'One per receipt, in order: the body that the single call would have had.',
        maxItems: LIMITS.batchEntries,
        items: { $ref: '#/components/schemas/ReceiptAnswer' },
      },
    }),
    RefusedAnswer: toExactObject({
      statusCode: OK,
      refused: { ...REFUSED_LIST, description: 'Newest first.', maxItems: REFUSED_PAGE.max },
      cursor: { type: ['string', 'null'], description: 'Gives the next page; `null` on the last one.' },
    }),
    RefusedEntry: {
      type: 'object',
      required: ['customerId', 'receipt', 'code', 'message', 'refusedAt', 'state'],
      properties: {
        customerId: { type: 'string' },
        receipt: { type: 'string', pattern: RECEIPT_FORM.source },
        code: { enum: Object.keys(REFUSALS) },
        message: { enum: Object.values(REFUSALS) },
        field: { enum: FIELD_ENTRIES.map(([name]) => name), description: 'The refused property, if we know it.' },
        idempotencyKey: { type: 'string', description: 'The key of its request, if there was one.' },
        requestId: { type: 'string', description: 'The `x-request-id` that you gave its request, if any.' },
        refusedAt: TIME,
        state: {
          enum: REFUSED_STATES,
          description:
            'With `replayed`, we try again. With `discarded`, we gave up. With `stored`, it took effect in the end, or newer entries cover it.',
        },
      },
      additionalProperties: false,
    },
    KeysAnswer: toKeysAnswerSchema(),
    UsageAnswer: toUsageAnswerSchema(),
  };
}

/** Takes the properties from a real answer, so that the schema cannot miss one. */
function toCustomerAnswerSchema(): Json {
  const time = { ...TIME, type: ['string', 'null'] };
  const described: Record<string, Json> = {
    customerId: { type: 'string', description: 'Always a string, even if you sent a number.' },
    ...Object.fromEntries(FIELD_ENTRIES.map(([name]) => [name, { type: ['string', 'null'] }])),
    createdAt: {
      ...time,
      description: 'When we accepted the first stored entry or, after an erasure, the erasure.',
    },
    updatedAt: { ...time, description: 'When we accepted the newest stored entry.' },
  };
  const names = Object.keys(toCustomerAnswer('', undefined, false).customer);
  return {
    type: 'object',
    required: ['statusCode', 'customer', 'pending'],
    properties: {
      statusCode: OK,
      customer: toExactObject(
        Object.fromEntries(names.map((name) => [name, described[name] as Json])),
        'All properties are always present. Those without a value are `null`.',
      ),
      pending: {
        type: 'boolean',
        description: 'True if the newest accepted entry is not stored yet. `customer` does not include it until then.',
      },
      refused: { ...REFUSED_LIST, maxItems: MAX_REFUSED_OF_CUSTOMER },
    },
    additionalProperties: false,
  };
}

const OK = { type: 'integer', const: 200 };
const COUNT = { type: 'integer', minimum: 0 };
const TIME = { type: 'string', format: 'date-time' };

/** An object that has all of these properties, and no other. */
const toExactObject = (properties: Record<string, Json>, description?: string): Json => ({
  type: 'object',
  ...(description && { description }),
  required: Object.keys(properties),
  properties,
  additionalProperties: false,
});

function toUsageAnswerSchema(): Json {
  const day = toExactObject({
    day: { type: 'string', format: 'date' },
    accepted: { ...COUNT, description: 'Entries that we accepted: `created` and `updated`.' },
    created: { ...COUNT, description: 'Entries with the answer 201.' },
    updated: { ...COUNT, description: 'Entries with the answer 202.' },
    erased: { ...COUNT, description: 'Erasures that we accepted.' },
    refused: toExactObject(
      {
        invalid: { ...COUNT, description: 'Answers 400, 413, 415 and 422.' },
        limited: { ...COUNT, description: 'Answers 429.' },
        unavailable: { ...COUNT, description: 'Answers 500 and 503.' },
      },
      'Entries and erasures that we refused.',
    ),
    notStored: {
      ...COUNT,
      description:
        'Accepted entries that our database rejected, even if we stored one later. One that it rejects again when we try again counts again.',
    },
  });
  const days = { type: 'array', minItems: 1, maxItems: LIMITS.days, items: day };
  return toExactObject({ statusCode: OK, days });
}

function toKeysAnswerSchema(): Json {
  const key = toExactObject({
    hint: { type: 'string', description: 'The first characters of the key.' },
    label: { type: ['string', 'null'], description: 'What we call the key.' },
    scopes: {
      type: 'array',
      description: 'What the key may do: send entries (`write`), read (`read`), erase customers (`erase`).',
      items: { type: 'string', enum: SCOPES },
    },
    addresses: {
      type: 'array',
      description: 'The IP addresses and CIDR blocks that may use the key; none if all may.',
      items: { type: 'string' },
    },
    createdAt: TIME,
    expiresAt: { ...TIME, type: ['string', 'null'] },
    lastUsedAt: { ...TIME, type: ['string', 'null'], description: 'Some seconds late.' },
  });
  return toExactObject({ statusCode: OK, keys: { type: 'array', items: key } });
}
