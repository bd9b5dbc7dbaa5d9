const KIB = 1024;

/** Limits of one request: sizes in bytes, and counts. */
export const LIMITS = {
  entryBytes: 16 * KIB,
  batchBytes: 1024 * KIB,
  batchEntries: 1_000,
  headers: 100,
  /** Maximum number of days in one answer of GET /usage, and their number without a query. */
  days: 400,
  defaultDays: 30,
  /**
   * Each HTTP chunk costs time, however small. So a body may have at most `smallChunks` of them with fewer bytes than
   * this. A client that sends each line of a batch as a chunk stays above it.
   */
  smallChunkBytes: 32,
  smallChunks: 256,
} as const;

/** Formats a whole number of KiB or MiB, such as `16 KiB`. */
export function toSize(bytes: number): string {
  return bytes % KIB ** 2 === 0 ? `${bytes / KIB ** 2} MiB` : `${bytes / KIB} KiB`;
}

/** Form of a caller's request id that we accept. */
export const REQUEST_ID = /^[\w.:~+/=-]{1,128}$/;
