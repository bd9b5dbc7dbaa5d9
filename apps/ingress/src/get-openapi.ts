import { readFileSync } from 'node:fs';
import { toOpenApiDocument } from '@opm/contract';
import type { RequestHandler } from 'express';
import type { Measures } from './measures.js';
import { sendFile, toFile } from './send-file.js';

const HEADERS = { 'content-type': 'application/json; charset=utf-8', 'cache-control': 'public, max-age=300' };

/** GET /openapi.json: what this API is, as a document. */
export function getOpenApi({ measures }: { measures: Pick<Measures, 'onAnswer'> }): RequestHandler {
  const file = toFile(Buffer.from(JSON.stringify(toOpenApiDocument({ version: readVersion() }))));
  return (request, response) => {
    sendFile(response, file, HEADERS);
    measures.onAnswer(request.route.path, response.statusCode);
  };
}

function readVersion(): string {
  return JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')).version;
}
