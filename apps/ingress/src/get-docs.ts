import { readdirSync, readFileSync } from 'node:fs';
import { extname } from 'node:path';
import { Fault } from '@opm/contract';
import type { RequestHandler } from 'express';
import type { Measures } from './measures.js';
import { sendFile, toFile } from './send-file.js';

/** Beside this file once it is built: made by tools/build-docs.mjs. */
const FOLDER = new URL('./docs/', import.meta.url);

/** Of a file as it is, and as it is compressed. */
const ENDINGS: Record<string, string> = { br: '.br', gzip: '.gz', identity: '' };

const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
};

/** The viewer writes its styles into the page; all else comes from files of ours. */
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

/** GET /docs: the page that shows the OpenAPI document, and its files. Each is read once. */
export function getDocs({ measures }: { measures: Pick<Measures, 'onAnswer'> }): RequestHandler {
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
    measures.onAnswer(request.route.path, response.statusCode);
  };
}
