import { describe, expect, test } from '@jest/globals';
import { createContractCheck, type Exchange } from './contract-check.js';

const toResponse = (properties: object, headers = {}) => ({
  headers: { 'x-id': { $ref: '#/components/headers/x-id' }, ...headers },
  content: {
    'application/json': { schema: { type: 'object', required: ['n'], properties, additionalProperties: false } },
  },
});
const check = createContractCheck({
  paths: {
    '/thing/{id}': {
      get: {
        responses: {
          200: toResponse({ n: { $ref: '#/components/schemas/N' } }, { wait: { schema: { type: 'integer' } } }),
          404: { $ref: '#/components/responses/Gone' },
        },
      },
    },
  },
  'x-other-requests': { responses: { 405: toResponse({ n: { const: 405 } }) } },
  components: {
    headers: { 'x-id': { required: true, schema: { type: 'string', pattern: '^a+$' } } },
    responses: { Gone: toResponse({ n: { const: 404 } }) },
    schemas: { N: { type: 'integer', minimum: 1 } },
  },
});

const GET = { method: 'GET', path: '/thing/7' };
const good: Exchange = {
  request: GET,
  status: 200,
  headers: new Map([
    ['x-id', 'aa'],
    ['content-type', 'application/json; charset=utf-8'],
    ['content-length', '7'],
  ]),
  body: '{"n":1}',
};
const withHeader = (name: string, value: string) => ({ headers: new Map([...good.headers, [name, value]]) });

describe('a documented answer passes:', () => {
  test.each<[string, Partial<Exchange>]>([
    ['unchanged', {}],
    ['with an optional header', withHeader('wait', '5')],
    ['with a response that is a reference', { status: 404, body: '{"n":404}' }],
    ['to HEAD, without a body', { request: { ...GET, method: 'HEAD' }, body: '' }],
    ['to the path in capitals', { request: { ...GET, path: '/THING/7/' } }],
    ['to another method', { request: { ...GET, method: 'PUT' }, status: 405, body: '{"n":405}' }],
    ['to another path', { request: { ...GET, path: '/thing/7/8' }, status: 405, body: '{"n":405}' }],
    ['to an unknown request', { request: undefined, status: 405, body: '{"n":405}' }],
  ])('%s', (_, change) => {
    check({ ...good, ...change } as Exchange);
  });
});

describe('an undocumented answer throws and names the difference:', () => {
  test.each<[string, Partial<Exchange>, RegExp]>([
    ['its status', { status: 500 }, /GET \/thing\/7 is not in the OpenAPI document: 500 .*\nno such status/],
    ['a status of other requests', { status: 405, body: '{"n":405}' }, /no such status/],
    ['a property that is not listed', { body: '{"n":1,"m":1}' }, /body: data must NOT have additional properties/],
    ['a value', { body: '{"n":0}' }, /body: data\/n must be >= 1/],
    ['a body that is not JSON', { body: 'n' }, /body: data must be object/],
    ['an empty body', { body: '' }, /body: data must be object/],
    ['a type', withHeader('content-type', 'text/html'), /content-type text\/html/],
    ['a header that is not listed', withHeader('server', 'x'), /header server is not listed/],
    ['a header that is missing', { headers: new Map([...good.headers].slice(1)) }, /header x-id is missing/],
    ['a header’s text', withHeader('x-id', 'b'), /header x-id: data must match pattern/],
    ['a header’s number', withHeader('wait', '5s'), /header wait: data must be integer/],
    [
      'an answer to an unknown request',
      { request: undefined, status: 404 },
      /any request is not in .*\nbody: data\/n must be equal/s,
    ],
  ])('%s', (_, change, message) => {
    expect(() => check({ ...good, ...change } as Exchange)).toThrow(message);
  });
});
