import { entrySchema, FIELD_ENTRIES, FIELD_PROPERTIES, NOT_STORABLE, parseCustomerId, parseEntry } from '../entry.js';
import { ANSWERS, type Answer, FAULTS, Fault, type FaultCode } from '../faults.js';
import { LIMITS } from '../limits.js';
import { RECEIPT_FORM } from '../reads.js';

/** Faults that a result of a batch may contain. */
const RESULT_FAULTS: FaultCode[] = [
  'BODY_MALFORMED',
  'BODY_INVALID',
  'BODY_TOO_LARGE',
  'RATE_LIMITED',
  'QUEUE_UNAVAILABLE',
  'OVERLOADED',
];

export const CUSTOMER_ID = {
  ...toJsonSchema(entrySchema.properties.customerId),
  description: 'Your id of the customer. `7519` and `"7519"` are the same id; case and spaces matter.',
  examples: [7519, '7519'],
};

/**
 * Rules that the schema of an entry cannot express. They are in the description of the body, because viewers would
 * repeat a description of the schema for each of its alternatives.
 */
export const ENTRY_RULES = `A field that is omitted, \`null\` or \`""\` keeps its stored value. Every entry must have an email or a phone, even an update. Properties that are not listed are ignored. Texts ${NOT_STORABLE}.`;

/** An entry must have at least one of these, not empty. */
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
      required: ['statusCode', 'message', 'accepted', 'rejected', 'results', 'receipts'],
      properties: {
        ...toAnswerSchema(ANSWERS.multiStatus).properties,
        accepted: { type: 'integer', minimum: 0, description: 'Number of entries that are queued safely.' },
        rejected: { type: 'integer', minimum: 0, description: 'Number of entries that are not.' },
        results: {
          type: 'array',
          description: 'One per entry, in order: the body that the single call would have had.',
          maxItems: LIMITS.batchEntries,
          items: {
            anyOf: [
              toAnswerSchema(ANSWERS.created),
              toAnswerSchema(ANSWERS.updateAccepted),
              ...groupByStatus(RESULT_FAULTS).map((codes) => toFaultSchema(codes)),
            ],
          },
        },
        receipts: {
          type: 'array',
          description: 'One per result, in order: the `receipt` of an entry that is queued safely, else `null`.',
          maxItems: LIMITS.batchEntries,
          items: { type: ['string', 'null'], pattern: RECEIPT_FORM.source },
        },
      },
      additionalProperties: false,
    },
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

/** Converts a schema of our validator to JSON Schema 2020-12: removes `storable` and replaces `nullable`. */
export function toJsonSchema({ nullable, storable: _, type, ...schema }: Json): Json {
  return { type: nullable ? [type, 'null'] : type, ...schema };
}

function toProperties(): Record<string, Json> {
  const { customerId: _, ...fields } = entrySchema.properties;
  const described = FIELD_ENTRIES.map(([property, field]) => {
    const { description, example } = FIELD_PROPERTIES[field];
    return [property, { ...toJsonSchema(fields[property]), description, examples: [example] }];
  });
  return { customerId: CUSTOMER_ID, ...Object.fromEntries(described) };
}

/** Mistakes by fault code and description. Each function throws the fault. */
export type Mistakes = Partial<Record<FaultCode, Record<string, () => unknown>>>;

/**
 * Faults whose message depends on the mistake. `start`: pattern of the beginning of the message. `mistakes`: examples
 * for operations that have none of their own.
 */
const NAMING: Partial<Record<FaultCode, { start: string; mistakes: Record<string, () => unknown> }>> = {
  BODY_INVALID: {
    start: '^body[ /]',
    mistakes: {
      'neither email nor phone': () => parseEntry({ customerId: 7519, customerFirstName: 'Jane' }),
      'a wrong type': () => parseEntry({ customerId: 7519, customerEmail: 42 }),
      'no id': () => parseEntry({ customerEmail: 'jane@example.com' }),
      'not an object': () => parseEntry([]),
    },
  },
  PATH_INVALID: {
    start: '^path/customerId ',
    mistakes: {
      'an id that is too long': () => parseCustomerId('7'.repeat(256)),
      'an id that cannot be stored': () => parseCustomerId('a\0b'),
    },
  },
  QUERY_INVALID: { start: '^query[ /]', mistakes: {} },
};

/** Groups the codes by status, in ascending order of the statuses. */
export function groupByStatus(codes: readonly FaultCode[]): FaultCode[][] {
  const statuses = [...new Set(codes.map((code) => FAULTS[code].statusCode))].sort((a, b) => a - b);
  return statuses.map((status) => codes.filter((code) => FAULTS[code].statusCode === status));
}

/** The schema of the body for faults of one status. */
export function toFaultSchema(codes: readonly FaultCode[], optionalProperties: Json = {}): Json {
  const [first] = codes as [FaultCode];
  const { statusCode, error } = FAULTS[first];
  return {
    type: 'object',
    required: ['statusCode', 'error', 'message'],
    properties: {
      statusCode: { type: 'integer', const: statusCode },
      error: { type: 'string', const: error },
      message: { type: 'string', ...toMessages(codes) },
      ...optionalProperties,
    },
    additionalProperties: false,
  };
}

function toMessages(codes: readonly FaultCode[]): Json {
  const fixed = codes.filter((code) => !NAMING[code]).map((code) => FAULTS[code].message);
  const starts = codes.flatMap((code) => NAMING[code]?.start ?? []);
  const any = [...(fixed.length > 0 ? [{ enum: fixed }] : []), ...starts.map((pattern) => ({ pattern }))];
  return any.length === 1 ? (any[0] as Json) : { anyOf: any };
}

/** Example bodies of the faults, by message or mistake. */
export function toFaultExamples(codes: readonly FaultCode[], mistakes: Mistakes = {}): Json {
  const examples = codes.flatMap((code) => toExamples(code, mistakes[code]));
  return Object.fromEntries(examples.map(([name, value]) => [name, { summary: name, value }]));
}

function toExamples(code: FaultCode, mistakes = NAMING[code]?.mistakes): [string, Json][] {
  const { statusCode, error, message } = FAULTS[code];
  if (!mistakes) return [[message, { statusCode, error, message }]];
  return Object.entries(mistakes).map(([name, make]) => [name, { statusCode, error, message: messageOf(make) }]);
}

function messageOf(make: () => unknown): string {
  try {
    make();
  } catch (error) {
    if (error instanceof Fault) return error.message;
    throw error;
  }
  throw new Error('an example of a mistake must throw a Fault');
}

/** An OpenAPI document, or a part of it. */
export type Json = { [property: string]: unknown };
