import { ANSWERS, type Answer } from '../answers.js';
import { toCustomerAnswer } from '../customer-answer.js';
import { entrySchema, FIELD_ENTRIES, NOT_STORABLE } from '../entry.js';
import type { FaultCode } from '../faults.js';
import { LIMITS } from '../limits.js';
import { groupByStatus, toFaultSchema } from './fault-schema.js';
import type { Json } from './to-openapi-document.js';

/** What may come of a single entry of a batch. */
const RESULT_FAULTS: FaultCode[] = [
  'BODY_MALFORMED',
  'BODY_INVALID',
  'BODY_TOO_LARGE',
  'RATE_LIMITED',
  'QUEUE_UNAVAILABLE',
  'OVERLOADED',
];

const PROPERTY: Record<keyof typeof entrySchema.properties, { description: string; examples: unknown[] }> = {
  customerId: {
    description: 'The id that you use for the customer. `7519` and `"7519"` are the same one; case and spaces count.',
    examples: [7519, '7519'],
  },
  customerEmail: { description: 'Any text: its format is not checked.', examples: ['jane@example.com'] },
  customerPhone: { description: 'Any text: its format is not checked.', examples: ['+41 44 668 18 00'] },
  customerFirstName: { description: 'Any text.', examples: ['Jane'] },
  customerLastName: { description: 'Any text.', examples: ['Doe'] },
  customerIP: { description: 'Any text: its format is not checked.', examples: ['203.0.113.7'] },
};

/** What the schema of an entry does not say by itself; in it, viewers show it for each of its alternatives. */
export const ENTRY_RULES = `A field that is left out, \`null\` or \`""\` keeps what is stored. An email or a phone must be given, in an update too. Properties that are not listed are ignored. Texts ${NOT_STORABLE}.`;

/** Of those one at least must be given, and not be empty. */
const CONTACTS = ['customerEmail', 'customerPhone'] as const;

export function toSchemas(): Json {
  const properties = toProperties();
  return {
    Entry: {
      type: 'object',
      required: entrySchema.required,
      properties,
      anyOf: CONTACTS.map((name) => ({
        title: `with ${name}`,
        required: [name],
        properties: { [name]: { ...properties[name], type: 'string', minLength: 1 } },
      })),
    },
    BatchAnswer: {
      type: 'object',
      required: ['statusCode', 'message', 'accepted', 'rejected', 'results'],
      properties: {
        ...toAnswerSchema(ANSWERS.multiStatus).properties,
        accepted: { type: 'integer', minimum: 0, description: 'Entries that are safely queued.' },
        rejected: { type: 'integer', minimum: 0, description: 'Entries that are not.' },
        results: {
          type: 'array',
          description: 'One per entry, in order: the body that the single call would have had.',
          maxItems: LIMITS.batchEntries,
          items: {
            anyOf: [
              toAnswerSchema(ANSWERS.created),
              toAnswerSchema(ANSWERS.updateAccepted),
              ...groupByStatus(RESULT_FAULTS).map(toFaultSchema),
            ],
          },
        },
      },
      additionalProperties: false,
    },
    CustomerAnswer: toCustomerAnswerSchema(),
  };
}

export function toAnswerSchema({ statusCode, message }: Answer) {
  return {
    type: 'object',
    required: ['statusCode', 'message'],
    properties: { statusCode: { type: 'integer', const: statusCode }, message: { type: 'string', const: message } },
    additionalProperties: false,
  };
}

/** Without the words that only our validator knows. */
export function toJsonSchema({ nullable, storable: _, type, ...schema }: Json): Json {
  return { type: nullable ? [type, 'null'] : type, ...schema };
}

function toProperties(): Record<string, Json> {
  const properties = Object.entries(entrySchema.properties) as [keyof typeof PROPERTY, Json][];
  return Object.fromEntries(properties.map(([name, schema]) => [name, { ...toJsonSchema(schema), ...PROPERTY[name] }]));
}

/** The properties are those that are answered. */
function toCustomerAnswerSchema(): Json {
  const time = { type: ['string', 'null'], format: 'date-time' };
  const described: Record<string, Json> = {
    customerId: { type: 'string', description: 'A string, whatever you sent.' },
    ...Object.fromEntries(FIELD_ENTRIES.map(([name]) => [name, { type: ['string', 'null'] }])),
    createdAt: {
      ...time,
      description: 'When we accepted the first entry that is stored; after an erasure, the erasure.',
    },
    updatedAt: { ...time, description: 'When we accepted the newest entry that is stored.' },
  };
  const names = Object.keys(toCustomerAnswer('', undefined, false).customer);
  return {
    type: 'object',
    required: ['statusCode', 'customer', 'pending'],
    properties: {
      statusCode: { type: 'integer', const: 200 },
      customer: {
        type: 'object',
        description: 'All properties are always there, `null` where we have nothing.',
        required: names,
        properties: Object.fromEntries(names.map((name) => [name, described[name]])),
        additionalProperties: false,
      },
      pending: {
        type: 'boolean',
        description:
          'Whether the newest entry that we accepted is not stored yet; `customer` is without it until then.',
      },
    },
    additionalProperties: false,
  };
}
