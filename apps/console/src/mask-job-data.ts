import { parseChunk } from '@opm/queue';

/** Stands where a value was. */
export const MASK = '•••';

const SHORTEST_ID_WITH_A_HINT = 6;

/**
 * Shows what a developer needs of a job, entry by entry (project, versions, which fields were given), and nothing personal.
 * What isn't exactly a chunk is masked whole: old and broken data may hold a value anywhere.
 */
export function maskJobData(data: unknown): unknown {
  const chunk = readChunk(data);
  if (!chunk) return MASK;
  const entries = chunk.entries.map(({ projectId, customerId, version, fields, erase }) => ({
    projectId,
    customerId: maskCustomerId(customerId),
    version,
    ...(fields && { fields: Object.fromEntries(Object.keys(fields).map((name) => [name, MASK])) }),
    ...(erase && { erase }),
  }));
  return { entries };
}

function readChunk(data: unknown) {
  try {
    return parseChunk(data);
  } catch {
    return undefined;
  }
}

/** The first two characters tell neighbours apart; of a short id they would be most of it. */
function maskCustomerId(customerId: string): string {
  const characters = [...customerId];
  return characters.length < SHORTEST_ID_WITH_A_HINT ? MASK : `${characters.slice(0, 2).join('')}${MASK}`;
}
