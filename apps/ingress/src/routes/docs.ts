import { hash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { extname } from 'node:path';
import { Fault, toOpenApiDocument } from '@opm/contract';
import type { RequestHandler, Response } from 'express';
import { requestIdOf } from '../http/reply.js';
import type { IngressMetrics } from '../metrics.js';

/** The files that tools/build-docs.mjs puts beside the built version of this file. */
const FOLDER = new URL('../docs/', import.meta.url);

/** File name suffixes by content encoding. */
const ENDINGS: Record<string, string> = { br: '.br', gzip: '.gz', identity: '' };

const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
};

/** The viewer writes inline styles; everything else comes from this server. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const HEADERS = {
  'content-security-policy': POLICY,
  'cross-origin-opener-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  vary: 'accept-encoding',
};

/** GET /docs and its files: the page that shows the OpenAPI document. All files are read at the start. */
export function getDocs({ metrics }: { metrics: Pick<IngressMetrics, 'onAnswer'> }): RequestHandler {
  const files = new Map(readdirSync(FOLDER).map((name) => [name, toFile(readFileSync(new URL(name, FOLDER)))]));
  return (request, response) => {
    const { file = 'index.html' } = request.params as { file?: string };
    const accepted = request.acceptsEncodings();
    const encoding = ['br', 'gzip'].find((name) => accepted.includes(name)) ?? 'identity';
    const type = TYPES[extname(file)];
    const found = files.get(`${file}${ENDINGS[encoding]}`);
    if (!type || !found) throw new Fault('ROUTE_UNKNOWN');
    sendFile(response, found, {
      ...HEADERS,
      'content-type': type,
      'cache-control': file === 'index.html' ? 'no-cache' : 'public, max-age=31536000, immutable',
      ...(encoding !== 'identity' && { 'content-encoding': encoding }),
    });
    metrics.onAnswer(request.route.path, response.statusCode);
  };
}

const OPENAPI_HEADERS = { 'content-type': 'application/json; charset=utf-8', 'cache-control': 'public, max-age=300' };

/** GET /openapi.json: the OpenAPI document of this API. */
export function getOpenApi({ metrics }: { metrics: Pick<IngressMetrics, 'onAnswer'> }): RequestHandler {
  const file = toFile(Buffer.from(JSON.stringify(toOpenApiDocument({ version: readVersion() }))));
  return (request, response) => {
    sendFile(response, file, OPENAPI_HEADERS);
    metrics.onAnswer(request.route.path, response.statusCode);
  };
}

function readVersion(): string {
  return JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version;
}

/**
 * A file whose buffer all responses share. Many slow clients may request it without a key, so it must not be copied.
 */
type SharedFile = { bytes: Buffer; etag: string };

/**
 * A larger answer closes its connection. A socket rarely takes it in one write, and until the client has read it, all
 * pipelined requests behind it would wait in memory.
 */
const MAX_BYTES_KEPT_ALIVE = 64 * 1024;

function toFile(bytes: Buffer): SharedFile {
  return { bytes, etag: `"${hash('sha256', bytes, 'base64url')}"` };
}

/** Sends the file, or 304 if the client has the same version. */
function sendFile(response: Response, { bytes, etag }: SharedFile, headers: Record<string, string>): void {
  response.set({ 'x-request-id': requestIdOf(response), 'x-content-type-options': 'nosniff', etag, ...headers });
  if (bytes.length > MAX_BYTES_KEPT_ALIVE) response.set('connection', 'close');
  response.send(bytes);
}
