import { parseCustomerId, parseEntry } from '../entry.js';
import { FAULTS, Fault, type FaultCode } from '../faults.js';
import type { Json } from './to-openapi-document.js';

/** Faults whose message names what is wrong, with what it starts with, and with mistakes that show it. */
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
};

/** Those of one status together, in the order of the statuses. */
export function groupByStatus(codes: readonly FaultCode[]): FaultCode[][] {
  const statuses = [...new Set(codes.map((code) => FAULTS[code].statusCode))].sort((a, b) => a - b);
  return statuses.map((status) => codes.filter((code) => FAULTS[code].statusCode === status));
}

/** The body of faults that have one status. */
export function toFaultSchema(codes: readonly FaultCode[]): Json {
  const [first] = codes as [FaultCode];
  const { statusCode, error } = FAULTS[first];
  return {
    type: 'object',
    required: ['statusCode', 'error', 'message'],
    properties: {
      statusCode: { type: 'integer', const: statusCode },
      error: { type: 'string', const: error },
      message: { type: 'string', ...toMessages(codes) },
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

/** Bodies as they are answered, by what leads to them. */
export function toFaultExamples(codes: readonly FaultCode[]): Json {
  return Object.fromEntries(codes.flatMap(toExamples).map(([name, value]) => [name, { summary: name, value }]));
}

function toExamples(code: FaultCode): [string, Json][] {
  const { statusCode, error, message } = FAULTS[code];
  const naming = NAMING[code];
  if (!naming) return [[message, { statusCode, error, message }]];
  return Object.entries(naming.mistakes).map(([name, make]) => [name, { statusCode, error, message: messageOf(make) }]);
}

function messageOf(make: () => unknown): string {
  try {
    make();
  } catch (error) {
    if (error instanceof Fault) return error.message;
    throw error;
  }
  throw new Error('an example of a mistake is none');
}
