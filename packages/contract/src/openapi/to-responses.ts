import type { Answer } from '../answers.js';
import { FAULTS, type FaultCode, retryAfterOf } from '../faults.js';
import { groupByStatus, toFaultExamples, toFaultSchema } from './fault-schema.js';
import { HEADERS, type HeaderName } from './headers.js';
import type { Operation } from './operation.js';
import { toAnswerSchema } from './schemas.js';
import type { Json } from './to-openapi-document.js';

/** A success as an operation gives it. */
export type Success = {
  description: string;
  /** Besides those that every answer has. `optional` ones may be missing. */
  headers?: HeaderName[];
  optionalHeaders?: HeaderName[];
} & ({ answer: Answer } | { statusCode: number; schema: Json; examples: Json });

/** What may come of any request that has a key. */
export const COMMON_FAULTS = [
  'HTTP_INVALID',
  'KEY_MISSING',
  'KEY_UNKNOWN',
  'REQUEST_TOO_SLOW',
  'TOO_MANY_UNKNOWN_KEYS',
  'HEADERS_TOO_LARGE',
  'HEADERS_TOO_MANY',
  'INTERNAL',
  'KEYS_UNAVAILABLE',
] as const satisfies FaultCode[];

const EVERY_ANSWER: HeaderName[] = ['x-request-id', 'cache-control', 'x-content-type-options'];

const MEANING: Record<number, string> = {
  400: 'Something is wrong with the request; the message says what. Correct it before you send it again.',
  401: 'The key is missing, wrong, revoked or expired. It is checked first, on every path.',
  404: 'There is nothing here.',
  405: 'The path does not have this method.',
  408: 'The request took too long to arrive. Send it again.',
  409: 'The first request with this idempotency key is still under way. Send it again after the seconds in `retry-after`.',
  413: 'Too much at once. Send less.',
  415: 'The body is declared as a form, or is compressed. Under any other content type it is read as JSON.',
  422: 'The idempotency key belongs to another request, which is under way or did something. Take a new one.',
  429: 'Too much in a short time. Send it again after the seconds in `retry-after`.',
  431: 'The headers are too large, or too many. Send smaller or fewer ones.',
  500: 'Something went wrong on our side. Send it again; tell us the request id if it persists.',
  503: 'Not possible just now. Sending it again is safe, after the seconds in `retry-after`.',
};

/** Responses of operations that add no fault to a status, by the name that these refer to them with. */
export function toCommonResponses(): Json {
  return Object.fromEntries(groupByStatus(COMMON_FAULTS).map((codes) => [toName(codes), toFaultResponse(codes)]));
}

export function toResponses(
  operation: Pick<Operation, 'successes' | 'faults' | 'optionalHeaders' | 'replayedFaults'>,
): Json {
  const { successes, faults, optionalHeaders = [], replayedFaults } = operation;
  const ofReplayed: HeaderName[] = replayedFaults ? ['idempotent-replayed', ...optionalHeaders] : optionalHeaders;
  return {
    ...Object.fromEntries(successes.map((success) => toSuccess(success, ofReplayed))),
    ...toFaultResponses([...COMMON_FAULTS, ...faults], (codes) =>
      codes.some((code) => replayedFaults?.includes(code)) ? ofReplayed : optionalHeaders,
    ),
  };
}

/** By status. The headers are those of what is not common. */
export function toFaultResponses(
  faults: readonly FaultCode[],
  toOptionalHeaders: (codes: FaultCode[]) => HeaderName[] = () => [],
): Json {
  const common = new Map(groupByStatus(COMMON_FAULTS).map((codes) => [codes.join(), toName(codes)]));
  return Object.fromEntries(
    groupByStatus(faults).map((codes) => {
      const name = common.get(codes.join());
      return [
        statusOf(codes),
        name ? { $ref: `#/components/responses/${name}` } : toFaultResponse(codes, toOptionalHeaders(codes)),
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

function toFaultResponse(codes: FaultCode[], optionalHeaders: HeaderName[] = []): Json {
  const statusCode = statusOf(codes);
  const headers: HeaderName[] = [
    ...(codes.every((code) => retryAfterOf(code) > 0) ? (['retry-after'] as const) : []),
    ...(codes.includes('METHOD_NOT_ALLOWED') ? (['allow'] as const) : []),
  ];
  const content = { 'application/json': { schema: toFaultSchema(codes), examples: toFaultExamples(codes) } };
  const description = MEANING[statusCode] ?? FAULTS[codes[0] as FaultCode].error;
  return { description, headers: toHeaders(headers, optionalHeaders), content };
}

function toHeaders(names: HeaderName[], optional: HeaderName[]): Json {
  const all = [...EVERY_ANSWER, ...names];
  return {
    ...Object.fromEntries(all.map((name) => [name, { $ref: `#/components/headers/${name}` }])),
    ...Object.fromEntries(optional.map((name) => [name, { ...HEADERS[name], required: false }])),
  };
}

/** Such as `Unauthorized`. */
function toName([first]: FaultCode[]): string {
  return FAULTS[first as FaultCode].error.replaceAll(' ', '');
}

function statusOf([first]: FaultCode[]): number {
  return FAULTS[first as FaultCode].statusCode;
}
