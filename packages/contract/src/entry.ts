import { isUtf8 } from 'node:buffer';
import { type EntryFields, FIELDS, type Field, MAX_CUSTOMER_ID_LENGTH, parseReceipt, type Receipt } from '@opm/core';
import { _, Ajv, type ErrorObject, type KeywordCxt } from 'ajv';
import { Fault } from './faults.js';
import { emptyNested } from './nested-json.js';

/** The parsed body of POST /entry. `null` and `""` are removed, and the id is a string. */
export type Entry = { customerId: string; fields: EntryFields };

/** A field as partners see it: its property in the body, its maximum length, and its texts in the API's document. */
type FieldProperty = { property: string; maxLength: number; description: string; example: string };

const FREE_TEXT = 'Any text. The format is not checked.';

export const FIELD_PROPERTIES = {
  email: { property: 'customerEmail', maxLength: 320, description: FREE_TEXT, example: 'jane@example.com' },
  phone: { property: 'customerPhone', maxLength: 64, description: FREE_TEXT, example: '+41 44 668 18 00' },
  firstName: { property: 'customerFirstName', maxLength: 255, description: 'Any text.', example: 'Jane' },
  lastName: { property: 'customerLastName', maxLength: 255, description: 'Any text.', example: 'Doe' },
  ip: { property: 'customerIP', maxLength: 64, description: FREE_TEXT, example: '203.0.113.7' },
} as const satisfies Record<Field, FieldProperty>;

type Property = (typeof FIELD_PROPERTIES)[Field]['property'];

const toText = (maxLength: number) => ({ type: 'string', nullable: true, maxLength, storable: true }) as const;

/** The body of POST /entry. Properties that are not listed are ignored. */
export const entrySchema = {
  type: 'object',
  required: ['customerId'],
  properties: {
    customerId: {
      type: ['string', 'integer'],
      minLength: 1,
      maxLength: MAX_CUSTOMER_ID_LENGTH,
      minimum: Number.MIN_SAFE_INTEGER,
      maximum: Number.MAX_SAFE_INTEGER,
      storable: true,
    },
    ...(Object.fromEntries(
      Object.values(FIELD_PROPERTIES).map(({ property, maxLength }) => [property, toText(maxLength)]),
    ) as Record<Property, ReturnType<typeof toText>>),
  },
} as const;

/** An element of the body of POST /entries/receipts. */
export const askedReceiptSchema = {
  type: 'object',
  required: ['customerId', 'receipt'],
  properties: { customerId: entrySchema.properties.customerId, receipt: { type: 'string' } },
} as const;

export const NOT_STORABLE = 'must not contain U+0000 or unpaired surrogates';

// Without the meta-schema of JSON Schema, which takes Ajv 50 ms to compile. Ajv still throws for unknown keywords.
const ajv = new Ajv({ allowUnionTypes: true, meta: false, validateSchema: false });
// `maxLength` and `storable` generate code instead of calling a function for each text. In a busy ingress, this halves
// the cost of parsing and validation.
ajv.removeKeyword('maxLength').addKeyword({
  keyword: 'maxLength',
  type: 'string',
  schemaType: 'number',
  // Counts characters only if the text could be too long: a character is one or two code units.
  code(context: KeywordCxt) {
    const { data, schema } = context;
    context.fail(_`${data}.length > ${schema} && (${data}.length > ${2 * schema} || [...${data}].length > ${schema})`);
  },
  error: { message: ({ schema }) => `must NOT have more than ${schema} characters` },
});
ajv.addKeyword({
  keyword: 'storable',
  type: 'string',
  // PostgreSQL's text type can store neither: U+0000 ends a C string, and an unpaired surrogate has no UTF-8 form.
  code: (context: KeywordCxt) => context.fail(_`${context.data}.includes('\\0') || !${context.data}.isWellFormed()`),
  error: { message: NOT_STORABLE },
});
const isCustomerId = ajv.compile<string>(entrySchema.properties.customerId);
const isAskedReceipt = ajv.compile<{ customerId: string | number; receipt: string }>(askedReceiptSchema);
const isEntryBody = ajv.compile<{ customerId: string | number } & Record<string, unknown>>(entrySchema);

/** Validates a parsed JSON body. @throws Fault BODY_INVALID, whose message names the first invalid property */
export function parseEntry(body: unknown): Entry {
  if (!isEntryBody(body)) throw new Fault('BODY_INVALID', { message: toMessage('body', isEntryBody.errors?.[0]) });
  const fields: EntryFields = {};
  for (const [property, field] of FIELD_ENTRIES) {
    const value = body[property];
    if (typeof value === 'string' && value !== '' && Object.hasOwn(body, property)) fields[field] = value;
  }
  if (fields.email === undefined && fields.phone === undefined) {
    throw new Fault('BODY_INVALID', {
      message: "body must have either required property 'customerEmail' or 'customerPhone'",
    });
  }
  return { customerId: String(body.customerId), fields };
}

/** Validates a customer id from a path, percent-decoded, by the rules of the body. @throws Fault PATH_INVALID */
export function parseCustomerId(customerId: unknown): string {
  if (isCustomerId(customerId)) return customerId;
  throw new Fault('PATH_INVALID', { message: toMessage('path/customerId', isCustomerId.errors?.[0]) });
}

/**
 * Validates an element of the body of POST /entries/receipts.
 * @throws Fault BODY_INVALID, whose message names the element, counted from 0, and its first invalid property
 */
export function parseAskedReceipt(element: unknown, place: number): { customerId: string; receipt: Receipt } {
  const what = `body/${place}`;
  if (!isAskedReceipt(element)) {
    throw new Fault('BODY_INVALID', { message: toMessage(what, isAskedReceipt.errors?.[0]) });
  }
  const customerId = String(element.customerId);
  const receipt = parseReceipt(element.receipt, customerId);
  if (!receipt) throw new Fault('BODY_INVALID', { message: `${what}/receipt must be a receipt of this customer` });
  return { customerId, receipt };
}

/** Pairs of a body's property and the customer's field, in the order of the schema. */
export const FIELD_ENTRIES = FIELDS.map((field): [Property, Field] => [FIELD_PROPERTIES[field].property, field]);

function toMessage(what: string, error: ErrorObject | undefined): string {
  return `${what}${error?.instancePath ?? ''} ${error?.message ?? 'is invalid'}`;
}

/**
 * The body of GET /entry/{customerId}. It has every property of a customer; those without a value are null. `refused`,
 * of `RefusedEntry`, is absent if it is empty.
 */
export type CustomerAnswer = {
  statusCode: 200;
  customer: { customerId: string; createdAt: Date | null; updatedAt: Date | null; [property: string]: unknown };
  pending: boolean;
  refused?: object[];
};

type Stored = Record<Field, string | null> & { createdAt: Date; updatedAt: Date };

/** @param stored the customer's row; undefined if no entry of the customer is persisted yet */
export function toCustomerAnswer(
  customerId: string,
  stored: Stored | undefined,
  pending: boolean,
  refused: object[] = [],
): CustomerAnswer {
  return {
    statusCode: 200,
    customer: {
      customerId,
      ...Object.fromEntries(FIELD_ENTRIES.map(([property, field]) => [property, stored?.[field] ?? null])),
      createdAt: stored?.createdAt ?? null,
      updatedAt: stored?.updatedAt ?? null,
    },
    pending,
    ...(refused.length > 0 && { refused }),
  };
}

/**
 * Parses JSON. Arrays and objects nested deeper than `depth` may come back empty: no entry uses what they contain, and
 * V8 would take longer for arrays in arrays than the ingress takes for valid entries of the same size. An empty body
 * is undefined.
 * @throws Fault BODY_MALFORMED
 */
export function parseJson(body: Buffer | undefined, depth = 1): unknown {
  if (!body || body.length === 0) return undefined;
  if (!isUtf8(body)) throw new Fault('BODY_MALFORMED'); // decoding would replace the invalid bytes with U+FFFD
  try {
    return JSON.parse((body.includes(OPEN_ARRAY, 1) ? emptyNested(body, depth) : body).toString());
  } catch {
    throw new Fault('BODY_MALFORMED');
  }
}

const OPEN_ARRAY = 0x5b;

/**
 * Reads the header Idempotency-Key. Most clients send the key bare; the IETF draft requires quotes. Both forms are
 * the same key.
 * @param values one per occurrence of the header
 * @throws Fault IDEMPOTENCY_KEY_INVALID or IDEMPOTENCY_KEY_REPEATED
 */
export function parseIdempotencyKey(values: string[]): string {
  if (values.length > 1) throw new Fault('IDEMPOTENCY_KEY_REPEATED');
  const [value = ''] = values;
  const key = value.startsWith('"') ? QUOTED.exec(value)?.[1]?.replaceAll(/\\(.)/g, '$1') : value;
  if (key === undefined || !IDEMPOTENCY_KEY.test(key)) throw new Fault('IDEMPOTENCY_KEY_INVALID');
  return key;
}

/** An idempotency key, without quotes. */
export const IDEMPOTENCY_KEY = /^[!-~]{1,255}$/;

/** A string of RFC 9651 (structured fields): only `"` and `\` are escaped. */
const QUOTED = /^"((?:[^"\\]|\\["\\])*)"$/;
