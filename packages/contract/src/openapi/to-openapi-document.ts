import { FAULTS, type FaultCode, retryAfterOf } from '../faults.js';
import { LIMITS } from '../limits.js';
import { HEADERS, type HeaderName, PARAMETERS } from './headers.js';
import {
  deleteEntry,
  getPing,
  type Operation,
  postEntries,
  postEntry,
  postReceipts,
  type Success,
} from './operations.js';
import { getEntry, getKeys, getReceipt, getRefused, getUsage, toReadSchemas } from './reads.js';
import {
  groupByStatus,
  type Json,
  type Mistakes,
  toAnswerSchema,
  toFaultExamples,
  toFaultSchema,
  toSchemas,
} from './schemas.js';

const DESCRIPTION = `
Send us customers, one or many per request. We answer as soon as the entry is stored safely in a queue, usually
within a few milliseconds, and write it to our database shortly afterwards.

**Merging.** We merge each entry field by field into the stored customer. A field with a value replaces the stored
value. A field that is omitted, \`null\` or \`""\` keeps it. If several entries set the same field, the entry that
we accepted last wins.

**Retries.** Send an entry again after a timeout, a lost connection, a 408, a 429, a 500 or a 503. That is safe unless
you have sent something newer of the same customer: without an \`idempotency-key\`, a repeat counts as your newest
entry. Wait for the seconds in \`retry-after\`. Without that header, wait a second, and double the wait each time, up to
a minute, with some randomness. Do not repeat a request that got another 4xx, because the answer will be the same.

**Idempotency.** An \`idempotency-key\` stands for one request for 24 hours: the method, the path and the entries,
however they are spelled. A repeat of an accepted request gets the first answer, with \`idempotent-replayed\`, and
does nothing: a created customer is a 201 again. If we failed between accepting and answering, the repeat keeps the
place in time of the first attempt, so it never replaces anything newer; its 201 may be a 202. If a batch has results
503 or 429, a repeat of the whole batch tries only these entries again. Another request with the key gets 422.

**Rate limits.** Your project may have a rate limit: a burst of entries, and a rate per second. An entry above the
limit gets a 429 and is not accepted.

**Errors** are JSON with \`statusCode\`, \`error\` and \`message\`. An unknown path is a 404. A method that the path
does not support is a 405 with the header \`allow\`.

**Request ids.** Every answer has the header \`x-request-id\`. Send us its value if you ask us about a request.
`.trim();

const KEY = `
Your API key: \`opm_\` followed by 36 letters and digits. It identifies your project. Treat it like a password: keep
it on your servers, out of web pages, apps and logs, and send it only over HTTPS.`.trim();

const OPERATIONS: Operation[] = [
  ...[postEntry, postEntries, getReceipt, postReceipts, getRefused, getEntry, deleteEntry, getPing, getKeys, getUsage],
];

/** Faults that any request with a key may cause. */
const COMMON_FAULTS = [
  'HTTP_INVALID',
  'KEY_MISSING',
  'KEY_UNKNOWN',
  'PROJECT_PAUSED',
  'KEY_ADDRESS',
  'REQUEST_TOO_SLOW',
  'TOO_MANY_UNKNOWN_KEYS',
  'HEADERS_TOO_LARGE',
  'HEADERS_TOO_MANY',
  'INTERNAL',
  'KEYS_UNAVAILABLE',
] as const satisfies FaultCode[];

/** Faults of requests that match no operation. */
const OTHER_FAULTS: FaultCode[] = [...COMMON_FAULTS, 'PATH_MALFORMED', 'ROUTE_UNKNOWN', 'METHOD_NOT_ALLOWED'];

/**
 * Builds the OpenAPI 3.1 document of the partners' API from the schemas that validate requests and the texts of the
 * answers.
 * @param version the version of this program
 */
export function toOpenApiDocument({ version }: { version: string }): Json {
  const document = {
    openapi: '3.1.0',
    info: { title: 'OPM Partners API', version, description: DESCRIPTION },
    servers: [{ url: '/' }],
    security: [{ apiKey: [] }],
    tags: [
      { name: 'API key', description: 'Check that your key works, and list your keys.' },
      {
        name: 'Entries',
        description: `Send data about customers, one entry at a time or up to ${LIMITS.batchEntries}.`,
      },
      { name: 'Customers', description: 'Read a stored customer, or erase it.' },
      { name: 'Usage', description: 'Count your entries.' },
    ],
    paths: toPaths(),
    'x-other-requests': {
      description: 'Requests that match no operation of this document, or that cannot be read.',
      responses: toFaultResponses(OTHER_FAULTS),
    },
    components: {
      securitySchemes: { apiKey: { type: 'apiKey', in: 'header', name: 'x-api-key', description: KEY } },
      parameters: PARAMETERS,
      headers: HEADERS,
      schemas: { ...toSchemas(), ...toReadSchemas() },
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

function toOperation({
  path,
  operationId,
  tag,
  summary,
  description,
  parameters,
  requestBody,
  ...answers
}: Operation): Json {
  return {
    operationId,
    tags: [tag],
    summary,
    description,
    parameters: parameters.map((name) => ({ $ref: `#/components/parameters/${name}` })),
    ...(requestBody && { requestBody }),
    responses: toResponses({
      ...answers,
      faults: [...(path === '/ping' ? [] : (['KEY_SCOPE'] as const)), ...answers.faults],
    }),
  };
}

const EVERY_ANSWER: HeaderName[] = ['x-request-id', 'cache-control', 'x-content-type-options'];

const MEANING: Record<number, string> = {
  400: 'The request is invalid; the message says why. Correct it before you send it again.',
  401: 'The key is missing, wrong, revoked or expired. It is checked first, on every path.',
  403: 'The key is valid, but must not be used for this, or from here, or at the moment.',
  404: 'There is nothing at this path.',
  405: 'The path does not support this method.',
  408: 'The request took too long to arrive. Send it again.',
  413: 'The body is too large. Send less at once.',
  415: 'The body is declared as a form, or is compressed neither with gzip nor with deflate. We read it as JSON under any other content type.',
  422: 'The idempotency key stands for another request: another method, path or entries. Spelling does not count. Use a new key.',
  429: 'Too many requests or entries in a short time. Send the request again after the seconds in `retry-after`.',
  431: 'The headers are too large or too many. Send smaller or fewer headers.',
  500: 'Something went wrong on our side. Send the request again. If the error persists, tell us the request id.',
  503: 'Temporarily not possible. Send the request again after the seconds in `retry-after`.',
};

/**
 * Responses that operations share, by name. An operation that adds a fault to a status has its own response instead.
 */
function toCommonResponses(): Json {
  return Object.fromEntries(groupByStatus(COMMON_FAULTS).map((codes) => [toName(codes), toFaultResponse(codes)]));
}

function toResponses(
  operation: Pick<
    Operation,
    'successes' | 'faults' | 'optionalHeaders' | 'replayedFaults' | 'faultProperties' | 'mistakes'
  >,
): Json {
  const { successes, faults, optionalHeaders = [], replayedFaults, ...ofFaults } = operation;
  const ofReplayed: HeaderName[] = replayedFaults ? ['idempotent-replayed', ...optionalHeaders] : optionalHeaders;
  return {
    ...Object.fromEntries(successes.map((success) => toSuccess(success, ofReplayed))),
    ...toFaultResponses(
      [...COMMON_FAULTS, ...faults],
      (codes) => (codes.some((code) => replayedFaults?.includes(code)) ? ofReplayed : optionalHeaders),
      ofFaults,
    ),
  };
}

/** Responses by status. `toOptionalHeaders` applies to responses that are not shared. */
function toFaultResponses(
  faults: readonly FaultCode[],
  toOptionalHeaders: (codes: FaultCode[]) => HeaderName[] = () => [],
  { faultProperties = {}, mistakes }: Pick<Operation, 'faultProperties' | 'mistakes'> = {},
): Json {
  const common = new Map(groupByStatus(COMMON_FAULTS).map((codes) => [codes.join(), toName(codes)]));
  return Object.fromEntries(
    groupByStatus(faults).map((codes) => {
      const name = common.get(codes.join());
      return [
        statusOf(codes),
        name
          ? { $ref: `#/components/responses/${name}` }
          : toFaultResponse(codes, toOptionalHeaders(codes), faultProperties[statusOf(codes)], mistakes),
      ];
    }),
  );
}

function toSuccess(success: Success, optionalHeaders: HeaderName[]): [number, Json] {
  const { description, headers = [] } = success;
  const optional = [...optionalHeaders, ...(success.optionalHeaders ?? [])];
  const [statusCode, schema, examples] =
    'answer' in success
      ? [
          success.answer.statusCode,
          toAnswerSchema(success.answer),
          { [success.answer.message]: { value: success.answer } },
        ]
      : [success.statusCode, success.schema, success.examples];
  const content = { 'application/json': { schema, examples } };
  return [statusCode, { description, headers: toHeaders(headers, optional), content }];
}

function toFaultResponse(
  codes: FaultCode[],
  optionalHeaders: HeaderName[] = [],
  properties?: Json,
  mistakes?: Mistakes,
): Json {
  const statusCode = statusOf(codes);
  const headers: HeaderName[] = [
    ...(codes.every((code) => retryAfterOf(code) > 0) ? (['retry-after'] as const) : []),
    ...(codes.includes('METHOD_NOT_ALLOWED') ? (['allow'] as const) : []),
  ];
  const content = {
    'application/json': { schema: toFaultSchema(codes, properties), examples: toFaultExamples(codes, mistakes) },
  };
  const optional: HeaderName[] = codes.includes('BODY_COMPRESSED') ? ['accept-encoding'] : [];
  const description = MEANING[statusCode] ?? FAULTS[codes[0] as FaultCode].error;
  return { description, headers: toHeaders(headers, [...optional, ...optionalHeaders]), content };
}

function toHeaders(names: HeaderName[], optional: HeaderName[]): Json {
  const all = [...EVERY_ANSWER, ...names];
  return {
    ...Object.fromEntries(all.map((name) => [name, { $ref: `#/components/headers/${name}` }])),
    ...Object.fromEntries(optional.map((name) => [name, { ...HEADERS[name], required: false }])),
  };
}

/** The name of a shared response, such as `Unauthorized`. */
function toName([first]: FaultCode[]): string {
  return FAULTS[first as FaultCode].error.replaceAll(' ', '');
}

function statusOf([first]: FaultCode[]): number {
  return FAULTS[first as FaultCode].statusCode;
}
