import type { FaultCode } from '../faults.js';
import { LIMITS } from '../limits.js';
import { deleteEntry } from './delete-entry.js';
import { getEntry } from './get-entry.js';
import { getPing } from './get-ping.js';
import { HEADERS, PARAMETERS } from './headers.js';
import type { Operation } from './operation.js';
import { postEntries } from './post-entries.js';
import { postEntry } from './post-entry.js';
import { toSchemas } from './schemas.js';
import { COMMON_FAULTS, toCommonResponses, toFaultResponses, toResponses } from './to-responses.js';

/** An OpenAPI document, or a part of one. */
export type Json = { [property: string]: unknown };

const DESCRIPTION = `
Send us customers, one per request or many. We answer as soon as the entry is stored safely in a queue, usually within a
few milliseconds, and write it to our database shortly after.

**Merging.** An entry is merged field by field into what we know of the customer: a field that you give replaces the stored
value, a field that you leave out, or give as \`null\` or \`""\`, keeps it. When several entries give the same field, the one
that we accepted last wins.

**Retries.** It is safe to send any entry again: after a timeout, a lost connection, a 408, a 409, a 429, a 500 or a 503. Wait
for as long as \`retry-after\` says; where there is no such header, start with a second and double it each time, up to a
minute, with some randomness. Do not repeat another 4xx: it will be the same again. With an \`idempotency-key\` the repeat of
a request that did something gets the first answer, and changes nothing: a customer that was created is 201 again. Only where
we failed before we could answer may a repeat count as the first request. Every other answer frees the key. Of a batch with
a 503 or a 429 in it, send only those entries again, with a new key.

**Rate limits.** Your project may have a limit of entries, a burst and a rate. What is above it is a 429, and nothing is done
with it.

**Errors** are JSON with \`statusCode\`, \`error\` and \`message\`. A path that is not listed here is a 404, a method that its path
does not have a 405 with the header \`allow\`.

**Request ids.** Every answer has a header \`x-request-id\`. Name it when you ask us about a request.
`.trim();

const KEY = `
The API key that you were given: \`opm_\` followed by 36 letters and digits. It stands for your project. Treat it as a
password: keep it on your servers, out of web pages, apps and logs, and send it over HTTPS only.`.trim();

const OPERATIONS: Operation[] = [postEntry, postEntries, getEntry, deleteEntry, getPing];

/** What may come of requests that are none of the operations. */
const OTHER_FAULTS: FaultCode[] = [...COMMON_FAULTS, 'PATH_MALFORMED', 'ROUTE_UNKNOWN', 'METHOD_NOT_ALLOWED'];

/**
 * The OpenAPI 3.1 document of the partners' API, made of the schemas that validate, and of the texts that are answered.
 * @param version of the program
 */
export function toOpenApiDocument({ version }: { version: string }): Json {
  const document = {
    openapi: '3.1.0',
    info: { title: 'OPM Partners API', version, description: DESCRIPTION },
    servers: [{ url: '/' }],
    security: [{ apiKey: [] }],
    tags: [
      { name: 'API key', description: 'Check that your key works.' },
      { name: 'Entries', description: `What you tell us of customers, one at a time or up to ${LIMITS.batchEntries}.` },
      { name: 'Customers', description: 'What we have stored of a customer: read it back, or have it erased.' },
    ],
    paths: toPaths(),
    'x-other-requests': {
      description: 'Requests that are no operation of this document, or that cannot be read.',
      responses: toFaultResponses(OTHER_FAULTS),
    },
    components: {
      securitySchemes: { apiKey: { type: 'apiKey', in: 'header', name: 'x-api-key', description: KEY } },
      parameters: PARAMETERS,
      headers: HEADERS,
      schemas: toSchemas(),
      responses: toCommonResponses(),
    },
  };
  return JSON.parse(JSON.stringify(document)); // examples hold dates
}

function toPaths(): Json {
  const paths: Record<string, Json> = {};
  for (const operation of OPERATIONS) {
    paths[operation.path] = { ...paths[operation.path], [operation.method]: toOperation(operation) };
  }
  return paths;
}

function toOperation({ operationId, tag, summary, description, parameters, requestBody, ...answers }: Operation): Json {
  return {
    operationId,
    tags: [tag],
    summary,
    description,
    parameters: parameters.map((name) => ({ $ref: `#/components/parameters/${name}` })),
    ...(requestBody && { requestBody }),
    responses: toResponses(answers),
  };
}
