import { expect } from '@jest/globals';
import { toOpenApiDocument } from '@opm/contract';
import { createContractCheck, type Exchange } from '@opm/testkit';

export type Answer = { status: number; requestId: string | undefined; text: string; headers: Map<string, string> };

const check = createContractCheck(toOpenApiDocument({ version: '0.0.0' }));

export const isAccepted = ({ status }: Answer) => status === 201 || status === 202;

/** @throws Error if the answer is not in the OpenAPI document, for this request or, without one, for any */
export function checkDocumented({ status, headers, text }: Answer, request?: Exchange['request']): void {
  check({ status, headers, body: text, ...(request && { request }) });
}

/** It is documented, and not 5xx: nothing that a client sends is our fault. */
export function expectDocumented(answer: Answer): void {
  checkDocumented(answer);
  const { status, text } = answer;
  expect(status).toBeLessThan(500);
  if (status !== 207 || text === '') return;
  const { accepted, rejected, results } = JSON.parse(text) as { results: { statusCode: number }[] } & Record<
    string,
    number
  >;
  const statuses = results.map(({ statusCode }) => statusCode);
  expect(statuses.filter((code) => code >= 500)).toEqual([]);
  expect(accepted).toBe(statuses.filter((code) => code < 300).length);
  expect(rejected).toBe(statuses.filter((code) => code >= 300).length);
}

/**
 * Splits what has come over a connection, read as latin1. `rest` is the beginning of an answer that is not whole yet.
 * @param isHead whether these are answers to HEAD, which have no body
 */
export function parseAnswers(text: string, { isHead = false } = {}): { answers: Answer[]; rest: string } {
  const answers: Answer[] = [];
  let rest = text;
  for (;;) {
    const end = rest.indexOf('\r\n\r\n') + 4;
    const head = rest.slice(0, end);
    const length = isHead ? 0 : Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1] ?? 0);
    if (end < 4 || rest.length < end + length) return { answers, rest };
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(head)?.[1]);
    const headers = new Map(
      Array.from(head.matchAll(/\r\n([^:\r]+): (.*)/g), ([, name = '', value = '']) => [name.toLowerCase(), value]),
    );
    const body = rest.slice(end, end + length);
    if (status !== 100) answers.push({ status, requestId: headers.get('x-request-id'), headers, text: body });
    rest = rest.slice(end + length);
  }
}
