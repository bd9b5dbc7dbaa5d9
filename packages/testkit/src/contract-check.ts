import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import { ingressOrigins } from './start-app.js';

/** An answer as the client gets it; header names are in lower case. */
export interface Exchange {
  status: number;
  headers: ReadonlyMap<string, string>;
  body: string;
  /** The request; if missing, the answer may be that of any operation. */
  request?: { method: string; path: string };
}

/**
 * Compares an answer with the OpenAPI document.
 * @throws Error that names the differences if the document does not have the answer
 */
export type ContractCheck = (exchange: Exchange) => void;

type Ref = { $ref: string };
type Schema = Record<string, unknown>;
type Header = { required?: boolean; schema: Schema };
type Response = { headers?: Record<string, Header | Ref>; content: Record<string, { schema: Schema }> };
type Responses = Record<string, Response | Ref>;
type Document = {
  paths: Record<string, Record<string, { responses: Responses }>>;
  'x-other-requests': { responses: Responses };
  components: Schema;
};
type Operation = { method: string; path: RegExp; responses: Responses };

/** Headers of HTTP itself, which no contract lists. */
const TRANSPORT = ['connection', 'content-length', 'content-type', 'date', 'keep-alive', 'transfer-encoding'];

/** @param openApi the OpenAPI 3.1 document; `x-other-requests` holds the answers to requests outside its operations */
export function createContractCheck(openApi: object): ContractCheck {
  const document = openApi as Document;
  const ajv = new Ajv2020({ strict: false, coerceTypes: false });
  formats.default(ajv);
  const operations = toOperations(document);
  const others = document['x-other-requests'].responses;
  const validators = new Map<Schema, ValidateFunction>();

  function findErrors(schema: Schema, value: unknown): string[] {
    const validate = validators.get(schema) ?? ajv.compile({ ...schema, components: document.components });
    validators.set(schema, validate);
    return validate(value) ? [] : [ajv.errorsText(validate.errors)];
  }

  function resolve<T>(part: T | Ref): T {
    if (!(typeof part === 'object' && part !== null && '$ref' in part)) return part as T;
    const keys = (part as Ref).$ref.replace('#/', '').split('/');
    return keys.reduce<unknown>((value, key) => (value as Schema)[key], document) as T;
  }

  function findMismatches(response: Response, { headers, body, request }: Exchange): string[] {
    const isHead = request?.method === 'HEAD';
    const [type = ''] = (headers.get('content-type') ?? '').split(';');
    const content = response.content[type];
    if (!content) return [`content-type ${type}`];
    const inBody = isHead ? [] : findErrors(content.schema, parse(body)).map((text) => `body: ${text}`);
    return [...findHeaderMismatches(response, headers), ...inBody];
  }

  function findHeaderMismatches(response: Response, headers: Exchange['headers']): string[] {
    const known = new Map(Object.entries(response.headers ?? {}).map(([name, it]) => [name, resolve(it)]));
    const unknown = [...headers.keys()].filter((name) => !known.has(name) && !TRANSPORT.includes(name));
    const wrong = [...known].flatMap(([name, { required, schema }]) => {
      const value = headers.get(name);
      if (value === undefined) return required ? [`header ${name} is missing`] : [];
      const given = schema.type === 'integer' ? Number(value) : value;
      return findErrors(schema, given).map((text) => `header ${name}: ${text}`);
    });
    return [...unknown.map((name) => `header ${name} is not listed`), ...wrong];
  }

  function candidates({ request }: Exchange): Responses[] {
    if (!request) return [...operations.map(({ responses }) => responses), others];
    const method = request.method === 'HEAD' ? 'GET' : request.method;
    const operation = operations.find((it) => it.method === method && it.path.test(request.path));
    return [operation?.responses ?? others];
  }

  return (exchange) => {
    const responses = candidates(exchange).flatMap((it) => it[exchange.status] ?? []);
    const mismatches = responses.map((response) => findMismatches(resolve(response), exchange));
    if (mismatches.some((found) => found.length === 0)) return;
    const { method, path } = exchange.request ?? { method: 'any', path: 'request' };
    const reasons = mismatches.length > 0 ? mismatches.map((found) => found.join('; ')) : ['no such status'];
    throw new Error(
      `an answer to ${method} ${path} is not in the OpenAPI document: ${exchange.status} ${exchange.body.slice(0, 1_000)}\n` +
        [...new Set(reasons)].join('\n'),
    );
  };
}

/** Matches paths as Express does: in any case, and with a trailing slash. */
function toOperations({ paths }: Document): Operation[] {
  return Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { responses }]) => ({
      method: method.toUpperCase(),
      path: new RegExp(`^${path.replaceAll(/\{\w+\}/g, '[^/]+')}/?$`, 'i'),
      responses,
    })),
  );
}

/** Returns a body that is not JSON as text, which no schema allows. */
function parse(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return body;
  }
}

/** The description of the API does not describe its own routes. */
const DESCRIPTION = /^\/(openapi\.json|docs)\b/;

/** Makes `fetch` reject if an ingress of `startApp` gives an answer that fails the check. */
export function checkFetch(check: ContractCheck): void {
  const { fetch } = globalThis;
  globalThis.fetch = async (input, init) => {
    const response = await fetch(input, init);
    const { origin, pathname } = new URL(input instanceof Request ? input.url : input);
    const isGiven = response.ok || response.status === 304;
    if (!ingressOrigins.has(origin) || (isGiven && DESCRIPTION.test(pathname))) return response;
    check({
      request: { method: init?.method ?? 'GET', path: pathname },
      status: response.status,
      headers: new Map(response.headers),
      body: await response.clone().text(),
    });
    return response;
  };
}
