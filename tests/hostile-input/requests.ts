/** A request with these headers, as it goes over the wire in latin1. A body needs its length among the headers. */
export function toRequest(startLine: string, headers: string[], body = ''): string {
  return `${[`${startLine} HTTP/1.1`, 'host: test', ...headers].join('\r\n')}\r\n\r\n${body}`;
}

export function toEntryRequest(apiKey: string, customerId: string, headers: string[] = []): string {
  const body = JSON.stringify({ customerId, customerPhone: '1' });
  return toRequest('POST /entry', [`x-api-key: ${apiKey}`, `content-length: ${body.length}`, ...headers], body);
}
