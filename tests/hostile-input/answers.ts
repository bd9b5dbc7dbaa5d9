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
    const { head, end } = measurePart(rest, isHead);
    if (rest.length < end) return { answers, rest };
    const headers = new Map(
      Array.from(head.matchAll(/\r\n([^:\r]+): (.*)/g), ([, name = '', value = '']) => [name.toLowerCase(), value]),
    );
    const status = statusOf(head);
    const body = rest.slice(head.length, end);
    if (status !== 100) answers.push({ status, requestId: headers.get('x-request-id'), headers, text: body });
    rest = rest.slice(end);
  }
}

/** The head of what the text begins with, an answer or a 100, and where its body ends: nowhere yet, if the head is not whole. */
function measurePart(text: string, isHead: boolean): { head: string; end: number } {
  const headEnd = text.indexOf('\r\n\r\n') + 4;
  if (headEnd < 4) return { head: '', end: Number.POSITIVE_INFINITY };
  const head = text.slice(0, headEnd);
  const length = isHead ? 0 : Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1] ?? 0);
  return { head, end: headEnd + length };
}

const statusOf = (head: string): number => Number(/^HTTP\/1\.1 (\d{3}) /.exec(head)?.[1]);

/** Where the first answer ends, with a 100 before it, and whether the connection goes on after it. */
export function measureAnswer(text: string, isHead: boolean): { end: number; isKeptAlive: boolean } {
  const { head, end } = measurePart(text, isHead);
  if (statusOf(head) !== 100) return { end, isKeptAlive: !/\r\nconnection: close\r/i.test(head) };
  const next = measureAnswer(text.slice(end), isHead);
  return { ...next, end: end + next.end };
}
