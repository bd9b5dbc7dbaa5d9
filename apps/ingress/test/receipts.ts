import { FIELDS, type Field, parseReceipt, type Receipt } from '@opm/core';
import { type Backend, query } from '@opm/testkit';

/** The versions that wrote each field of a row, and its last erasure; 0 if there is none. */
export type RowVersions = Record<Field | 'erased', number>;

const NONE = { ...Object.fromEntries(FIELDS.map((field) => [field, 0])), erased: 0 } as RowVersions;
const COLUMNS = 'email_version, phone_version, first_name_version, last_name_version, ip_version, erased_version';

/** @throws Error if it is not a receipt of this customer */
export function toReceiptOf(customerId: string, receipt: unknown): Receipt {
  const parsed = parseReceipt(String(receipt), customerId);
  if (!parsed) throw new Error(`${receipt} is not a receipt of ${customerId}`);
  return parsed;
}

/** The versions of a customer's row if exactly the entries and erasures with these receipts are stored. */
export function toRowVersions(customerId: string, receipts: unknown[]): RowVersions {
  const all = receipts.map((receipt) => toReceiptOf(customerId, receipt)).sort((a, b) => a.version - b.version);
  const row = { ...NONE };
  for (const { version, fields } of all) {
    if (fields.length === 0) Object.assign(row, NONE, { erased: version });
    for (const field of fields) row[field] = version;
  }
  return row;
}

/** All zero if the customer has no row. */
export async function readRowVersions(
  { databaseUrl }: Pick<Backend, 'databaseUrl'>,
  { projectId, customerId }: { projectId: number; customerId: string },
): Promise<RowVersions> {
  const text = `SELECT ARRAY[${COLUMNS}]::float8[] AS versions FROM customers WHERE project_id = $1 AND customer_id = $2`;
  const [row] = await query<{ versions: number[] }>(databaseUrl, text, [projectId, customerId]);
  return row
    ? (Object.fromEntries([...FIELDS, 'erased'].map((name, i) => [name, row.versions[i]])) as RowVersions)
    : NONE;
}
