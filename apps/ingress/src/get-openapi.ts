import { readFileSync } from 'node:fs';
import { toOpenApiDocument } from '@opm/contract';
import type { RequestHandler } from 'express';
import type { Reply } from './reply.js';

/** GET /openapi.json: what this API is, as a document. */
export function getOpenApi({ reply }: { reply: Reply }): RequestHandler {
  const body = JSON.stringify(toOpenApiDocument({ version: readVersion() }));
  return (_request, response) => {
    response.setHeader('cache-control', 'public, max-age=300');
    reply.json(response, 200, body);
  };
}

function readVersion(): string {
  return JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')).version;
}
