import { fileURLToPath } from 'node:url';
import { Fault } from '@opm/contract';
import type { RequestHandler } from 'express';
import type { Measures } from './measures.js';
import { requestIdOf } from './request-id.js';

/** Beside this file once it is built: made by tools/build-docs.mjs. */
const FOLDER = fileURLToPath(new URL('./docs/', import.meta.url));

/** Of a file as it is, and as it is compressed. */
const ENDINGS: Record<string, string> = { br: '.br', gzip: '.gz', identity: '' };

const TYPES: Record<string, string> = {
  html: 'text/html; charset=utf-8',
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
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
  'x-content-type-options': 'nosniff',
  vary: 'accept-encoding',
};

/** GET /docs: the page that shows the OpenAPI document, and its files. They are streamed from the disk, as they lie there. */
export function getDocs({ measures }: { measures: Pick<Measures, 'onAnswer'> }): RequestHandler {
  return (request, response, next) => {
    const { file = 'index.html' } = request.params as { file?: string };
    const type = TYPES[/^[\w.]+\.(\w+)$/.exec(file)?.[1] ?? ''];
    if (!type) throw new Fault('ROUTE_UNKNOWN');
    const accepted = request.acceptsEncodings();
    const encoding = ['br', 'gzip'].find((name) => accepted.includes(name)) ?? 'identity';
    const headers = {
      ...HEADERS,
      'x-request-id': requestIdOf(response),
      'content-type': type,
      'cache-control': file === 'index.html' ? 'no-cache' : 'public, max-age=31536000, immutable',
      ...(encoding !== 'identity' && { 'content-encoding': encoding }),
    };
    const options = { root: FOLDER, headers, cacheControl: false, lastModified: false, acceptRanges: false };
    response.sendFile(`${file}${ENDINGS[encoding]}`, options, (error) => {
      if (!error) return measures.onAnswer(request.route.path, response.statusCode);
      if (response.headersSent) return response.destroy();
      for (const name of response.getHeaderNames()) response.removeHeader(name);
      next(new Fault('ROUTE_UNKNOWN', { cause: error }));
    });
  };
}
