/** A row of the table. */
export type Row = {
  customerId: string;
  email: string | null;
  phone: string | null;
  firstName: string | null;
  lastName: string | null;
  ip: string | null;
};

const MAX_ID_LENGTH = 255;

const FIELDS = [
  ['customerEmail', 'email', 320],
  ['customerPhone', 'phone', 64],
  ['customerFirstName', 'firstName', 255],
  ['customerLastName', 'lastName', 255],
  ['customerIP', 'ip', 64],
] as const;

export const PROPERTIES = ['customerId', ...FIELDS.map(([property]) => property)] as const;

/** The longest value of each property, in characters. */
export const LIMITS: [property: string, maxLength: number][] = [
  ['customerId', MAX_ID_LENGTH],
  ...FIELDS.map(([property, , maxLength]): [string, number] => [property, maxLength]),
];

/**
 * An independent implementation of the partner guide: the row that a body gives a new customer, or undefined if it is
 * refused.
 */
export function toRow(body: Uint8Array): Row | undefined {
  return body.length <= 16 * 1024 ? valueToRow(parse(body)) : undefined;
}

/** The same for a parsed body. */
export function valueToRow(value: unknown): Row | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  const given = new Map<string, unknown>(Object.entries(value));

  const id = given.get('customerId');
  const customerId = Number.isSafeInteger(id) ? String(id) : id;
  if (!isText(customerId, MAX_ID_LENGTH) || customerId === '') return undefined;

  const row: Row = { customerId, email: null, phone: null, firstName: null, lastName: null, ip: null };
  for (const [property, column, maxLength] of FIELDS) {
    const text = given.get(property) ?? '';
    if (!isText(text, maxLength)) return undefined;
    row[column] = text || null;
  }
  return row.email || row.phone ? row : undefined;
}

/** Returns undefined if the body is not JSON in UTF-8. */
export function parse(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(body));
  } catch {
    return undefined;
  }
}

/** PostgreSQL's text type holds neither U+0000 nor unpaired surrogates. */
function isText(value: unknown, maxLength: number): value is string {
  return typeof value === 'string' && [...value].length <= maxLength && !/\0|\p{Cs}/u.test(value);
}
