const KIB = 1024;

/** How much a partner may send at once. */
export const LIMITS = {
  entryBytes: 16 * KIB,
  batchBytes: 1024 * KIB,
  batchEntries: 1_000,
  headers: 100,
  /** HTTP chunks with fewer bytes than that: so many in a body at most. An entry in a line has more bytes. */
  smallChunkBytes: 32,
  smallChunks: 256,
} as const;

/** Whole units, such as `16 KiB`. */
export function toSize(bytes: number): string {
  return bytes % KIB ** 2 === 0 ? `${bytes / KIB ** 2} MiB` : `${bytes / KIB} KiB`;
}
