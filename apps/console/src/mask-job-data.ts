/** Stands where a value was. */
export const MASK = '•••';

const CHUNK_KEYS = new Set(['v', 'projectId', 'entries']);
const ENTRY_KEYS = new Set(['customerId', 'version', 'fields', 'erase']);
const FIELD_NAMES = new Set(['email', 'phone', 'firstName', 'lastName', 'ip']);
const SHORTEST_ID_WITH_A_HINT = 6;

/**
 * Shows what a developer needs of a job (project, entries, versions, which fields were given) and nothing personal.
 * What isn't exactly a chunk, or an entry in it, is masked whole: old and broken data may hold a value anywhere.
 */
export function maskJobData(data: unknown): unknown {
  if (!isRecord(data) || !hasOnlyKeys(data, CHUNK_KEYS)) return MASK;
  const { v, projectId, entries } = data;
  if (v !== 1 || !Number.isSafeInteger(projectId) || !Array.isArray(entries)) return MASK;
  return { v, projectId, entries: entries.map(maskEntry) };
}

function maskEntry(entry: unknown): unknown {
  if (!isRecord(entry) || !hasOnlyKeys(entry, ENTRY_KEYS)) return MASK;
  const { customerId, version, fields, erase } = entry;
  if (typeof customerId !== 'string' || !Number.isSafeInteger(version)) return MASK;
  if (erase !== undefined && erase !== true) return MASK;
  if (fields !== undefined && !(isRecord(fields) && hasOnlyKeys(fields, FIELD_NAMES))) return MASK;
  return {
    customerId: maskCustomerId(customerId),
    version,
    ...(fields && { fields: Object.fromEntries(Object.keys(fields).map((name) => [name, MASK])) }),
    ...(erase && { erase }),
  };
}

/** The first two characters tell neighbours apart; of a short id they would be most of it. */
function maskCustomerId(customerId: string): string {
  const characters = [...customerId];
  return characters.length < SHORTEST_ID_WITH_A_HINT ? MASK : `${characters.slice(0, 2).join('')}${MASK}`;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function hasOnlyKeys(record: Record<string, unknown>, allowed: ReadonlySet<string>): boolean {
  return Object.keys(record).every((key) => allowed.has(key));
}
