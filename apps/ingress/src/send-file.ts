import { hash } from 'node:crypto';
import type { Response } from 'express';
import { requestIdOf } from './request-id.js';

/** What is the same for all who ask, and shared by them: they may be many, and slow to read, and none needs a key. */
export type SharedFile = { bytes: Buffer; etag: string };

/**
 * An answer of more than that ends its connection. Sockets hardly ever take it as a whole, and until it has been read, all that
 * comes behind it over the connection would wait in memory.
 */
const MAX_BYTES_KEPT_ALIVE = 64 * 1024;

export function toFile(bytes: Buffer): SharedFile {
  return { bytes, etag: `"${hash('sha256', bytes, 'base64url')}"` };
}

/** Or says that it has not changed. */
export function sendFile(response: Response, { bytes, etag }: SharedFile, headers: Record<string, string>): void {
  response.set({ 'x-request-id': requestIdOf(response), 'x-content-type-options': 'nosniff', etag, ...headers });
  if (bytes.length > MAX_BYTES_KEPT_ALIVE) response.set('connection', 'close');
  response.send(bytes);
}
